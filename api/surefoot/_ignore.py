"""Which files of a folder belong to its code, and which line says that one does not.

Git's patterns from three sources, of which the first that decides wins.

1. `.surefootignore` files; `!pattern` takes a file back in, from the built-in list too.
2. The built-in list: what is never code. A .gitignore cannot take back from it: many have `!*/`, which would bring in environments.
3. `.gitignore` files, up to the root of the git repository.

Within a source the nearest file wins, and in it the last pattern. What lies in an ignored folder is out, whatever a pattern says.
Where a name of the built-in list says too little, a folder's content decides: `dist` with Python files in it is code, and an environment
is one by its pyvenv.cfg, whatever it is called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from surefoot.errors import PackageError

__all__ = ["ALWAYS", "NEVER", "UNTOLD", "Rules"]

# Histories: out, whatever any pattern says.
NEVER = frozenset({".git", ".hg", ".svn"})

# What is not code, or must not travel: environments, caches, builds, secrets.
ALWAYS = (
    ".venv",
    "__pycache__",
    "*.py[cod]",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    ".ipynb_checkpoints",
    ".tox",
    ".nox",
    ".idea",
    ".vscode",
    ".DS_Store",
    "node_modules",
    "*.egg-info",
    ".env",
    ".env.*",
    ".surefoot",
)

# Of these nobody needs to be told: tools make them, and no program reads them.
UNTOLD = NEVER | {"__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
UNTOLD |= {".ipynb_checkpoints", ".tox", ".nox", ".idea", ".vscode", ".DS_Store", ".surefoot"}

# Whoever looks for a Python file in a folder gives up after so many entries: then it counts as code, and is weighed like any.
_MOST_LOOKED_AT = 10_000


def _is_environment(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()


def _is_distribution(folder: Path) -> bool:
    """Whether a folder named `dist` is what builds leave: no Python file lies in it."""
    return folder.name == "dist" and not _has_python(folder)


def _has_python(folder: Path) -> bool:
    seen = 0
    for _, _, files in os.walk(folder):
        seen += 1 + len(files)
        if seen > _MOST_LOOKED_AT or any(name.endswith(".py") for name in files):
            return True
    return False


_BY_CONTENT: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("a Python environment", _is_environment),
    ("dist, without Python files", _is_distribution),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """One line of an ignore file.

    Asked of every folder and file on the way down, and only about itself. So this takes pathspec's patterns one by one: its
    GitIgnoreSpec also matches by what lies above, and so differs from git where a folder is taken back ("*", "!*/", "!*.py").
    """

    pattern: GitIgnoreSpecPattern
    folders_only: bool
    # the line as it is written, and where
    text: str
    # None: in the built-in list
    file: Path | None = None
    number: int = 0

    @staticmethod
    def read(line: str, file: Path | None = None, number: int = 0) -> _Pattern:
        folders_only = line.rstrip().endswith("/")
        bare = line.rstrip().rstrip("/") if folders_only else line
        return _Pattern(
            pattern=GitIgnoreSpecPattern(bare), folders_only=folders_only, text=line.strip(), file=file, number=number
        )

    def told(self, root: Path) -> str:
        """Say which line this is: ".gitignore line 3 (*.yaml)"."""
        if self.file is None:
            return f"the built-in list ({self.text})"
        return f"{os.path.relpath(self.file, root)} line {self.number} ({self.text})"

    def decide(self, relative: str, is_folder: bool) -> bool | None:
        """Whether this line ignores the path, or takes it back; None where it has no say."""
        if self.pattern.include is None or (self.folders_only and not is_folder):
            return None
        found = self.pattern.match_file(relative)
        # A group takes part where the pattern matched only a folder above.
        return None if found is None or any(found.match.groups()) else self.pattern.include


# (the folder that the patterns are relative to, patterns), outermost first
Levels = tuple[tuple[Path, tuple[_Pattern, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The patterns that hold in one folder."""

    # the folder that is packaged
    root: Path
    builtin: Levels
    surefoot: Levels = ()
    git: Levels = ()

    @staticmethod
    def above(folder: Path) -> Rules:
        """The rules that reach `folder` from outside it: the built-in list, and ignore files up to the root of its git repository.

        The latter only if they don't ignore `folder` itself: who names an ignored folder means its content.
        """
        bare = Rules(root=folder, builtin=((folder, tuple(map(_Pattern.read, ALWAYS))),))
        root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)
        reached = bare
        for place in reversed([place for place in folder.parents if place.is_relative_to(root)]):
            reached = reached.entering(place)
        named = [_decide(levels, folder, True) for levels in (reached.surefoot, reached.git)]
        return bare if any(pattern is not None and pattern.pattern.include for pattern in named) else reached

    def entering(self, folder: Path) -> Rules:
        """The rules inside `folder`. Raises PackageError for an ignore file that cannot be read."""
        surefoot, git = _level(folder, ".surefootignore"), _level(folder, ".gitignore")
        return replace(self, surefoot=self.surefoot + surefoot, git=self.git + git) if surefoot or git else self

    def ignored_by(self, path: Path, *, is_folder: bool) -> str | None:
        """Say what keeps `path` out, a direct child of the folder entered last; None: it belongs to the code."""
        if path.name in NEVER:
            return f"the built-in list ({path.name})"
        for levels in (self.surefoot, self.builtin):
            pattern = _decide(levels, path, is_folder)
            if pattern is not None:
                return pattern.told(self.root) if pattern.pattern.include else None
        if is_folder:
            for what, holds in _BY_CONTENT:
                if holds(path):
                    return f"the built-in list ({what})"
        pattern = _decide(self.git, path, is_folder)
        return pattern.told(self.root) if pattern is not None and pattern.pattern.include else None


def _decide(levels: Levels, path: Path, is_folder: bool) -> _Pattern | None:
    """Return the pattern that decides about `path`."""
    for base, patterns in reversed(levels):
        relative = path.relative_to(base).as_posix()
        for pattern in reversed(patterns):
            if pattern.decide(relative, is_folder) is not None:
                return pattern
    return None


def _level(folder: Path, name: str) -> Levels:
    file = folder / name
    if not file.is_file():
        return ()
    try:
        lines = enumerate(file.read_text().split("\n"), 1)
        return ((folder, tuple(_Pattern.read(line, file, number) for number, line in lines)),)
    except (OSError, ValueError, re.error) as error:
        raise PackageError(f"the ignore file {file} cannot be read: {error}") from error
