"""Whether a package holds the function that an entrypoint names: read from its source, never imported.

The source is a stranger's text: it is parsed by a process of its own, with bounds on its memory and time, since parsing takes a
hundred times its size, deep nesting ends an interpreter, and the parser lets nobody else run meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

from surefoot.errors import EntrypointError
from surefoot.spec import named_file, refused_module
from surefoot_service.settings import MIB
from surefoot_service.waiting import BusyError

__all__ = ["check_entrypoint"]

# a source file above it is not parsed
_MAX_SOURCE_BYTES = 1 * MIB
# what the process that parses it may take
_MEMORY_BYTES = 1024 * MIB
_CPU_S = 10
_WALL_S = 20.0
# what so many sources were found to be is kept: people submit the same code again and again, with another config or seed
_MOST_KNOWN = 4096
# of what is wrong with one: a function's name in it may be as long as the source
_MAX_PROBLEM_CHARS = 2000
# such processes at a time; whoever finds no place within a while is told so
_readers = threading.BoundedSemaphore(2)
_PLACE_S = 20.0
_READER = Path(__file__).with_name("entrypoint_reader.py")


def check_entrypoint(package: Path, entrypoint: str, *, may_be_installed: bool) -> None:
    """Raise EntrypointError unless "module:function", or "folder/script.py:function", can be there. Blocks: for a thread.

    Raises BusyError where too many sources are read already. `may_be_installed`: the job has pip requirements, so a module that is not in
    the package may come from them.
    """
    module, function = entrypoint.split(":")
    if named_file(entrypoint) is None and (refused := refused_module(module)):
        raise EntrypointError(f"{entrypoint} cannot be imported: {refused}")
    with zipfile.ZipFile(package) as archive:
        member = _member(archive, module)
        if member is None:
            if may_be_installed and named_file(entrypoint) is None:
                return
            what = "module" if named_file(entrypoint) is None else "file"
            raise EntrypointError(f"{what} {module!r} is not in the package; {_modules(archive)}")
        if member.file_size > _MAX_SOURCE_BYTES:
            raise EntrypointError(f"{member.filename} is too long to be read: {member.file_size} bytes")
        source = archive.read(member)
    if (problem := _known.problem(source, member.filename, function)) is not None:
        raise EntrypointError(problem)


def _member(archive: zipfile.ZipFile, module: str) -> zipfile.ZipInfo | None:
    names = archive.NameToInfo
    if module.endswith(".py"):
        return names.get(module)
    path = module.replace(".", "/")
    return names.get(f"{path}.py") or names.get(f"{path}/__init__.py")


def _modules(archive: zipfile.ZipFile) -> str:
    found = sorted(n[:-3].replace("/", ".") for n in archive.namelist() if n.endswith(".py") and n.count("/") <= 1)[:20]
    return f"it has {', '.join(found)}" if found else "it has no Python files"


class _Known:
    """What sources were found to be, by their content. Thread-safe."""

    def __init__(self) -> None:
        self._problems: OrderedDict[bytes, str | None] = OrderedDict()
        self._lock = threading.Lock()

    def problem(self, source: bytes, file: str, function: str) -> str | None:
        """What is wrong with the source, in a sentence; None: nothing."""
        key = hashlib.sha256(json.dumps([file, function]).encode() + source).digest()
        with self._lock:
            if key in self._problems:
                self._problems.move_to_end(key)
                return self._problems[key]
        told, problem = _read(source, file, function)
        if told:
            with self._lock:
                self._problems[key] = problem
                if len(self._problems) > _MOST_KNOWN:
                    self._problems.popitem(last=False)
        return problem


_known = _Known()


def _read(source: bytes, file: str, function: str) -> tuple[bool, str | None]:
    """Whether the source could be read, which is so for every reading of it, and what is wrong with it; None: nothing."""
    asked = {"file": file, "function": function, "memory_bytes": _MEMORY_BYTES, "cpu_s": _CPU_S}
    if not _readers.acquire(timeout=_PLACE_S):
        raise BusyError("too many source checks are under way; ask again in a few seconds")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(_READER)],
            input=json.dumps(asked).encode() + b"\n" + source,
            capture_output=True,
            timeout=_WALL_S,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"{file} takes too long to be read"
    finally:
        _readers.release()
    if done.returncode != 0 or not done.stdout:
        # out of memory or of time, or nested so deeply that the parser ended the process
        return False, f"{file} is nested too deeply, or too large, to be read"
    found = json.loads(done.stdout)
    return True, None if found is None else str(found)[:_MAX_PROBLEM_CHARS]
