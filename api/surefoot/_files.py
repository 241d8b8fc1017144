"""Files that training wrote, listed page by page and fetched, and the final model. No network here."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from surefoot._given import a_text
from surefoot._paths import why_not
from surefoot._requests import Call, Flow, ask, model_of
from surefoot.errors import NotFoundError, ServiceError, UserError
from surefoot.output import FileList, FileView, path_fault

__all__ = ["Fetching", "all_files", "content_path", "model_path", "module_named", "targets", "windows_fault"]

_PAGE = 1000
# lists one after the other of which not one file could be fetched
_MOST_IN_VAIN = 3
_WINDOWS = os.name == "nt"
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?$", re.IGNORECASE)


def _get_files(job_id: str, prefix: str, after: str, version: str) -> Call[FileList]:
    params = {"limit": str(_PAGE), "prefix": prefix, "after": after, "version": version}
    path = f"/v1/jobs/{job_id}/files"
    given = {name: value for name, value in params.items() if value}
    return Call(method="GET", path=path, parse=model_of(FileList), params=given)


def all_files(job_id: str, prefix: str = "") -> Flow[FileList]:
    """All files whose paths begin with the prefix, of one synchronisation."""
    a_text(prefix, "prefix", "plots/")
    found = yield from ask(_get_files(job_id, prefix, "", ""))
    files, more = list(found.files), found.more
    while more:
        page = yield from ask(_get_files(job_id, prefix, files[-1].path, found.version))
        if page.more and (not page.files or page.files[-1].path <= files[-1].path):
            raise ServiceError(
                "the answer cannot be read", status=502, detail="a page is no further on than the one before"
            )
        files += page.files
        more = page.more
    return found.model_copy(update={"files": tuple(files), "more": False})


def model_path(job_id: str) -> str:
    """Where the final model is, as a stream of bytes."""
    return f"/v1/jobs/{job_id}/model"


def module_named(module: str | None) -> dict[str, str]:
    """Which module's model it is, as a query."""
    return {"module": a_text(module, "module", "model")} if module else {}


def content_path(job_id: str) -> str:
    """Where a file is, as a stream of bytes."""
    return f"/v1/jobs/{job_id}/files/content"


class Fetching:
    """What is fetched of a job's files, while it may train on and keep others: in the end all of it is of one synchronisation."""

    def __init__(self, path: str, to: Path) -> None:
        self._path, self._to = a_text(path, "path", "plots"), to
        self._fetched: dict[Path, FileView] = {}
        self._chosen: list[Path] = []
        self._before, self._in_vain = 0, 0
        self._count = 0

    def missing(self, found: FileList) -> Iterator[tuple[FileView, Path]]:
        """Yield what is to be fetched yet to be as in this list; each is `fetched` then. Raises as `targets` does."""
        self._chosen = []
        for file, target in targets(found, self._path, self._to):
            self._chosen.append(target)
            if self._fetched.get(target) != file:
                yield file, target

    def fetched(self, file: FileView, target: Path) -> None:
        self._fetched[target] = file
        self._count += 1

    @property
    def files(self) -> list[Path]:
        """Where they are, as in the last list."""
        return self._chosen

    def goes_on(self) -> bool:
        """Whether to list them again, after a list that is gone; no, if nothing has come of that for a few times."""
        self._in_vain = 0 if self._count > self._before else self._in_vain + 1
        self._before = self._count
        return self._in_vain < _MOST_IN_VAIN


def targets(found: FileList, path: str, to: Path) -> Iterator[tuple[FileView, Path]]:
    """Yield each file that `path` names, a file or a folder of them, and where it goes below `to`; its folder is there then.

    Raises NotFoundError for no such file; ServiceError for one whose path leads out of `to`; UserError for one that this system or disk
    cannot hold under its name.
    """
    path = path.strip("/")
    chosen = [file for file in found.files if not path or file.path == path or file.path.startswith(f"{path}/")]
    if not chosen:
        what = f"no file or folder {path!r}" if path else "nothing yet"
        raise NotFoundError("no such file", status=404, detail=f"training has written {what} to run.output_dir")
    twins: dict[str, Path] = {}
    for file in chosen:
        if fault := path_fault(file.path):
            raise ServiceError(
                "the answer cannot be read", status=502, detail=f"a file is named {file.path!r}: {fault}"
            )
        if _WINDOWS and (fault := windows_fault(file.path)):
            raise UserError(
                f"{file.path!r} cannot be written here: {fault}; fetch it on another system, or fetch others by their paths"
            )
        target = to / file.path
        twin = twins.setdefault(unicodedata.normalize("NFC", file.path).casefold(), target)
        if twin != target and _is_one(twin, target):
            raise UserError(
                f"{str(twin)!r} and {str(target)!r} are one file on this disk, which does not tell such names apart: fetch them one by "
                "one, by their paths, to folders of their own"
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{target.parent} cannot be made: {why_not(error)}; name another folder") from None
        yield file, target


def windows_fault(path: str) -> str:
    """Say why Windows would write this elsewhere than below the folder, or under another name; empty: it would not."""
    for part in path.split("/"):
        if any(letter in '<>:"|?*' for letter in part):
            return 'its name has one of the characters <>:"|?*'
        if part.endswith((".", " ")):
            return "its name ends with a dot or a space"
        if _DEVICE.match(part):
            return "its name is that of a device"
    return ""


def _is_one(twin: Path, target: Path) -> bool:
    try:
        return os.path.samefile(twin, target)
    except OSError:
        return False  # the second is not there
