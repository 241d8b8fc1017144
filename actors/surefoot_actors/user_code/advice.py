"""What to do about errors that come of code written for another launcher: a table of how each is known and what is said."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from surefoot.errors import ContractError
from surefoot_actors.user_code import places
from surefoot_actors.user_code.absent import say_absent, text_of
from surefoot_actors.user_code.lines import raised_line

__all__ = ["advice", "refuse_wrapper", "told_exit", "with_advice"]

_PLAIN_MODEL = "Surefoot merges gradients itself: track the plain model and leave {wrapper} out"
_NO_GROUP = (
    "a trainer has no process group of torch.distributed and no rank, since workers come and go: Surefoot merges gradients and logged "
    "values itself. Leave out init_process_group, get_rank and collectives; code for one process is what a trainer runs"
)
_ENVIRONMENT = frozenset(
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID"}
)
# Packages that drive training themselves, by a file of theirs in the traceback.
_LAUNCHERS = {
    "lightning": "Lightning's Trainer",
    "pytorch_lightning": "Lightning's Trainer",
    "accelerate": "accelerate's Accelerator",
    "deepspeed": "DeepSpeed",
    "horovod": "Horovod",
    "transformers/trainer": "transformers' Trainer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One kind of error, as it is recognized."""

    # whether this is it: the error, and the files of its traceback that come after the user's last, outermost first
    is_it: Callable[[BaseException, list[str]], bool]
    say: Callable[[BaseException, list[str]], str]


def _by_arguments(error: BaseException, files: list[str]) -> bool:
    parsers = ("/argparse.py", "/click/core.py", "/absl/app.py", "/absl/flags/_flagvalues.py", "/fire/core.py")
    return isinstance(error, SystemExit) and error.code not in (0, None) and any(f.endswith(parsers) for f in files)


def _by_group(error: BaseException, files: list[str]) -> bool:
    words = ("Default process group has not been initialized", "using env:// rendezvous", "init_process_group")
    return isinstance(error, ValueError | RuntimeError) and any(word in text_of(error) for word in words)


def _by_address(error: BaseException, files: list[str]) -> bool:
    return any("/torch/distributed/" in file for file in files) and "EADDRINUSE" in text_of(error)


def _wrapper(files: list[str]) -> str:
    """The class whose construction raised, if it is one that wraps a model."""
    named = {"/torch/nn/parallel/distributed.py": "DDP", "/torch/distributed/fsdp/": "FSDP"}
    return next((name for part, name in named.items() if any(part in file for file in files)), "")


def _by_sampler(error: BaseException, files: list[str]) -> bool:
    return any(file.endswith("/torch/utils/data/distributed.py") for file in files)


def _by_environment(error: BaseException, files: list[str]) -> bool:
    return isinstance(error, KeyError) and any(isinstance(name, str) and name in _ENVIRONMENT for name in error.args)


def _by_spawn(error: BaseException, files: list[str]) -> bool:
    return any(file.endswith("/torch/multiprocessing/spawn.py") for file in files)


def _launcher(files: list[str]) -> str:
    for part, name in _LAUNCHERS.items():
        if any(f"/{part}/" in file or file.endswith(f"/{part}.py") for file in files):
            return name
    return ""


def _by_no_steps(error: BaseException, files: list[str]) -> bool:
    return (
        isinstance(error, ContractError)
        and "without calling run.steps()" in text_of(error)
        and bool(_loaded_launcher())
    )


def _loaded_launcher() -> str:
    return next((name for part, name in _LAUNCHERS.items() if part.replace("/", ".") in sys.modules), "")


_OWN_LOOP = "Surefoot starts the trainers and gives them their batches: train the plain model in `for step in run.steps(n)`, without {name}"

_TABLE = (
    _Case(
        is_it=_by_arguments,
        say=lambda error, files: (
            "the program's arguments were refused: a trainer is started without any (sys.argv is the script alone), so give every "
            "argument a default, and read what differs from run.config (`--set KEY=VALUE` of surefoot submit, config= of the SDK)"
        ),
    ),
    _Case(
        is_it=_by_sampler,
        say=lambda error, files: (
            "Surefoot draws the samples itself and gives each trainer its own: leave DistributedSampler out, and iterate over "
            "step.batches(dataset)"
        ),
    ),
    _Case(
        is_it=lambda error, files: (
            bool(_wrapper(files)) and isinstance(error, Exception) and not isinstance(error, ContractError)
        ),
        say=lambda error, files: _PLAIN_MODEL.format(wrapper=_wrapper(files)),
    ),
    _Case(
        is_it=lambda error, files: bool(_launcher(files)) and not isinstance(error, ContractError),
        say=lambda error, files: _OWN_LOOP.format(name=_launcher(files)),
    ),
    _Case(is_it=_by_no_steps, say=lambda error, files: _OWN_LOOP.format(name=_loaded_launcher())),
    _Case(is_it=_by_spawn, say=lambda error, files: _OWN_LOOP.format(name="torch.multiprocessing.spawn")),
    _Case(is_it=_by_group, say=lambda error, files: _NO_GROUP),
    _Case(is_it=_by_address, say=lambda error, files: _NO_GROUP),
    _Case(
        is_it=_by_environment,
        say=lambda error, files: f"torchrun sets {getattr(error, 'args', ('',))[0]}; {_NO_GROUP}",
    ),
)


def advice(error: BaseException, left_out: Mapping[str, str] | None = None) -> str:
    """Say what to do about an error that user code raised; empty where nothing is known.

    `left_out`: what is not in the package, in a trainer; None where there is no package, as in `run_local`.
    """
    files = _called(error)
    for case in _TABLE:
        if case.is_it(error, files):
            return case.say(error, files)
    return "" if left_out is None else say_absent(error, left_out)


def _called(error: BaseException) -> list[str]:
    """The files of what the user's code called, in the traceback."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = max((n for n, file in enumerate(files) if places.is_users(file)), default=-1)
    return files[last + 1 :]


def with_advice(error: BaseException, left_out: Mapping[str, str] | None = None) -> str:
    """Return the error's message, and the advice after it."""
    said = advice(error, left_out)
    message = _ended(error.code) if isinstance(error, SystemExit) else text_of(error)
    return f"{message}: {said}" if said and message else message or said


def told_exit(error: BaseException) -> BaseException:
    """Name what code that ends the process did, and what it should do; return any other error as it is."""
    if not isinstance(error, SystemExit):
        return error
    line = raised_line(error)
    said = advice(error)
    if said:
        return ContractError(f"{line}: {said}").with_traceback(error.__traceback__)
    return ContractError(
        f"the training code called sys.exit({error.code!r}) at {line}: a trainer cannot end like that, as others go on; let the train "
        "function return after the loop over run.steps(), or raise an error to fail the job"
    ).with_traceback(error.__traceback__)


def _ended(code: object) -> str:
    told = f"with code {code or 0}" if isinstance(code, int | None) else f"saying {str(code)!r}"
    return f"the program ended itself {told}"


def refuse_wrapper(name: str, module: object) -> None:
    """Raise ContractError for a model that is wrapped for another way to train on several processes or devices."""
    kind = next(
        (
            c.__name__
            for c in type(module).__mro__
            if c.__module__.startswith(("torch.nn.parallel.", "torch.distributed."))
        ),
        "",
    )
    known = {"DistributedDataParallel": "DDP", "FullyShardedDataParallel": "FSDP", "FSDPModule": "fully_shard"}
    if kind in known or (kind == "DataParallel" and len(getattr(module, "device_ids", ())) > 1):
        wrapper = known.get(kind, kind)
        raise ContractError(f"{name} is a {kind}. {_PLAIN_MODEL.format(wrapper=wrapper)}")
