"""Finds the user's modules for `import`, and executes each under a random stream of its own (`Streams.importing`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from surefoot.parsing import parsed
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.user_code import places, users
from surefoot_actors.user_code.renaming import renamed

__all__ = ["OWN", "UserFinder", "finding", "plain_name"]

# The package that holds the user's modules whose names others have too.
OWN = "surefoot_actors.user_code.users"


def plain_name(module: str) -> str:
    """The name that the user gave a module."""
    return module.removeprefix(f"{OWN}.")


class _SeededLoader(SourceFileLoader):
    """Executes a module under the stream of its name; imports of `shadowed` names mean the user's modules."""

    def __init__(self, loader: SourceFileLoader, streams: Streams, shadowed: frozenset[str]) -> None:
        super().__init__(loader.name, loader.path)
        self._streams, self._shadowed = streams, shadowed

    def get_code(self, fullname: str) -> CodeType | None:
        if not self._shadowed:
            return super().get_code(fullname)
        # not by way of __pycache__: what is kept there is for everybody
        tree = renamed(parsed(self.get_data(self.path), self.path), self._shadowed, OWN)
        code: CodeType = compile(tree, self.path, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        with self._streams.importing(plain_name(module.__name__)):
            super().exec_module(module)


class UserFinder(MetaPathFinder):
    """Asked before any other finder.

    A name that is in `shadowed` is asked for by code that is not the user's (shadows.py sees to that): the user's folders are passed
    over for it.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.shadowed: frozenset[str] = frozenset()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None and name in self.shadowed:
            return self.elsewhere(name, target)
        if path is not None and not any(_among_users(entry) for entry in path):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or not places.is_users(spec.loader.path):
            return None
        spec.loader = _SeededLoader(spec.loader, self._streams, self.shadowed)
        return spec

    def elsewhere(self, name: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a top-level module as if the user's folders were not there."""
        for finder in sys.meta_path:
            if finder is PathFinder:
                spec = PathFinder.find_spec(name, [entry for entry in sys.path if not _among_users(entry)], target)
            elif finder is self or not hasattr(finder, "find_spec"):
                continue
            else:
                spec = finder.find_spec(name, None, target)
            if spec is not None and not (spec.origin and places.is_users(spec.origin)):
                return spec
        return None


def _among_users(entry: str) -> bool:
    """Whether an entry of a path is one of the user's folders, or lies in one."""
    return entry in ("", *places.folders()) or places.is_users(f"{entry}/__init__.py")


@contextmanager
def finding(folders: Sequence[str], streams: Streams) -> Iterator[UserFinder]:
    """Have modules below `folders` imported under streams of their own, for as long as it lasts."""
    before, path, finder = places.set_folders(folders), users.__path__[:], UserFinder(streams)
    sys.meta_path.insert(0, finder)
    users.__path__[:] = places.folders()  # a checkpoint of a trainer's may name classes so
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)
        users.__path__[:] = path
        places.set_folders(before)
