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
    ValidationInfo,
    field_validator,
    model_validator,
)

from surefoot._compat import StrEnum
from surefoot.budget import Budget
from surefoot.data import MAX_DATA, AnyDataSource, check_names
from surefoot.secret_rules import MAX_SECRETS, check_variables, shown
from surefoot.target import parse_target

__all__ = [
    "CODE_FOLDER",
    "ENTRYPOINT",
    "MAX_LEFT_OUT",
    "CheckpointPolicy",
    "JobSpec",
    "JobState",
    "Resources",
    "StateName",
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


# a URL that whoever sees jobs sees
Shown = AfterValidator(lambda url, info: shown(url, info.context))


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


# the same as plain words, for whoever writes client.jobs(state="running")
StateName = Literal[
    "queued", "starting", "running", "recovering", "pausing", "paused", "succeeded", "failed", "cancelled"
]


class Strict(BaseModel):
    """What is taken in: frozen, and closed to fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

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
    """CPU cores that Ray reserves for one trainer; a part of a core is a fraction."""
    gpus: Annotated[float, Field(ge=0, le=64, allow_inf_nan=False)] = 0.0
    """GPUs that Ray reserves for one trainer; 0 is a trainer on the CPU."""


class CheckpointPolicy(Strict):
    """When durable checkpoints are made, where, and which are kept. None of it changes a bit of the result."""

    every_steps: Annotated[int, Field(ge=1, le=2**53)] | None = None
    """A checkpoint is made after every so many steps; null: not by steps."""
    every_s: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] | None = 300.0
    """A checkpoint is made at the first step boundary after every so many seconds; null: not by time."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 2
    """How many of the newest checkpoints are kept; older ones are removed."""
    best: Annotated[str, Field(min_length=1, max_length=200), Plain] | None = None
    """The name of a logged value: the checkpoint of the step where it was best so far is kept as well."""
    best_mode: Literal["min", "max"] = "min"
    """Whether the lowest or the highest value of `best` is the best one."""
    url: Annotated[str, Field(min_length=1, max_length=1000), Plain, Shown] | None = None
    """Where checkpoints lie: a folder that every trainer's node sees, or any fsspec URL ("s3://bucket/runs"). Null: where the service
    puts them."""
    final: bool = True
    """Whether the end of training is saved: a last checkpoint, and the modules as safetensors."""


class JobSpec(Strict):
    """Everything that defines a job. Two jobs with the same spec (but trainers) end with the same bytes."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w][\w .:-]*$")] = "job"
    """What people call the job; several jobs may have the same name."""
    entrypoint: Annotated[str, Field(max_length=300)]
    """The train function: "module:function", importable from the root of the package, or "folder/script.py:function"."""
    package: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The SHA-256, in hex, of the uploaded code package."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """Plain JSON with finite numbers, nested at most 24 levels deep: the train function finds it as `run.config`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The seed of everything random. With the config and the code it decides every bit of the result."""
    batch_size: Annotated[int, Field(ge=1, le=2**31)]
    """Samples a step, over all sub-tasks; a multiple of `sub_tasks`."""
    sub_tasks: Annotated[int, Field(ge=1, le=4096)] = 8
    """Into how many equal pieces a step's batch is divided. Fixed for the whole job; no job has more trainers than sub-tasks."""
    trainers: Annotated[int, Field(ge=1, le=4096)] = 1
    """How many trainers are wanted at the start. A resize changes it, between `min_trainers` and `max_trainers`."""
    min_trainers: Annotated[int, Field(ge=1, le=4096)] = 1
    """With how many trainers the job starts at the least, and the lower bound of a resize."""
    max_trainers: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The upper bound of a resize, at most `sub_tasks`. Null: as many as there are sub-tasks."""
    resources: Resources = Field(default_factory=Resources)
    """What Ray reserves for each trainer."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads that a trainer computes with. Sums depend on it, so it is a part of the fingerprint."""
    data_workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Background processes of each trainer that load data; 0: its training thread does."""
    spares: Annotated[int, Field(ge=0, le=64)] = 0
    """Trainers that are kept warm beside those that train, to join within a step of a loss."""
    max_failures: Annotated[int, Field(ge=0, le=10_000)] = 10
    """How many losses in a row, without progress in between, are borne; one more fails the job.

    Trainers that are lost, fenced or refused are counted within an attempt; whole attempts that are lost are counted for themselves.
    In a row are a trainer, what replaced it, what replaced that, and so on: trainers that are lost together are one failure, however
    many. A new step or checkpoint resets the count, and so does a restart of the supervisor: losses with progress in between never
    fail a job. A process group that breaks is no loss, but 21 of them without a step in between fail the job.
    """
    checkpoint: CheckpointPolicy = Field(default_factory=CheckpointPolicy)
    """When durable checkpoints are made, where, and which are kept."""
    restore: Annotated[str, Field(min_length=1, max_length=2000), Plain, Shown] | None = None
    """Begin from this checkpoint, or from the newest one below this URL (another job's), instead of from step 0."""
    target: Annotated[str, Field(max_length=300)] | None = None
    """End training at the first step whose merged values meet this, such as "accuracy>=0.97"; null: train to the last step."""
    budget: Budget = Field(default_factory=Budget)
    """What the job may cost, and for how long it may run: when it is spent, the job is paused."""
    pip: Annotated[tuple[Annotated[str, Field(max_length=300)], ...], Field(max_length=MAX_PIP, fail_fast=True)] = ()
    """Pip requirements of the training code, one an entry; Ray's runtime environment installs them."""
    env: Annotated[
        dict[Annotated[str, Field(max_length=200)], Annotated[str, Field(max_length=MAX_ENV_VALUE_CHARS)]],
        Field(max_length=MAX_ENV),
        at_most(MAX_ENV),
    ] = Field(default_factory=dict)
    """Environment variables of the trainers. Whoever may list jobs sees them, so never put secrets here: see `secrets`."""
    secrets: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=64)]],
        Field(max_length=MAX_SECRETS),
        at_most(MAX_SECRETS),
    ] = Field(default_factory=dict)
    """Secrets of the control plane that the training code finds in its environment: variable -> the secret's name. No value is here."""
    data: Annotated[dict[str, AnyDataSource], Field(max_length=MAX_DATA), at_most(MAX_DATA)] = Field(
        default_factory=dict
    )
    """Data that the train function finds as `run.data["NAME"]`: name -> where it lies, and whether nodes copy it; or just its URL."""
    left_out: Annotated[
        dict[Annotated[str, Field(max_length=500)], Annotated[str, Field(max_length=300)]],
        Field(max_length=MAX_LEFT_OUT),
        at_most(MAX_LEFT_OUT),
    ] = Field(default_factory=dict)
    """What lay in the folder and is not in the package (not all of it, if it is much), and why: so that whoever misses it can say so."""

    @field_validator("entrypoint")
    @classmethod
    def _entrypoint_names_a_function(cls, value: str) -> str:
        if not ENTRYPOINT.fullmatch(value):
            raise ValueError(f'entrypoint {value!r} must look like "package.module:function"')
        return value

    @field_validator("target")
    @classmethod
    def _target_is_a_comparison(cls, value: str | None) -> str | None:
        return None if value is None else str(parse_target(value))

    @field_validator("pip")
    @classmethod
    def _requirements_say_something(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for requirement in value:
            if not requirement.strip() or any(ord(c) < 32 or ord(c) == 127 for c in requirement):
                raise ValueError(
                    f"{requirement!r} is no pip requirement: give one a line, such as 'einops==0.8', or leave it out"
                )
        instead = "have pip's own settings on the nodes hold it, or the image bring the package"
        return tuple(shown(requirement.strip(), info.context, instead) for requirement in value)

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

    @field_validator("data")
    @classmethod
    def _data_has_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_names(value)
        return value

    @model_validator(mode="after")
    def _secrets_have_variables(self) -> JobSpec:
        check_variables(self.secrets)
        if both := sorted(self.env.keys() & self.secrets.keys()):
            raise ValueError(f"{both[0]} is given by env and by secrets: leave it out of one of them")
        return self

    @model_validator(mode="after")
    def _numbers_agree(self) -> JobSpec:
        if self.batch_size % self.sub_tasks:
            low = self.batch_size - self.batch_size % self.sub_tasks
            near = " or ".join(str(b) for b in (low, low + self.sub_tasks) if b)
            divisors = (n for n in range(1, min(self.batch_size, 4096) + 1) if not self.batch_size % n)
            fitting = min(divisors, key=lambda n: (abs(n - self.sub_tasks), -n))
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of sub_tasks {self.sub_tasks}: "
                f"every sub-task takes an equal slice of the batch; try batch_size {near}, or sub_tasks {fitting}"
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
        decides = {"entrypoint", "package", "config", "seed", "batch_size", "sub_tasks", "threads"}
        # where there is none, it is the identity of the versions that knew of none
        decides |= {"target"} if self.target is not None else set()
        return self.model_dump(mode="json", include=decides)


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
