"""Weights & Biases: a run a job, whose id is the job's. Its key and its mode are those of the W&B settings, as for any other program."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.errors import MissingExtraError, SurefootError, UserError
from surefoot.events import LedgerRow
from surefoot.spec import JobState
from surefoot.trackers.about import About
from surefoot.trackers.names import Names
from surefoot.words import UnknownWord

__all__ = ["WandB"]

# W&B keeps what begins with _ for itself: _step, _timestamp.
_ALLOWED = re.compile(r"(?!_).{1,250}")
_OFFLINE = ("offline", "dryrun")


class WandB:
    """A run of a project.

    Online it goes on after the last step that the server has. Offline nobody can ask, and what a killed process has left may still
    be written to for a moment: there the run is begun anew, so that its folder holds every step once.
    """

    def __init__(self, project: str, job: About) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(f"W&B is not installed: pip install 'surefoot[wandb]' ({error})") from error
        entity, _, name = project.rpartition("/")
        self._names = Names(_ALLOWED)
        try:
            settings = wandb.setup().settings
            _check_mode(settings.mode)
            if settings.mode in _OFFLINE:
                _forget(Path(settings.wandb_dir), job.job)
            self._run: Any = wandb.init(
                entity=entity or None,
                project=name,
                id=job.job,
                name=job.title,
                config=job.document(),
                tags=["surefoot"],
                resume="allow",
                reinit="create_new",
                settings=_settings(wandb),
            )
        except wandb.errors.Error as error:
            raise SurefootError(f"W&B: {error}") from error
        self._last: int = self._run.starting_step - 1
        self.where = f"wandb sync {Path(self._run.dir).parent}" if self._run.offline else str(self._run.url)

    @property
    def renamed(self) -> Mapping[str, str]:
        return self._names.changed

    def last_step(self) -> int:
        return self._last

    def write(self, row: LedgerRow) -> bool:
        values = {self._names(name): value for name, value in row.result.values.items()}
        self._run.log({**values, "_timestamp": row.circumstances.at}, step=row.result.step, commit=True)
        self._last = row.result.step
        return True

    def flush(self) -> None:
        """W&B's own process has what was logged, and stores it when it likes."""

    def close(self, outcome: JobState | UnknownWord | None = None) -> None:
        self._run.finish(exit_code=1 if outcome in (JobState.FAILED, JobState.CANCELLED) else 0)


def _check_mode(mode: str) -> None:
    if mode in ("disabled", "shared"):
        raise UserError(f"W&B is {mode} here (WANDB_MODE, or `wandb {mode}`): it must be online or offline")


def _settings(wandb: Any) -> Any:
    """Nothing of this machine goes into the run, which is trained elsewhere."""
    quiet = {"console": "off", "silent": True, "save_code": False, "disable_git": True, "disable_job_creation": True}
    return wandb.Settings(**quiet, x_disable_stats=True, x_disable_meta=True, x_save_requirements=False)


def _forget(folder: Path, job: str) -> None:
    for left in folder.glob(f"offline-run-*-{job}"):
        # out of the way at once, whatever is still being written into it
        aside = left.rename(left.with_name(f".left-{left.name}"))
        shutil.rmtree(aside, ignore_errors=True)
