"""A trainer's part in the job's data: has it copied to its node, and sees that it is what the others train on.

What the job trains on is agreed in two ways. The digest of each copy is a part of the fingerprint, so no trainer with another one ever
becomes a member. And whoever has become a member notes the files and their digests beside the job's checkpoints, if nobody has yet: a
trainer that comes later, in this attempt or another, names the file that is not what it was, and takes a copy that is, where its node
has one.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.data import Data, DataSource, size_words
from surefoot.errors import CheckpointError, DataError
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.node_data.cache import Copy, NodeCache
from surefoot_actors.node_data.listing import DATA_KEY, Listing, differences, digest_of, list_place
from surefoot_actors.node_data.places import Copier, in_place
from surefoot_actors.process_log import log
from surefoot_actors.protocol.messages import DataTold, FromTrainer

__all__ = ["TrainerData"]

# So often the supervisor hears that it goes on.
_TOLD_EVERY_S = 5.0
# Of data that is read in place, so many files are looked at, for so long; of what is copied, so many are noted by name.
_MOST_LISTED, _LISTED_WITHIN_S, _MOST_NOTED = 10_000, 5.0, 200_000

Files = Mapping[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of some data: here, or as the job agreed on it."""

    digest: str
    # by path: size and digest, or, of what is not copied, mark; empty: there are too many
    files: Files

    def dump(self) -> bytes:
        few = self.files if len(self.files) <= _MOST_NOTED else {}
        return json.dumps({"digest": self.digest, "files": few}).encode()

    @staticmethod
    def load(data: bytes) -> _Known:
        found = json.loads(data)
        return _Known(found["digest"], {path: (size, known) for path, (size, known) in found["files"].items()})


class _Teller:
    """Tells the supervisor; stops where the trainer is to end."""

    def __init__(
        self,
        trainer: str,
        tell: Callable[[FromTrainer], None],
        awaits: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._trainer, self._tell, self._awaits, self._clock = trainer, tell, awaits, clock
        self._told = (clock(), 0)

    def waits(self, what: str) -> None:
        self._awaits(what)

    def copying(self, name: str, listing: Listing) -> None:
        self._say(name, what="copying", bytes=listing.bytes, files=len(listing.items))

    def progress(self, name: str, num_bytes: int, of: int) -> None:
        self._awaits(f"data {name}, of which {size_words(num_bytes)} of {size_words(of)} are copied")
        at, before = self._told
        if num_bytes > before and self._clock() - at >= _TOLD_EVERY_S:
            self._told = (self._clock(), num_bytes)
            self._say(name, what="progress", bytes=num_bytes)

    def copied(self, name: str, copy: Copy, seconds: float) -> None:
        self._awaits("")
        self._told = (self._clock(), 0)
        size, files = sum(size for size, _ in copy.files.values()), len(copy.files)
        self._say(name, what="copied", bytes=size, files=files, digest=copy.digest, seconds=seconds)

    def trouble(self, name: str, what: str) -> None:
        self.warn(name, f"data {name} cannot be read at present, and is tried again: {what}")

    def warn(self, name: str, message: str) -> None:
        self._say(name, what="warning", message=message)

    def _say(self, name: str, **more: Any) -> None:
        self._tell(DataTold(trainer=self._trainer, node=socket.gethostname(), name=name, **more))


class TrainerData:
    """Used on the training thread, before it is a member; `note` is called once it is one."""

    def __init__(
        self,
        setup: TrainerSetup,
        cache: NodeCache,
        tell: Callable[[FromTrainer], None],
        awaits: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """`awaits` is told what the training thread waits for, and may raise to end that."""
        self._sources, self._checkpoints, self._package = setup.spec.data, setup.checkpoints, setup.spec.package
        self._teller = _Teller(setup.trainer, tell, awaits, clock)
        self._cache, self._copier = cache, Copier(cache, self._teller, setup.run_id)
        self._known: dict[str, _Known] = {}
        #: what every trainer must have in common
        self.fingerprint: tuple[tuple[str, str], ...] = ()

    def cache_dir(self) -> Path:
        """The folder for the job's code on this node."""
        return self._cache.code_dir(self._package)

    def open(self) -> Data:
        """Return all of the job's data. Raises DataError, NodeError, and TrainerExit."""
        data = Data(
            {name: self._copied(name, s) if s.copies else self._in_place(name, s) for name, s in self._sources.items()}
        )
        copied = {name: known.digest for name, known in self._known.items() if self._sources[name].copies}
        self.fingerprint = tuple((f"{DATA_KEY}{name}", digest) for name, digest in copied.items())
        return data

    def _copied(self, name: str, source: DataSource) -> Path:
        agreed = self._agreed(name)
        copy = self._copier.copy(name, source, source.digest or (agreed.digest if agreed else None))
        if agreed is not None and agreed.digest != copy.digest:
            differ = differences(agreed.files, copy.files) if agreed.files else "its digest is another"
            raise DataError(
                f"data {name}: what lies at {source.url} is no longer what this job trains on: {differ}. Put it back as it was, or submit "
                "another job, for the data that is there now"
            )
        self._known[name] = _Known(copy.digest, copy.files)
        return copy.path

    def _in_place(self, name: str, source: DataSource) -> Path:
        """Nobody can see that others read the same bytes; but names, sizes and marks tell much, where there are not too many files."""
        listing = self._listed(source.url)
        if listing is not None:
            # copies on nodes' own disks have times of their own
            marked = "://" in source.url
            files = {item.path: (item.bytes, item.mark if marked else "") for item in listing.items}
            self._known[name] = here = _Known(digest_of(files), files)
            agreed = self._agreed(name)
            if agreed is not None and agreed.digest != here.digest:
                differ = differences(agreed.files, files) or "its files are others"
                self._teller.warn(
                    name,
                    f"data {name} at {source.url}, which is read in place, is not what it was when the job began: {differ}. Trainers may "
                    "read other samples than those before them, and the result depend on which of them computes what",
                )
        return in_place(source)  # type: ignore[return-value]

    def _listed(self, url: str) -> Listing | None:
        """List it, unless that takes long: training waits for it, and can do without."""
        listing: Future[Listing | None] = Future()

        def look() -> None:
            try:
                listing.set_result(list_place(url, _MOST_LISTED))
            except Exception as error:  # noqa: BLE001  handed over
                listing.set_exception(error)

        threading.Thread(target=look, name="list-data", daemon=True).start()
        try:
            return listing.result(_LISTED_WITHIN_S)
        except FileNotFoundError as error:
            raise DataError(f"there is nothing at {url}, as seen from this node: is its storage mounted?") from error
        except Exception as error:  # noqa: BLE001  the edge to the storage: the user's code finds out, or does not need it
            log.warning("data_not_listed", url=url, error=repr(error))
            return None

    # ---- what was agreed on

    def _agreed(self, name: str) -> _Known | None:
        """What members noted; None: nothing, or it cannot be read, which the fingerprint does without."""
        if not self._checkpoints:
            return None
        try:
            return _Known.load(Storage(self._checkpoints).read_small(_file(name)))
        except (CheckpointError, ValueError, KeyError, TypeError):
            return None

    def note(self) -> None:
        """Note what the job trains on, in the background, unless it is noted."""
        if self._known and self._checkpoints:
            threading.Thread(target=self._note, name="note-data", daemon=True).start()

    def _note(self) -> None:
        try:
            storage = Storage(self._checkpoints)
            for name, known in self._known.items():
                if not storage.exists(_file(name)):
                    storage.write(_file(name), [known.dump()])
        except CheckpointError as error:
            log.warning("data_not_noted", error=str(error))


def _file(name: str) -> str:
    return f"data/{name}.json"
