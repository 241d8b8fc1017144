"""Which files of a folder belong to its code: git's patterns from three sources, of which the first that decides wins.

1. `.surefootignore` files; `!pattern` takes a file back in, from the built-in list too.
2. The built-in list: what is never code. A .gitignore cannot take back from it: many have `!*/`, which would bring in environments.
3. `.gitignore` files, up to the root of the git repository.

Within a source the nearest file wins, and in it the last pattern. What lies in an ignored folder is out, whatever a pattern says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from surefoot.errors import PackageError

__all__ = ["ALWAYS", "NEVER", "Rules"]

# Histories: out, whatever any pattern says.
NEVER = frozenset({".git", ".hg", ".svn"})

# What is not code, or must not travel: environments, caches, builds, secrets.
ALWAYS = (
    ".venv",
    "venv",
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
    "dist",
    "*.egg-info",
    ".env",
    ".env.*",
    ".surefoot",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """One line of an ignore file.

    Asked of every folder and file on the way down, and only about itself. So this takes pathspec's patterns one by one: its
    GitIgnoreSpec also matches by what lies above, and so differs from git where a folder is taken back ("*", "!*/", "!*.py").
    """

    pattern: GitIgnoreSpecPattern
    folders_only: bool

    @staticmethod
    def read(line: str) -> _Pattern:
        folders_only = line.rstrip().endswith("/")
        bare = line.rstrip().rstrip("/") if folders_only else line
        return _Pattern(pattern=GitIgnoreSpecPattern(bare), folders_only=folders_only)

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

    builtin: Levels
    surefoot: Levels = ()
    git: Levels = ()

    @staticmethod
    def above(folder: Path) -> Rules:
        """The rules that reach `folder` from outside it: the built-in list, and ignore files up to the root of its git repository.

        The latter only if they don't ignore `folder` itself: who names an ignored folder means its content.
        """
        bare = Rules(builtin=((folder, tuple(map(_Pattern.read, ALWAYS))),))
        root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)
        reached = bare
        for place in reversed([place for place in folder.parents if place.is_relative_to(root)]):
            reached = reached.entering(place)
        named = _decide(reached.surefoot, folder, True) or _decide(reached.git, folder, True)
        return bare if named else reached

    def entering(self, folder: Path) -> Rules:
        """The rules inside `folder`. Raises PackageError for an ignore file that cannot be read."""
        surefoot, git = _level(folder, ".surefootignore"), _level(folder, ".gitignore")
        return replace(self, surefoot=self.surefoot + surefoot, git=self.git + git) if surefoot or git else self

    def ignore(self, path: Path, *, is_folder: bool) -> bool:
        """Whether `path`, a direct child of the folder entered last, stays out."""
        if path.name in NEVER:
            return True
        for levels in (self.surefoot, self.builtin, self.git):
            decided = _decide(levels, path, is_folder)
            if decided is not None:
                return decided
        return False


def _decide(levels: Levels, path: Path, is_folder: bool) -> bool | None:
    for base, patterns in reversed(levels):
        relative = path.relative_to(base).as_posix()
        for pattern in reversed(patterns):
            decided = pattern.decide(relative, is_folder)
            if decided is not None:
                return decided
    return None


def _level(folder: Path, name: str) -> Levels:
    file = folder / name
    if not file.is_file():
        return ()
    try:
        return ((folder, tuple(map(_Pattern.read, file.read_text().split("\n")))),)
    except (OSError, ValueError) as error:
        raise PackageError(f"the ignore file {file} cannot be read: {error}") from error
