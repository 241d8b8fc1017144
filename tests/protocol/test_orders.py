"""In which order the supervisor's machine commands things, whatever it is told: each may be the last one that its process performs."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot_actors.protocol.membership.machine import (
    CancelTimer,
    Command,
    Committed,
    Finish,
    Kill,
    Lost,
    MembershipState,
    MessageReceived,
    PauseRequested,
    Phase,
    Record,
    Reserve,
    Reserved,
    Resized,
    RowRecorded,
    Send,
    SetTimer,
    Started,
    StateSaved,
    Suspected,
    SuspicionCleared,
    Timer,
    TimerFired,
    apply,
    begin,
)
from surefoot_actors.protocol.messages import (
    Done,
    EnterGeneration,
    GroupFailed,
    NoticeGiven,
    Parked,
    Raised,
    Returned,
)

from .test_membership import hello, report

# What may be told of a trainer, or of none, in the world as the machine knows it.
HAPPENINGS: dict[str, Any] = {
    "started": lambda t, g, n, s: Started(t),
    "hello": lambda t, g, n, s: hello(t),
    "another fingerprint": lambda t, g, n, s: hello(t, fingerprint="b"),
    "parked": lambda t, g, n, s: MessageReceived(Parked(trainer=t, generation=g, round=3)),
    "reported": lambda t, g, n, s: report(t, s, generation=g, round=3 + n % 2, parked=n % 2 == 0),
    "reported without a state": lambda t, g, n, s: report(t, s, generation=g, round=-1, retained=False),
    "done": lambda t, g, n, s: MessageReceived(Done(trainer=t, generation=g, steps=9, digest="d")),
    "returned": lambda t, g, n, s: MessageReceived(Returned(trainer=t)),
    "raised": lambda t, g, n, s: MessageReceived(
        Raised(trainer=t, kind="ValueError", message="no", traceback="", round=3, line=f"train.py:{n}")
    ),
    "group failed": lambda t, g, n, s: MessageReceived(GroupFailed(trainer=t, generation=g, reason="a peer is gone")),
    "notice": lambda t, g, n, s: MessageReceived(NoticeGiven(trainer=t, reason="spot")),
    "suspected": lambda t, g, n, s: Suspected(t, "silent"),
    "cleared": lambda t, g, n, s: SuspicionCleared(t),
    "lost": lambda t, g, n, s: Lost(t, "killed"),
    "resized": lambda t, g, n, s: Resized(1 + n),
    "checkpoint": lambda t, g, n, s: Committed(f"c{n}"),
    "row": lambda t, g, n, s: RowRecorded(n),
    "pause": lambda t, g, n, s: PauseRequested(),
    "saved": lambda t, g, n, s: StateSaved(),
    "patience": lambda t, g, n, s: TimerFired(Timer.PATIENCE),
    "grace": lambda t, g, n, s: TimerFired(Timer.START_GRACE),
}
# What is told mostly in each phase, so that runs live long enough to come to the rest.
USUAL: dict[Phase, list[str]] = {
    Phase.FORMING: ["started", "hello", "hello", "hello"],
    Phase.COLLECTING: ["reported", "reported", "reported", "reported without a state", "suspected", "lost"],
    Phase.RUNNING: ["parked", "suspected", "group failed", "notice", "patience"],
    Phase.SAVING: ["saved", "suspected", "lost"],
    Phase.CONCLUDING: ["suspected", "lost", "returned"],
}


def what_happens(phase: Phase, chance: int) -> str:
    """One of all that may happen, or, four times of five, one of the usual."""
    anything = list(HAPPENINGS)
    usual = USUAL.get(phase, anything)
    return usual[chance // 5 % len(usual)] if chance % 5 else anything[chance // 5 % len(anything)]


@settings(max_examples=100)
@given(
    target=st.integers(1, 4),
    saves=st.booleans(),
    story=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 3), st.integers(0, 3)), max_size=60),
)
def test_whatever_happens_things_are_commanded_in_an_order_that_may_be_cut_short(
    target: int, saves: bool, story: list[tuple[int, int, int]]
) -> None:
    state, _ = begin(MembershipState(num_sub_tasks=4, target=target, min_trainers=1, max_failures=99, saves=saves))
    for chance, which, number in story:
        there = (*state.members, *state.ready, *state.starting)
        if state.ended or not there:
            break
        generation = state.generation.number if state.generation else 1
        what = what_happens(state.phase, chance)
        event = HAPPENINGS[what](there[which % len(there)], generation, number, state)
        state = _applied(state, event)


def _applied(state: MembershipState, event: Any) -> MembershipState:
    after, commands = apply(state, event)
    check_order(commands)
    check_timers(state, after, commands)
    if Reserve() in commands and not after.ended:
        return _applied(after, Reserved(after.number + 1, f"n{after.number + 1}"))
    return after


def check_order(commands: tuple[Command, ...]) -> None:
    kinds = [type(c) for c in commands]
    ended = [c.trainer for c in commands if isinstance(c, Kill)]
    assert len(ended) == len(set(ended)), "one is ended twice"
    if Reserve in kinds:
        assert kinds.count(Reserve) == 1
        # others take the place of those that are given up as soon as the number is reserved (R9)
        assert Kill not in kinds[kinds.index(Reserve) :]
    if Record in kinds:
        # nobody enters a generation that is not recorded, or that one is a member of who is given up (R9)
        entered = [i for i, c in enumerate(commands) if isinstance(c, Send) and isinstance(c.message, EnterGeneration)]
        assert entered
        assert min(entered) > kinds.index(Record)
        assert Kill not in kinds[kinds.index(Record) :]
    if Finish in kinds:
        # all are ended by it (R8)
        assert set(kinds[kinds.index(Finish) :]) <= {Finish}


def check_timers(before: MembershipState, after: MembershipState, commands: tuple[Command, ...]) -> None:
    if after.ended:
        return
    timers = set(before.timers)
    for command in commands:
        match command:
            case SetTimer(timer=timer):
                assert timer not in timers
                timers.add(timer)
            case CancelTimer(timer=timer):
                timers.discard(timer)
    assert set(after.timers) <= timers
