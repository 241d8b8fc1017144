"""What a job is: its spec, its states. The one schema that REST, SDK, CLI, store and actors share."""

from __future__ import annotations

import _imp
import json
import re
import sys
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from surefoot._compat import StrEnum

__all__ = [
    "CODE_FOLDER",
    "ENTRYPOINT",
    "MAX_LEFT_OUT",
    "CheckpointPolicy",
    "JobSpec",
    "JobState",
    "Resources",
    "named_file",
    "refused_module",
]

# "package.module:function", or, as one names a script, "scripts/train.py:function"
ENTRYPOINT = re.compile(r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|(?!.*\.\./)([\w.-]+/)*[\w-]+\.py):[A-Za-z_]\w*$")

# The folder, in the working directory that Ray gives a trainer, that holds the package: Ray puts the working directory before the
# standard library, where the user's `queue.py` would be imported by Ray itself.
CODE_FOLDER = "surefoot-code"

# So many names of what was left out of the package travel with a job.
MAX_LEFT_OUT = 100

MAX_PIP = 200
MAX_ENV = 500
MAX_ENV_VALUE_CHARS = 32_768
# how deep the config may be nested, and how large its whole numbers may be
MAX_CONFIG_DEPTH = 24
MAX_CONFIG_INT = 2**64

# Beside those built into the interpreter: imported before any code of a user's. Named, since it is the trainers' Python that counts: the
# one that submits may be an older one, in which fewer modules are frozen.
_EARLIER = frozenset(
    {"encodings", "sitecustomize", "usercustomize", "abc", "codecs", "io", "os", "runpy", "site", "stat", "zipimport"}
    | {"genericpath", "ntpath", "posixpath"}
)


def at_most(most: int) -> BeforeValidator:
    """Refuse a mapping of more entries before it looks at any: pydantic tells the errors of all of them otherwise."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise ValueError(f"there are {len(value)} entries; at most {most} are taken")
        return value

    return BeforeValidator(check)


def _plain(text: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError(f"{text!r} has control characters")
    return text


# text that ends up in paths, URLs and command lines
Plain = AfterValidator(_plain)


def named_file(entrypoint: str) -> str | None:
    """The file that an entrypoint names, as in "scripts/train.py:train"; None where it names a module."""
    where = entrypoint.partition(":")[0]
    return where if where.endswith(".py") else None


def refused_module(name: str) -> str | None:
    """Say why Python would never import a file of the user's by this name; None: it would."""
    top = name.partition(".")[0]
    if top in sys.builtin_module_names or _imp.is_frozen(top) or top in _EARLIER:
        return f"{top!r} is a module of Python's own that is there before any of yours, so `import {top}` never means {top}.py: rename it"
    return None


class JobState(StrEnum):
    """Where a job is in its life. The transitions are a table in the control plane (`surefoot_service.policy.lifecycle`)."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Strict(BaseModel):
    """What is taken in: frozen, and closed to fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _fields_are_few(cls, data: Any) -> Any:
        # pydantic would tell every one of a hundred thousand unknown fields
        if isinstance(data, dict) and len(data) > len(cls.model_fields) + _UNKNOWN_TOLD:
            raise ValueError(f"there are {len(data)} fields; it has {len(cls.model_fields)}")
        return data


# so many unknown fields are named
_UNKNOWN_TOLD = 20


class Resources(Strict):
    """What Ray reserves for one trainer."""

    cpus: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] = 1.0
    gpus: Annotated[float, Field(ge=0, le=64, allow_inf_nan=False)] = 0.0


class CheckpointPolicy(Strict):
    """When durable checkpoints are made, where, and which are kept. None of it changes a bit of the result."""

    # one after every so many steps; None: not by steps
    every_steps: Annotated[int, Field(ge=1, le=2**53)] | None = None
    # one at the first step boundary after every so many seconds; None: not by time
    every_s: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] | None = 300.0
    # how many of the newest are kept
    keep: Annotated[int, Field(ge=1, le=1000)] = 2
    # a logged value: the checkpoint of the step where it was best so far is kept as well
    best: Annotated[str, Field(min_length=1, max_length=200), Plain] | None = None
    best_mode: Literal["min", "max"] = "min"
    # a folder that every trainer's node sees, or any fsspec URL ("s3://bucket/runs"); None: where the service puts them
    url: Annotated[str, Field(min_length=1, max_length=1000), Plain] | None = None
    # whether the end of training is saved: a last checkpoint, and the modules as safetensors
    final: bool = True


class JobSpec(Strict):
    """Everything that defines a job. Two jobs with the same spec (but trainers) end with the same bytes."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w][\w .:-]*$")] = "job"
    # "module:function", importable from the root of the package; or "folder/script.py:function"
    entrypoint: Annotated[str, Field(max_length=300)]
    # sha256 (hex) of the uploaded code package
    package: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    # handed to the train function as run.config
    config: dict[str, JsonValue] = Field(default_factory=dict)
    # of everything random; with the config and the code it decides every bit of the result
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    # samples a step, over all sub-tasks; a multiple of sub_tasks
    batch_size: Annotated[int, Field(ge=1, le=2**31)]
    # V, fixed for the whole job
    sub_tasks: Annotated[int, Field(ge=1, le=4096)] = 8
    # trainers wanted now; a resize changes it between min_trainers and max_trainers
    trainers: Annotated[int, Field(ge=1, le=4096)] = 1
    min_trainers: Annotated[int, Field(ge=1, le=4096)] = 1
    # None: as many as there are sub-tasks
    max_trainers: Annotated[int, Field(ge=1, le=4096)] | None = None
    resources: Resources = Field(default_factory=Resources)
    # CPU threads a trainer computes with: part of the fingerprint, as sums depend on it
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    # background data-loading processes a trainer
    data_workers: Annotated[int, Field(ge=0, le=256)] = 0
    # trainers kept warm beside those that train, to join within a step of a loss
    spares: Annotated[int, Field(ge=0, le=64)] = 0
    # losses in a row without progress in between that are borne; one more fails the job. Trainers that are lost, fenced or refused are
    # counted within an attempt; whole attempts that are lost are counted for themselves. In a row are a trainer, what replaced it, what
    # replaced that, and so on: trainers that are lost together are one failure, however many. A new step or checkpoint resets the
    # count (a restarted supervisor too begins at 0): losses with progress in between never fail a job. Nor is a process group that
    # breaks a loss, but 21 of them without a step in between fail the job.
    max_failures: Annotated[int, Field(ge=0, le=10_000)] = 10
    checkpoint: CheckpointPolicy = Field(default_factory=CheckpointPolicy)
    # begin from this checkpoint, or from the newest one below this URL (another job's), instead of from step 0
    restore: Annotated[str, Field(min_length=1, max_length=2000), Plain] | None = None
    # pip requirements of the training code, installed by Ray's runtime environment
    pip: Annotated[tuple[Annotated[str, Field(max_length=300)], ...], Field(max_length=MAX_PIP, fail_fast=True)] = ()
    # environment of the trainers; shown to whoever may list jobs, so never secrets
    env: Annotated[
        dict[Annotated[str, Field(max_length=200)], Annotated[str, Field(max_length=MAX_ENV_VALUE_CHARS)]],
        Field(max_length=MAX_ENV),
        at_most(MAX_ENV),
    ] = Field(default_factory=dict)
    # what lay in the folder and is not in the package (not all of it, if it is much), and why: so that whoever misses it can say so
    left_out: Annotated[
        dict[Annotated[str, Field(max_length=500)], Annotated[str, Field(max_length=300)]],
        Field(max_length=MAX_LEFT_OUT),
        at_most(MAX_LEFT_OUT),
    ] = Field(default_factory=dict)

    @field_validator("entrypoint")
    @classmethod
    def _entrypoint_names_a_function(cls, value: str) -> str:
        if not ENTRYPOINT.fullmatch(value):
            raise ValueError(f'entrypoint {value!r} must look like "package.module:function"')
        return value

    @field_validator("pip")
    @classmethod
    def _requirements_say_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for requirement in value:
            if not requirement.strip() or any(ord(c) < 32 or ord(c) == 127 for c in requirement):
                raise ValueError(
                    f"{requirement!r} is no pip requirement: give one a line, such as 'einops==0.8', or leave it out"
                )
        return tuple(requirement.strip() for requirement in value)

    @field_validator("config")
    @classmethod
    def _config_is_plain_json(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        # What JSON cannot say (NaN, half a surrogate pair) would reach the trainers as something else, or not at all.
        try:
            _check_values(value)
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except ValueError as error:
            raise ValueError(f"config must be plain JSON, with finite numbers: {error}") from None
        return value

    @field_validator("env")
    @classmethod
    def _env_is_one(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not name or "=" in name or "\0" in name:
                raise ValueError(
                    f"{name!r} is no name of an environment variable: it must not be empty, nor have = or NUL"
                )
            if "\0" in text:
                raise ValueError(f"the value of {name!r} has a NUL; no environment can hold it")
        return value

    @model_validator(mode="after")
    def _numbers_agree(self) -> JobSpec:
        if self.batch_size % self.sub_tasks:
            low = self.batch_size - self.batch_size % self.sub_tasks
            near = " or ".join(str(b) for b in (low, low + self.sub_tasks) if b)
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of sub_tasks {self.sub_tasks}: "
                f"every sub-task takes an equal slice of the batch; try batch_size {near}"
            )
        top = self.most_trainers
        if top > self.sub_tasks:
            raise ValueError(
                f"max_trainers {top} is above sub_tasks {self.sub_tasks}: a trainer needs at least one sub-task; "
                f"raise sub_tasks (and keep it for the whole job) or lower max_trainers"
            )
        if self.min_trainers > top:
            raise ValueError(f"min_trainers {self.min_trainers} is above max_trainers {top}")
        if not self.min_trainers <= self.trainers <= top:
            raise ValueError(
                f"trainers {self.trainers} is not between min_trainers {self.min_trainers} and max_trainers {top}"
            )
        return self

    @property
    def most_trainers(self) -> int:
        """The upper bound of a resize."""
        return self.sub_tasks if self.max_trainers is None else self.max_trainers

    def identity(self) -> dict[str, Any]:
        """The part of the spec that decides the result's bytes."""
        return self.model_dump(
            mode="json", include={"entrypoint", "package", "config", "seed", "batch_size", "sub_tasks", "threads"}
        )


def _check_values(config: JsonValue) -> None:
    """Raise ValueError for values too deep or too large, looked at level by level."""
    level: list[JsonValue] = [config]
    for _ in range(MAX_CONFIG_DEPTH):
        inner: list[JsonValue] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, int) and abs(value) > MAX_CONFIG_INT:
                raise ValueError("whole numbers go up to 2**64")
        level = inner
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(f"it is nested more than {MAX_CONFIG_DEPTH} levels deep")
