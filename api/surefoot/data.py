"""A job's data: what it is called and where it lies, and what the train function is given of it, as `run.data["NAME"]`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from surefoot.config import near
from surefoot.errors import ContractError, MissingExtraError, SpecError
from surefoot.secret_rules import shown

__all__ = [
    "MAX_DATA",
    "AnyDataSource",
    "Data",
    "DataSource",
    "DataUrl",
    "by_name",
    "check_names",
    "found_here",
    "in_words",
    "is_local",
    "size_words",
    "sources_of",
]

MAX_DATA = 32

_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
# "NAME=URL", "NAME:copy=URL", "NAME:in-place=URL"
_WAYS = {"copy": True, "in-place": False}


class DataSource(BaseModel):
    """Where some data lies, and how trainers come to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, serialize_by_alias=True)

    url: Annotated[str, Field(min_length=1, max_length=2000)]
    """A folder or file that every trainer's node sees, or any fsspec URL ("s3://bucket/cifar")."""
    copied: bool | None = Field(default=None, alias="copy")
    """Whether each node copies it to its own disk, once for all of its trainers. Null: what lies at a URL is copied, and what is a path
    is read where it lies."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    """Of data that is copied: the digest that it must have, as the event `data` told it once. Null: what the first trainers copied."""

    @field_validator("url")
    @classmethod
    def _url_is_plain(cls, value: str, info: ValidationInfo) -> str:
        if any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise ValueError("a URL has no control characters")
        return shown(value, info.context)

    @property
    def copies(self) -> bool:
        """Whether it is copied."""
        return not is_local(self.url) if self.copied is None else self.copied


def _source(value: Any) -> Any:
    return {"url": os.fspath(value)} if isinstance(value, (str, os.PathLike)) else value


AnyDataSource = Annotated[DataSource, BeforeValidator(_source)]


_SOURCES = TypeAdapter(dict[str, AnyDataSource])


def is_local(url: str) -> bool:
    """Whether it is a path, or the URL of one."""
    return "://" not in url or url.startswith("file://")


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for what data cannot be called."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name[:100]!r} is no name of data: letters, digits, _ and -, at most 64, no digit or - first"
            )


def sources_of(given: Mapping[str, Any]) -> dict[str, DataSource]:
    """Read what a person on this machine gives: paths may be relative, and begin with "~". Raises SpecError."""
    try:
        sources = _SOURCES.validate_python(dict(given))
        check_names(sources)
    except ValueError as error:
        told = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SpecError(f"data: {told.removeprefix('Value error, ')}") from None
    return {name: _absolute(source) for name, source in sources.items()}


def _absolute(source: DataSource) -> DataSource:
    if not is_local(source.url):
        return source
    path = os.path.abspath(os.path.expanduser(source.url.removeprefix("file://")))
    return source.model_copy(update={"url": path})


def found_here(given: Any, base: Path) -> Any:
    """Make whole paths of those that lie on this machine, below `base` or below "~". All else is the control plane's to judge."""
    return {name: _found_here(each, base) for name, each in given.items()} if isinstance(given, Mapping) else given


def _found_here(given: Any, base: Path) -> Any:
    if isinstance(given, DataSource):
        return given.model_copy(update={"url": _found_here(given.url, base)})
    if isinstance(given, Mapping):
        return {**given, "url": _found_here(given["url"], base)} if "url" in given else given
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if not isinstance(given, str) or not given or "://" in given or os.path.isabs(given):
        return given
    path = os.path.abspath(base / os.path.expanduser(given))
    return path if os.path.exists(path) else given


def by_name(given: Iterable[str]) -> dict[str, Any]:
    """Read "NAME=URL", "NAME:copy=URL" and "NAME:in-place=URL". Raises SpecError for anything else, and for a name given twice."""
    found: dict[str, Any] = {}
    for each in given:
        left, equals, url = each.partition("=")
        name, colon, way = left.partition(":")
        if not equals or not name or not url or (colon and way not in _WAYS):
            raise SpecError(f"--data {each!r} must look like NAME=URL, NAME:copy=URL or NAME:in-place=URL")
        if name in found:
            raise SpecError(f"--data names {name!r} twice")
        found[name] = {"url": url} | ({"copy": _WAYS[way]} if colon else {})
    return found


def in_words(data: Mapping[str, DataSource]) -> str:
    """Say what data a job has, as `--data` takes it."""
    return " ".join(f"{name}:{'copy' if s.copies else 'in-place'}={s.url}" for name, s in data.items())


def size_words(num_bytes: float) -> str:
    """Say a number of bytes: "812 bytes", "1.2 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


class DataUrl(str):
    """The URL of data that is read where it lies: text for whatever takes URLs, and as `pathlib.Path` is, it can be extended and opened."""

    __slots__ = ()

    def __truediv__(self, name: str) -> DataUrl:
        return DataUrl(f"{self.rstrip('/')}/{name}")

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:
        """Open it by fsspec, which takes its credentials from the environment. Raises what fsspec raises."""
        try:
            import fsspec
        except ImportError as error:
            raise MissingExtraError(
                f"{self} is opened by fsspec, which is not installed: pip install 'surefoot[ray]'"
            ) from error
        file: IO[Any] = fsspec.open(str(self), mode, **options).open()
        return file


class Data(Mapping[str, "Path | DataUrl"]):
    """A job's data by name: a Path where it lies on a disk that the node sees, copied or not; a DataUrl where it is read at its URL."""

    def __init__(self, places: Mapping[str, Path | DataUrl] | None = None) -> None:
        self._places = dict(places or {})

    def __getitem__(self, name: str) -> Path | DataUrl:
        try:
            return self._places[name]
        except KeyError:
            there = near(name, self._places) if self._places else "; it has none"
            raise ContractError(
                f"run.data[{name!r}]: this job has no data of that name{there}. Name it when the job is submitted: --data {name}=URL, or "
                f'data={{"{name}": URL}} for submit() and run_local()'
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def get(self, name: str, default: Any = None) -> Any:
        """Return what is of that name, or the default."""
        return self._places.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Data({self._places!r})"
