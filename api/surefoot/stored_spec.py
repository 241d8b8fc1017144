"""Specs as they were stored or answered, by an older or a newer version: read leniently, never failing. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from surefoot.bounds import read_object, writable
from surefoot.budget import Budget
from surefoot.secret_rules import STORED
from surefoot.spec import CheckpointPolicy, JobSpec, Resources

__all__ = ["AnySpec", "RunnableSpec", "StoredSpec", "read_spec"]

# what stands for required fields that cannot be read
_BLANK: dict[str, Any] = {"entrypoint": "?", "package": "", "batch_size": 1}
_NESTED: dict[str, type[BaseModel]] = {"resources": Resources, "checkpoint": CheckpointPolicy, "budget": Budget}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
    for name, field in JobSpec.model_fields.items()
}


@dataclass(frozen=True, slots=True)
class StoredSpec:
    """A spec as far as this version can read it."""

    spec: JobSpec
    # what it cannot read, a sentence: such a job is not to be run, as it would be another; empty: it can read all
    unreadable: str


@lru_cache(maxsize=2000)
def read_spec(text: str) -> StoredSpec:
    """Read a spec as JSON. Whatever it is, there is a spec to show, and the reason why it cannot be run, if so.

    A field of a newer version that says nothing (null, false, 0, empty) is passed over: that version would do without it too.
    """
    try:
        return StoredSpec(JobSpec.model_validate_json(text), "")
    except ValidationError:
        return _read(read_object(text))


def _read(found: dict[str, Any]) -> StoredSpec:
    known, unknown = _known(found)
    try:
        spec = JobSpec.model_validate(known)
    except ValidationError as error:
        return _with_masks(known, error)
    if unknown:
        return StoredSpec(
            spec, f"its spec says what this version of surefoot does not know: {', '.join(unknown)[:300]}"
        )
    return StoredSpec(spec, "")


def _with_masks(known: dict[str, Any], error: ValidationError) -> StoredSpec:
    """Stored when secrets in URLs were taken, perhaps: then it is whole but for them."""
    try:
        return StoredSpec(JobSpec.model_validate(known, context=STORED), _in_words(error, _MASKED))
    except ValidationError:
        return StoredSpec(_piecemeal(known), _in_words(error))


def _known(found: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that this version knows, and the names of others that say something."""
    unknown = [name for name, value in found.items() if name not in JobSpec.model_fields and _says_something(value)]
    known = {name: value for name, value in found.items() if name in JobSpec.model_fields}
    for name, model in _NESTED.items():
        if isinstance(part := known.get(name), dict):
            unknown += [f"{name}.{n}" for n, v in part.items() if n not in model.model_fields and _says_something(v)]
            known[name] = {n: v for n, v in part.items() if n in model.model_fields}
    return known, [writable(str(name)) for name in unknown]


def _says_something(value: Any) -> bool:
    return any(map(_says_something, value.values())) if isinstance(value, dict) else bool(value)


def _piecemeal(known: dict[str, Any]) -> JobSpec:
    """A spec of the fields that can be read by themselves; it was not checked as a whole."""
    fields = dict(_BLANK)
    for name, value in known.items():
        try:
            fields[name] = _ADAPTERS[name].validate_python(value, context=STORED)
        except ValidationError:
            continue
    return JobSpec.model_construct(**fields)


_MASKED = "its spec holds a secret in a URL, which is masked here; submit its code again, with another URL"


def _in_words(error: ValidationError, what: str = "this version of surefoot cannot read its spec") -> str:
    told = [
        f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_url=False, include_input=False)
    ]
    return writable(f"{what}: {'; '.join(told[:3])}"[:1000])


def _any(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    if isinstance(value, JobSpec):
        return value  # read before, perhaps piecemeal
    try:
        return validate(value)
    except ValidationError:
        return _read(value if isinstance(value, dict) else {}).spec


def _runnable(value: object) -> object:
    if not isinstance(value, dict):
        return value
    read = _read(value)
    if read.unreadable:
        raise ValueError(read.unreadable)
    return read.spec


# a spec to show: whatever a service of another version answers
AnySpec = Annotated[JobSpec, WrapValidator(_any)]
# a spec to run: nothing of it may be unknown
RunnableSpec = Annotated[JobSpec, BeforeValidator(_runnable)]
