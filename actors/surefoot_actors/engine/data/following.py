"""Decides in every round whether data workers still have the dataset as it is."""

from __future__ import annotations

import time
from typing import Any

import xxhash

from surefoot.errors import ContractError
from surefoot_actors.engine.data.changes import Change, Survey, compare, survey
from surefoot_actors.engine.data.files import unshareable

__all__ = ["Follower", "check_shareable"]

# What is looked at in every round.
_LIMIT = 2000
_BYTES = 256 << 10

# What there is more of is looked at as seldom as takes a two-hundredth of the time.
_SHARE = 200
_FAR_LIMIT = 5_000_000
_FAR_BYTES = 1 << 50

# How far connections are looked for.
_HELD_LIMIT = 20_000

_ROOTS = ("the dataset", "collate")


class Follower:
    """Remembers a dataset (and its collate) as the workers got it."""

    def __init__(self) -> None:
        self._near: Survey | None = None
        self._far: bytes | None = None
        self._look_at = 0.0

    def look(self, roots: tuple[Any, ...], line: str) -> list[Change] | None:
        """Return what plain values have changed since the last look, none if nothing has; None: workers must be forked anew.

        Raises ContractError where a change went unseen for a while, in what is too much to be compared in every round.
        """
        before, self._near = self._near, survey(roots, limit=_LIMIT, most_bytes=_BYTES)
        if before is None:
            return None
        changes = compare(before, self._near)
        if changes is None or (changes and self._near.partial):
            # what was left out may have changed as well
            self._far = None
            return None
        if self._near.partial and time.monotonic() >= self._look_at:
            self._look_far(roots, line)
        return changes

    def forget(self) -> None:
        """There are no workers that could have an old copy."""
        self._near = self._far = None

    def _look_far(self, roots: tuple[Any, ...], line: str) -> None:
        began = time.monotonic()
        all_of_it = survey(roots, limit=_FAR_LIMIT, most_bytes=_FAR_BYTES)
        digest = xxhash.xxh3_128()
        for one in all_of_it.found:
            digest.update(repr((one.parent, one.how, one.token)).encode())
        before, self._far = self._far, digest.digest()
        ended = time.monotonic()
        self._look_at = ended + _SHARE * (ended - began)
        if before not in (None, self._far):
            raise ContractError(
                f"{line}: the loop has changed the dataset in a place that data workers follow only if they are told, as it holds "
                f"too much to be compared in every round; batches since then may be of its old content. Set an attribute of the "
                f"dataset together with the change (dataset.version += 1), assign new tensors and lists in place of changed "
                f"ones, or run with data_workers=0"
            )


def check_shareable(roots: tuple[Any, ...], line: str) -> None:
    """Raise ContractError, naming the attribute, where a dataset holds what forked processes cannot use in turn."""
    held = survey(roots, limit=_HELD_LIMIT, most_bytes=0)
    for place, thing in held.objects.items():
        what = unshareable(thing)
        if what is not None:
            raise ContractError(
                f"{line}: {held.path(place, _ROOTS)} is {what} ({type(thing).__module__}.{type(thing).__qualname__}), which data "
                f"workers would share with each other and read each other's answers from. Open it in __getitem__, when it is first "
                f"needed there (self.connection is None at first), or run with data_workers=0"
            )
