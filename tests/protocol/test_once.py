"""What only one trainer does: whatever is lost, doubled or late, one at a time is at it, and nobody waits in vain."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.protocol.messages import OnceAsked, OnceDone
from surefoot_actors.protocol.once import Gone, Keep, Kept, OnceState, Tell, apply

KEY = "once train.py:3 #1"


def asked(trainer: str, key: str = KEY) -> OnceAsked:
    return OnceAsked(trainer=trainer, key=key)


def done(trainer: str, key: str = KEY) -> OnceDone:
    return OnceDone(trainer=trainer, key=key)


def after(*events: OnceAsked | OnceDone | Gone, state: OnceState | None = None) -> tuple[OnceState, list[Tell]]:
    """Return the last state, and all that was told."""
    state, told = state or OnceState(), []
    for event in events:
        state, commands = apply(state, event)
        told += [c for c in commands if isinstance(c, Tell)]
    return state, told


def test_the_first_does_it_and_the_others_wait() -> None:
    state, told = after(asked("t0"), asked("t1"), asked("t0"), asked("t1"))
    assert told == [Tell("t0", KEY, False)] * 2
    _, told = after(done("t0"), done("t0"), asked("t2"), state=state)
    assert told == [Tell("t1", KEY, True), Tell("t2", KEY, True)]


def test_the_next_one_does_what_one_died_at() -> None:
    state, told = after(asked("t0"), asked("t1"), asked("t2"), Gone("t1"), Gone("t0"))
    assert told == [Tell("t0", KEY, False), Tell("t2", KEY, False)]
    assert after(done("t0"), state=state) == (state, []), "one that is out was believed"
    state, told = after(Gone("t2"), asked("t3"), state=state)
    assert told == [Tell("t3", KEY, False)]


def test_calls_are_apart() -> None:
    _, told = after(asked("t0", "a"), asked("t1", "b"), done("t0", "a"), asked("t1", "a"))
    assert told == [Tell("t0", "a", False), Tell("t1", "b", False), Tell("t1", "a", True)]


@dataclass
class World:
    """A supervisor and its trainers; each asks once, and does what it is told to."""

    state: OnceState = field(default_factory=OnceState)
    kept: Kept = field(default_factory=Kept)
    to: dict[str, deque[Tell]] = field(default_factory=dict)
    # "asking", "at it", "on"
    at: dict[str, str] = field(default_factory=dict)
    inbox: list[OnceAsked | OnceDone | Gone] = field(default_factory=list)
    ever_done: bool = False

    def feed(self, event: OnceAsked | OnceDone | Gone) -> None:
        self.state, commands = apply(self.state, event)
        for command in commands:
            if isinstance(command, Keep):
                self.kept = command.kept
            else:
                self.to.setdefault(command.trainer, deque()).append(command)

    def hear(self, trainer: str) -> None:
        """Deliver what the trainer was told first."""
        if trainer not in self.at or not self.to.get(trainer):
            return
        told = self.to[trainer].popleft()
        if self.at[trainer] != "asking":
            return
        assert told.done or not self.ever_done, "done twice"
        assert not told.done or self.ever_done, "skipped, though nobody had done it"
        self.at[trainer] = "on" if told.done else "at it"
        assert list(self.at.values()).count("at it") <= 1, "two are at it"

    def end(self, trainer: str) -> None:
        """The trainer has done it."""
        if self.at.get(trainer) == "at it":
            self.at[trainer], self.ever_done = "on", True
            self.inbox.append(done(trainer))

    def die(self, trainer: str) -> None:
        if trainer in self.at:
            if self.at[trainer] == "on" and done(trainer) in self.inbox:
                self.ever_done = False  # nobody knows of it: another one does it, while this one reads it no more
            del self.at[trainer]
            self.inbox = [e for e in self.inbox if e.trainer != trainer]
            self.inbox.append(Gone(trainer))

    def restart(self) -> None:
        """Another supervisor, which ends all that are no members yet: here, all."""
        gone = list(self.at)
        self.state, self.to, self.inbox = OnceState(kept=self.kept), {}, []
        self.at = {}
        self.ever_done = KEY in self.kept.done
        for trainer in {*self.kept.running.values(), *gone}:
            self.feed(Gone(trainer))


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "hear", "end", "take", "double", "die", "restart"]), st.integers(0, 5)))
)
def test_whatever_happens_one_at_a_time_is_at_it_and_nobody_waits_in_vain(acts: list[tuple[str, int]]) -> None:
    world, born = World(), 0
    for act, k in acts:
        trainers = sorted(world.at)
        trainer = trainers[k % len(trainers)] if trainers else ""
        match act:
            case "ask":
                world.at[f"t{born}"] = "asking"
                world.inbox.append(asked(f"t{born}"))
                born += 1
            case "hear":
                world.hear(trainer)
            case "end":
                world.end(trainer)
            case "take" if world.inbox:
                world.feed(world.inbox.pop(0))
            case "double" if world.inbox:
                world.feed(world.inbox[0])
            case "die":
                world.die(trainer)
            case "restart":
                world.restart()
    settle(world)
    assert set(world.at.values()) <= {"on"}, "somebody waits in vain"


def settle(world: World) -> None:
    """Let everything that is bound to happen happen."""
    for _ in range(200):
        while world.inbox:
            world.feed(world.inbox.pop(0))
        for trainer in sorted(world.at):
            world.hear(trainer)
            world.end(trainer)
