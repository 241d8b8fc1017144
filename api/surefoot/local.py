"""What a run in this process leaves: see `surefoot.run_local`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.errors import UserError
from surefoot.rows import LedgerRow

if TYPE_CHECKING:
    import torch

__all__ = ["LocalResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """What a local run leaves."""

    #: the ledger, a row a step
    rows: tuple[LedgerRow, ...]
    #: hex, of the tracked state after the last step
    digest: str
    #: the `state_dict` of each tracked module after the last step, copied, by the name it is tracked under
    models: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict, repr=False)
    #: the folder of what it wrote to `run.output_dir`; None: it never asked for that
    output_dir: Path | None = None
    #: the whole tracked state, if it was asked for by `keep_state`: for comparing bits
    state: Any = field(default=None, repr=False)

    @property
    def model(self) -> Mapping[str, torch.Tensor]:
        """The one tracked module's `state_dict`. Raises UserError where there are several, or none: `models` has them by name."""
        if len(self.models) != 1:
            raise UserError(f"{len(self.models)} modules are tracked ({', '.join(self.models)}): take one of `models`")
        return next(iter(self.models.values()))
