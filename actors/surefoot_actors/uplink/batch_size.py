"""How much goes to the control plane at a time: less after a refusal, down to one item, so that no more than that item is lost. Pure."""

from __future__ import annotations

from surefoot.events import SentBatch

__all__ = ["BatchSize"]

# so often is one item refused by itself before it is given up: a service that is being replaced may refuse what the next one takes
_TRIES = 3
# after so many batches in a row that were taken, nothing is looked for any more
_CALM = 20


class BatchSize:
    """What the answers so far make of it."""

    def __init__(self, most: int) -> None:
        self._whole = most
        # what has proved not to be too large
        self._fitting = most
        # while the item that is refused is looked for
        self._searching = most
        # one event or one row, and not one of each
        self._alone = False
        self._tries = 0
        self._taken = 0

    @property
    def most(self) -> int:
        """So many of each, at most."""
        return min(self._fitting, self._searching)

    def cut(self, batch: SentBatch) -> SentBatch:
        """What of this batch, of at most `most` of each, is to be sent."""
        return SentBatch(events=batch.events, rows=() if batch.events else batch.rows) if self._alone else batch

    def stored(self) -> None:
        """The last batch is stored."""
        self._alone, self._tries = False, 0
        self._taken += 1
        if self._taken > _CALM:
            self._searching = self._fitting

    def gave_up(self) -> None:
        """The one that was refused is out of the way."""
        self._fitting = self._searching = self._whole
        self._alone, self._tries = False, 0

    def too_large(self, batch: SentBatch) -> bool:
        """The batch was refused for its size. Return whether it is to be given up."""
        longest = max(len(batch.events), len(batch.rows))
        while self._fitting >= longest > 1:
            self._fitting //= 2
        return self._refused(batch)

    def refused(self, batch: SentBatch) -> bool:
        """Something in the batch was refused, and so all of it. Return whether it is to be given up."""
        longest = max(len(batch.events), len(batch.rows))
        while self._searching >= longest > 1:
            self._searching //= 2
        return self._refused(batch)

    def _refused(self, batch: SentBatch) -> bool:
        self._taken = 0
        items = len(batch.events) + len(batch.rows)
        if items == 2 and len(batch.events) == 1:
            self._alone = True
        if items != 1:
            return False
        self._tries += 1
        return self._tries >= _TRIES
