"""Refuses changes of a tracked module's structure at the line that makes them, while the loop is under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from surefoot.errors import ContractError
from surefoot_actors.user_code.lines import user_line

__all__ = ["REFUSED", "fixed_structure"]

REFUSED = (
    "A trainer that joins later runs only the code before run.steps(), so it would have another model. Make the change before "
    "run.steps(); while training, change values only: requires_grad, masks in buffers that are there from the start, parameter "
    "groups of the optimizer"
)


@contextmanager
def fixed_structure(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
    """Within, registering a parameter, buffer or part that is new to one of these modules raises ContractError.

    Torch calls these hooks for every module in the process. A value in the place of another of the same kind is no new one, but a
    parameter has to be the same object: an optimizer holds it.
    """
    names = {id(part): path for name, whole in modules for path, part in whole.named_modules(prefix=name)}

    def refuse(part: nn.Module, key: str, what: str) -> None:
        raise ContractError(
            f"{names[id(part)]}.{key} is a new {what} at {user_line(3)}, in the midst of training. {REFUSED}"
        )

    def parameter(part: nn.Module, key: str, value: Any) -> None:
        if id(part) in names and part._parameters.get(key) is not value:
            refuse(part, key, "parameter")

    def buffer(part: nn.Module, key: str, _value: Any) -> None:
        if id(part) in names and key not in part._buffers:
            refuse(part, key, "buffer")

    def inner(part: nn.Module, key: str, value: Any) -> None:
        if id(part) in names and part._modules.get(key) is not value:
            refuse(part, key, "part")

    with ExitStack() as hooks:
        hooks.enter_context(torch_module.register_module_parameter_registration_hook(parameter))
        hooks.enter_context(torch_module.register_module_buffer_registration_hook(buffer))
        hooks.enter_context(torch_module.register_module_module_registration_hook(inner))
        yield
