"""The supervisor's side of checkpoints: asks for them, gathers the shares, commits the manifest last, keeps what is to be kept.

A snapshot is taken by every member at one step boundary; each writes its share in the background and tells `Saved`. A checkpoint
exists once its manifest does: whatever a loss, a slow disk or a lost message tears before that is never seen by a restore, and what was
wanted is asked for again. Training waits for nothing here, but for the end of training and for a pause, when all are parked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import JsonValue

from surefoot.errors import CheckpointError, DamagedError, RefusedError
from surefoot.events import EventKind
from surefoot.spec import JobSpec
from surefoot_actors.checkpoint.catalogue import Catalogue
from surefoot_actors.protocol.membership.machine import Committed, Event, MembershipState, Phase, SaveState, StateSaved
from surefoot_actors.protocol.messages import Save, Saved, Snapshot, ToTrainer
from surefoot_actors.tasks import Tasks

__all__ = ["CheckpointCoordinator"]

T = TypeVar("T")

# An asked-for checkpoint that has not come is asked for again after so long, and then more and more seldom.
ASK_AGAIN_S = 5.0
MOST_ASK_AGAIN_S = 600.0
# What could not be saved while all are parked is tried again after so long, and then more and more seldom.
TRY_AGAIN_S = 0.5
MOST_TRY_AGAIN_S = 30.0
# What was asked for and has not come for so long is told of.
SLOW_S = 600.0
# How long parked members may write their shares; and how long the end of training goes on failing to be saved, before the job does.
SHARES_S = 3600.0
FINAL_SAVE_S = 900.0
# How long the removal of old checkpoints may hold up an attempt's end.
REMOVE_S = 10.0
# How long a look at the storage may take that others wait for.
LOOK_S = 10.0
# Unfinished snapshots that are remembered: those of lost members never end.
MOST_OPEN = 100


@dataclass(slots=True)
class _Parked:
    """The shares of parked members, so far."""

    # in which the members are parked: what a share says of another one may have been copied while training went on
    generation: int
    of: int
    shares: dict[int, Saved] = field(default_factory=dict)
    error: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class CheckpointCoordinator:
    """One attempt's. Used on the supervisor's event loop; storage is touched in threads alone."""

    def __init__(
        self,
        spec: JobSpec,
        url: str,
        tell: Callable[..., None],
        send: Callable[[str, ToTrainer], None],
        happen: Callable[[Event], None],
        may_commit: Callable[[], bool],
        *,
        attempt: int = 1,
    ) -> None:
        """`may_commit`: whether no newer supervisor of the attempt has taken over; `attempt`: which of the job's this is."""
        self._policy = spec.checkpoint
        self._catalogue = Catalogue(spec, url, may_commit, attempt)
        self._tell, self._send, self._happen = tell, send, happen
        self._state: MembershipState | None = None
        # that training would go on with, after the newest checkpoint of this attempt; None: there is none
        self.newest_step: int | None = None
        # why one is wanted beside those that are due by their step (empty: none is), since when, and of when it must be (unix time)
        self._wanted, self._wanted_since, self._wanted_at = "", 0.0, 0.0
        # another one is wanted, or one was made; whether it is known which there were
        self._news, self._searched = asyncio.Event(), asyncio.Event()
        # of its own: storage that hangs must not keep the journal waiting for a thread
        self._executor = ThreadPoolExecutor(1, "checkpoints")
        self._open: dict[tuple[int, int, int], dict[int, Saved]] = {}
        self._failing = False
        self._parked: _Parked | None = None
        self._saving: asyncio.Task[None] | None = None
        self._tasks, self._removing = Tasks("checkpoints"), Tasks("retention")

    # ---- called by the supervisor

    async def find(self) -> tuple[str, ...]:
        """Return the URLs of this job's checkpoints, newest first, then those it is to begin from. Waits while the storage is away.

        Raises DamagedError or RefusedError where what the spec names is no checkpoint.
        """
        pause = TRY_AGAIN_S
        while True:
            try:
                found = await self._in_thread(self._catalogue.find)
                self._searched.set()
                return found
            except (DamagedError, RefusedError):
                self._searched.set()
                raise  # asked for in the spec, and not there: that is the user's to mend
            except Exception as error:  # noqa: BLE001  the edge to the storage
                # from step 0 it would end with the same bytes, but perhaps a week later: so it is waited for
                self._tell_failure(None, f"checkpoints could not be looked for, and are tried again: {error}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_TRY_AGAIN_S)

    async def sees(self, url: str) -> bool:
        """Whether all files of a checkpoint are there, as seen from the supervisor's node; where it cannot look, they may well be."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                return await self._in_thread(lambda: self._catalogue.is_there(url))
        return True

    def start(self) -> None:
        """Begin to ask for checkpoints."""
        if self._catalogue.there:
            self._tasks.spawn(self._ask())

    def attend(self, state: MembershipState) -> None:
        """Take note of where the run is."""
        self._state = state
        if self._saving is not None and state.phase is not Phase.SAVING:
            # they are parked no longer
            self._saving.cancel()
            self._saving = self._parked = None

    def want(self, reason: str) -> None:
        """Have a checkpoint made at the next step boundary."""
        if not self._catalogue.there:
            self._tell_failure(None, "this job has no place for checkpoints: set `checkpoint.url`")
            return
        self._wanted_since = self._wanted_at = time.time()
        self._wanted = reason
        self._news.set()

    def begin_from(self, url: str) -> None:
        """From now on this checkpoint of another job is the one to begin from, whatever else comes to lie where the spec says."""
        self._catalogue.beginning = url

    def saved(self, saved: Saved) -> None:
        """Take a share, or why there is none."""
        if saved.parked:
            self._take_parked(saved)
        elif saved.error:
            self._tell_failure(saved.step, f"{saved.trainer}: {saved.error}")
        else:
            self._take(saved)

    def save(self, command: SaveState, state: MembershipState) -> None:
        """Have parked members save the state; told again, begin again with the members that are left."""
        self._state = state
        if self._saving is not None:
            self._saving.cancel()
        self._saving = self._tasks.spawn(self._save_parked(command, state))

    async def close(self) -> None:
        """End what is under way; returns when nothing of it runs. What is being removed is removed first, if that is soon."""
        await self._removing.settle(REMOVE_S)
        await self._tasks.close()
        await self._removing.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    # ---- while training goes on

    async def _ask(self) -> None:
        """Ask for a checkpoint whenever one is due, again and again until one is there."""
        pause = ASK_AGAIN_S
        while True:
            self._news.clear()
            asked = bool(self._wanted) and self._ask_once()
            try:
                async with asyncio.timeout(pause if self._wanted else self._policy.every_s):
                    await self._news.wait()
                pause = ASK_AGAIN_S
            except TimeoutError:
                if not self._wanted:
                    self._wanted_since, self._wanted_at = time.time(), 0.0
                    self._wanted = f"every {self._policy.every_s:g} s"
                elif asked:
                    pause = min(2 * pause, MOST_ASK_AGAIN_S)
                    self._tell_if_slow()

    def _ask_once(self) -> bool:
        """Ask, if there is somebody to ask."""
        state = self._state
        if state is None or state.phase is not Phase.RUNNING or not state.members:
            return False
        # one of them: two who are told might pass it on in two rounds
        self._send(state.members[0], Snapshot(incarnation=state.incarnation))
        return True

    def _tell_if_slow(self) -> None:
        seconds = time.time() - self._wanted_since
        if seconds > SLOW_S:
            self._tell_failure(None, f"none has come for {seconds:.0f} s since it was wanted ({self._wanted})")

    def _take(self, saved: Saved) -> None:
        key = (saved.generation, saved.round, saved.of)
        shares = self._open.setdefault(key, {})
        shares[saved.share] = saved
        while len(self._open) > MOST_OPEN:
            self._open.pop(next(iter(self._open)))
        if len(shares) == saved.of:
            del self._open[key]
            self._tasks.spawn(self._commit_running(tuple(shares.values())))

    async def _commit_running(self, shares: tuple[Saved, ...]) -> None:
        # who asked wants the state as it was then, or later: a snapshot that was under way is another one
        wanted_at = self._wanted_at
        answers = min(share.taken_at for share in shares) >= wanted_at
        by_step = f"every {self._policy.every_steps} steps" if self._policy.every_steps else "under way already"
        reason = (self._wanted if answers else "") or by_step
        if await self._commit(shares, reason):
            if answers and wanted_at == self._wanted_at:
                self._wanted = ""
            self._news.set()

    async def _commit(self, shares: tuple[Saved, ...], reason: str) -> bool:
        """Make the checkpoint durable; tell of it, or why not."""
        try:
            made = await self._in_thread(lambda: self._catalogue.commit(shares, reason))
        except Exception as error:  # noqa: BLE001  the edge to the storage: whatever it is, training and saving go on
            self._tell_failure(shares[0].step, str(error) if isinstance(error, CheckpointError) else repr(error))
            return False
        self._failing = False
        self.newest_step = max(made.step, self.newest_step or 0)
        data: dict[str, JsonValue] = {
            "step": made.step,
            "url": made.url,
            "bytes": made.bytes,
            "seconds": round(max(0.0, time.time() - made.taken_at), 3),
            "stall_s": round(max(s.stall_s for s in shares), 6),
            "reason": reason,
        }
        if made.model:
            data["model"] = made.model
        self._tell(EventKind.CHECKPOINT, **data)
        self._happen(Committed(made.url))
        self._removing.spawn(self._retain(made.url))
        return True

    async def _retain(self, committed: str) -> None:
        await self._searched.wait()  # or the best of an earlier supervisor would not be known
        try:
            await self._in_thread(lambda: self._catalogue.retain(committed))
        except Exception as error:  # noqa: BLE001  the edge to the storage
            self._tell(EventKind.WARNING, message=f"old checkpoints could not be removed: {error}")

    def _tell_failure(self, step: int | None, reason: str) -> None:
        """Tell it, once until something has been saved again."""
        if not self._failing:
            self._failing = True
            self._tell(EventKind.CHECKPOINT_FAILED, step=step, reason=reason)

    # ---- while all are parked

    async def _save_parked(self, command: SaveState, state: MembershipState) -> None:
        """Save, as often as it takes; the end of training until it has failed for FINAL_SAVE_S."""
        if not self._catalogue.there:
            self._happen(StateSaved())
            return
        failing_since: float | None = None
        reason, pause = "paused" if command.pausing else "the end of training", TRY_AGAIN_S
        while True:
            error = await self._save_once(command, state, reason)
            if not error:
                self._happen(StateSaved())
                return
            failing_since = failing_since or time.monotonic()
            if not command.pausing and time.monotonic() - failing_since > FINAL_SAVE_S:
                self._happen(StateSaved(f"the final state could not be saved in {FINAL_SAVE_S:g} s: {error}"))
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_TRY_AGAIN_S)

    async def _save_once(self, command: SaveState, state: MembershipState, reason: str) -> str:
        """Return why it could not be saved; nothing when it is durable. A member that is lost meanwhile has this cancelled."""
        parked = self._parked = _Parked(generation=command.generation, of=len(command.members))
        for share, trainer in enumerate(command.members):
            self._send(trainer, Save(incarnation=state.incarnation, share=share, of=parked.of))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHARES_S):
                while len(parked.shares) < parked.of and not parked.error:
                    parked.changed.clear()
                    await parked.changed.wait()
        if len(parked.shares) < parked.of and not parked.error:
            parked.error = f"{parked.of - len(parked.shares)} of {parked.of} shares were not written in {SHARES_S:g} s"
        if parked.error:
            self._tell_failure(None, parked.error)
            return parked.error
        if await self._commit(tuple(parked.shares.values()), reason):
            return ""
        return "its manifest could not be written"

    def _take_parked(self, saved: Saved) -> None:
        parked = self._parked
        if parked is None or saved.of != parked.of or saved.generation != parked.generation:
            return
        if saved.error:
            parked.error = f"{saved.trainer}: {saved.error}"
        else:
            parked.shares[saved.share] = saved
        parked.changed.set()
