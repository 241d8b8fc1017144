"""A trainer's writing side: snapshots its share at a step boundary, and writes it on a thread of its own while training goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from surefoot.errors import CheckpointError
from surefoot_actors.checkpoint.capture import Captured, Facts, HostMemory, Place, capture, specs_of
from surefoot_actors.checkpoint.shares import parts_of
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.checkpoint.write import write_share
from surefoot_actors.engine.state.survey import Survey
from surefoot_actors.faults import points as faults
from surefoot_actors.output.sync import Pending
from surefoot_actors.protocol.messages import Saved
from surefoot_actors.tasks import JobThread

__all__ = ["Parked", "Saver"]

# A write that takes so long is told of; it may be storage that hangs.
SLOW_S = 600.0


# How long a checkpoint waits for the files that go with it, before it is made without.
FILES_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """State that stands still, to be saved as it is."""

    place: Place
    survey: Callable[[], Survey]
    facts: Facts
    # to be exported too; none before the end of training
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    # whether it has stood still until now
    still: Callable[[], bool]
    # has the files that go with it kept, as far as can be
    keep_files: Callable[[], object] = lambda: None


class Saver:
    """Tells `Saved` of everything it is asked for. Nothing here stops training, and nothing but the copy holds it up."""

    def __init__(self, url: str, trainer: str, device: torch.device, tell: Callable[[Saved], None]) -> None:
        self._url, self._trainer, self._tell = url, trainer, tell
        self._memory = HostMemory(device)
        self._thread = JobThread("checkpoint-writer")
        self._lock = threading.Lock()
        # of the snapshot that is being written, since when (monotonic), and whether it was told that this takes long
        self._writing: Place | None = None
        self._since, self._told_slow = 0.0, False
        self._saving: set[Place] = set()
        self._prepared: tuple[int, int] | None = None
        self._storage: Storage | None = None

    # ---- on the training thread

    def snapshot(self, survey: Callable[[], Survey], place: Place, facts: Facts, files: Pending | None = None) -> None:
        """Copy this trainer's share, and have it written. Not while it is `busy`: the memory is in use.

        `files`: those that go with it; the share is told once they are kept, or are not to be.
        """
        assert self._writing is None, f"asked to save step {place.step} while that of {self._writing} is being written"
        began = time.monotonic()
        faults.point("snapshot", place.step - 1)
        try:
            captured = capture(survey(), place, facts, self._memory)
        except torch.AcceleratorError:
            raise  # the device's fault is this trainer's loss
        except Exception as error:  # noqa: BLE001  the edge: a state that cannot be copied is told, and training goes on
            self._tell(self._failed(place, f"the state could not be copied: {error!r}"))
            return
        stall_s = time.monotonic() - began
        self._prepared = (place.share, place.of)
        self._writing, self._since, self._told_slow = place, began, False
        self._thread.put(lambda: self._write_snapshot(captured, stall_s, files))

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written. It becomes true on the training thread alone."""
        return self._writing is not None

    def tell_if_slow(self) -> None:
        """Tell, once, that a snapshot has been in the writing for so long that something may be wrong."""
        writing, seconds = self._writing, time.monotonic() - self._since
        if writing is not None and seconds > SLOW_S and not self._told_slow:
            self._told_slow = True
            self._tell(self._failed(writing, f"its share has been in the writing for {seconds:.0f} s"))

    def prepare(self, survey: Callable[[], Survey], share: int, of: int) -> None:
        """Have memory for this share ready before the first snapshot of it. Costs the training thread nothing the second time."""
        if self._prepared == (share, of) or self._writing is not None:
            return
        self._prepared = (share, of)
        num_bytes = sum(part.nbytes for part in parts_of(specs_of(survey()), share, of))
        self._thread.put(lambda: self._memory.prepare(num_bytes))

    # ---- on any thread

    def save(self, parked: Parked) -> None:
        """Have parked state saved on the writing thread. Asked again meanwhile, it is answered once."""
        with self._lock:
            if parked.place in self._saving:
                return
            self._saving.add(parked.place)
        self._thread.put(lambda: self._save(parked))

    # ---- on the writing thread

    def _write_snapshot(self, captured: Captured, stall_s: float, files: Pending | None) -> None:
        try:
            saved = self._write(captured, {}, stall_s, parked=False)
            if files is not None:
                files.wait(FILES_S)
        finally:
            self._writing = None
        self._tell(saved)

    def _save(self, parked: Parked) -> None:
        place = parked.place
        try:
            parked.keep_files()
            # memory of its own: should training go on meanwhile, a snapshot takes the other. Not pinned, as nobody is held for it
            captured = capture(parked.survey(), place, parked.facts, HostMemory(torch.device("cpu")))
            saved = self._write(captured, parked.modules, 0.0, parked=True)
            # what was read while training went on is of no one step
            if not parked.still():
                saved = self._failed(place, "training went on before the state was saved", parked=True)
        except Exception as error:  # noqa: BLE001  the edge: a state that cannot be copied is told
            saved = self._failed(place, f"the state could not be copied: {error!r}", parked=True)
        finally:
            with self._lock:
                self._saving.discard(place)
        self._tell(saved)

    def _write(self, captured: Captured, modules: Mapping[str, nn.Module], stall_s: float, *, parked: bool) -> Saved:
        place = captured.place
        faults.point("save", place.step - 1)
        try:
            if self._storage is None:
                self._storage = Storage(self._url)
            entry = write_share(self._storage, self._trainer, captured, modules)
        except CheckpointError as error:
            return self._failed(place, str(error), parked=parked)
        except Exception as error:  # noqa: BLE001  the thread's edge: told, so that nobody waits for it
            return self._failed(place, f"a fault of Surefoot's own: {error!r}", parked=parked)
        return self._saved(
            place, entry=entry.model_dump_json(), taken_at=captured.taken_at, stall_s=stall_s, parked=parked
        )

    def _failed(self, place: Place, error: str, *, parked: bool = False) -> Saved:
        return self._saved(place, error=error, parked=parked)

    def _saved(
        self,
        place: Place,
        *,
        entry: str = "",
        error: str = "",
        taken_at: float = 0.0,
        stall_s: float = 0.0,
        parked: bool,
    ) -> Saved:
        return Saved(
            trainer=self._trainer,
            generation=place.generation,
            round=place.round,
            step=place.step,
            share=place.share,
            of=place.of,
            entry=entry,
            error=error,
            taken_at=taken_at,
            stall_s=stall_s,
            parked=parked,
        )
