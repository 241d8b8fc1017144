"""The supervisor's part in the protocol of generations, as a pure state machine: `step(state, event) -> (state, commands)`.

    FORMING ──enough are ready──▶ RESERVING ──number is durable──▶ COLLECTING ──all live members reported──▶ RUNNING
       ▲                             ▲ ▲                            │    │                                     │  │
       └──────── everyone lost ──────┼─┼────────────────────────────┘    └── all reported done ──▶ CONCLUDING  │  │
                                     │ └── a member lost, suspected, broken; all have left ────────────────────┘  │
                                     └────────────────── a member lost ── CONCLUDING ◀── all done ────────────────┘
    CONCLUDING ──the elected one returned──▶ ENDED (succeeded);   any ──user error, cancel, hopeless──▶ ENDED

Decisions are values with a reason, told as events. Nothing here knows Ray, clocks or the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import assert_never

from surefoot.events import EventKind
from surefoot_actors.protocol.membership_state import (
    Came,
    Cancelled,
    Command,
    Committed,
    Emit,
    Event,
    Finish,
    Found,
    GraceOver,
    Kill,
    Lost,
    MembershipState,
    Move,
    Outcome,
    PauseWanted,
    Phase,
    Record,
    Reserve,
    Reserved,
    Resized,
    Send,
    Started,
    StartTrainer,
    StateSaved,
    Suspected,
    Trusted,
    Withdraw,
)
from surefoot_actors.protocol.messages import (
    Broken,
    Conclude,
    Done,
    End,
    Ended,
    Enter,
    Flag,
    FromTrainer,
    Generation,
    Hello,
    Leaving,
    Left,
    Member,
    NotRestored,
    Over,
    Raised,
    Report,
    Restored,
    Returned,
    Saved,
)
from surefoot_actors.protocol.plan import Holding, assign, owned, spans

__all__ = [
    "Came",
    "Cancelled",
    "Command",
    "Committed",
    "Emit",
    "Event",
    "Finish",
    "Found",
    "GraceOver",
    "Kill",
    "Lost",
    "MembershipState",
    "Outcome",
    "PauseWanted",
    "Phase",
    "Record",
    "Reserve",
    "Reserved",
    "Resized",
    "Send",
    "StartTrainer",
    "Started",
    "StateSaved",
    "Suspected",
    "Trusted",
    "Withdraw",
    "begin",
    "resume",
    "step",
]


# Groups that break one after the other without a round in between, before the attempt is given up.
MAX_BROKEN_GROUPS = 20
# Trainers that die one after the other without a step in between, before the attempt is given up.
MAX_FRUITLESS_LOSSES = 5


def begin(state: MembershipState) -> Outcome:
    """Start a new attempt: ask for the trainers."""
    return _fill(state)


def resume(state: MembershipState, found: Found) -> Outcome:
    """Take over from a supervisor that is gone (R4): members of the newest generation survive, anyone else is ended."""
    if found.finished:
        return replace(state, phase=Phase.ENDED), (Finish("succeeded", "finished before this supervisor started"),)
    strangers = tuple(t for t in found.trainers if not adopts(found, t))
    kills = tuple(Kill(t, "not a member of the newest generation") for t in strangers)
    names = [int(t[1:]) for t in (*found.trainers, *found.members)]
    state = replace(state, num_started=max(names, default=-1) + 1, number=found.number)
    if not found.members:
        state, more = begin(state)
        return state, kills + more
    survivors = tuple(dict.fromkeys((*found.members, *(t for t in found.trainers if adopts(found, t)))))
    members = tuple(Member(trainer=t, own=0, role="settled") for t in survivors)
    # nobody reads of it more than who its members are; where it started is not known here
    generation = Generation(number=found.number, nonce="", start=-1, members=members, store=("", 0))
    lost = frozenset(found.members) - frozenset(found.trainers)
    state, more = _start_over(replace(state, generation=generation, lost=lost), "the supervisor was restarted")
    return state, kills + more


def step(state: MembershipState, event: Event) -> Outcome:
    """Apply one event."""
    if state.ended:
        return state, ()
    match event:
        case Came(message=message):
            return _came(state, message)
        case Lost(trainer=trainer, reason=reason):
            return _lost(state, trainer, reason)
        case Suspected(trainer=trainer, reason=reason):
            return _suspected(state, trainer, reason)
        case Trusted(trainer=trainer):
            return _trusted(state, trainer)
        case Reserved(number=number, nonce=nonce):
            return _reserved(state, number, nonce)
        case Resized(target=target):
            return _then(replace(state, target=target), _trim, _fill, _form_if_enough, _flag_if_wanted)
        case Cancelled(reason=reason):
            return _end(state, "cancelled", reason)
        case GraceOver():
            return _form_if_enough(replace(state, grace_over=True))
        case Committed() | PauseWanted() | StateSaved():
            raise NotImplementedError
        case Started(trainer=trainer):
            return state, (Emit(EventKind.TRAINER_STARTED, {"trainer": trainer}),)
        case _:
            assert_never(event)


def _then(state: MembershipState, *moves: Move) -> Outcome:
    commands: tuple[Command, ...] = ()
    for move in moves:
        state, more = move(state)
        commands += more
    return state, commands


# ---- the rules, one function each, so that a test can take one away


def adopts(found: Found, trainer: str) -> bool:
    """R4: survivors are only members of the newest generation."""
    return trainer in found.members


def may_decide(state: MembershipState, reporters: Mapping[str, Report]) -> bool:
    """R9: fencing happens at a decision in which someone with state has reported, or nobody is left to wait for."""
    return any(r.round >= 0 for r in reporters.values()) or all(t in state.reports for t in state.members)


def may_leave(reports: Iterable[Report]) -> bool:
    """R7: a drain takes effect only where nobody is behind and the leavers hold nothing of the current round."""
    return all(r.parked for r in reports)


def gives_state(report: Report) -> bool:
    """R5: state for a joiner comes only from trainers parked with the optimizer applied."""
    return report.parked


def cut_short(state: MembershipState, reports: Mapping[str, Report]) -> frozenset[str]:
    """R5: joiners that may hold part of a state. It founds no run, unless it is the one of round 0."""
    if state.generation is None or state.generation.start == 0:
        return frozenset()
    return frozenset(t for t, report in reports.items() if report.round < 0)


# ---- messages


def _came(state: MembershipState, message: FromTrainer) -> Outcome:
    match message:
        case Hello():
            return _hello(state, message)
        case Report():
            return _report(state, message)
        case Left():
            return _left(state, message)
        case Done():
            return _done(state, message)
        case Returned(trainer=trainer):
            # in any phase, and whichever supervisor elected it: every step was committed by then
            if trainer != state.elected and trainer not in state.members:
                return state, ()
            return _end(state, "succeeded", "every step is committed and the train function returned")
        case Raised(trainer=trainer) if trainer not in (*state.members, *state.ready, *state.starting):
            return state, ()  # it was drained or fenced: what its code does then decides nothing
        case Raised():
            data = {
                "reason": f"{message.kind}: {message.message}",
                "traceback": message.traceback,
                "trainer": message.trainer,
            }
            state, commands = _end(state, "failed", f"{message.kind}: {message.message}")
            return state, (Emit(EventKind.FAILED, data), *commands)
        case Broken(trainer=trainer, generation=number, reason=reason):
            if state.phase is not Phase.RUNNING or number != _number(state) or trainer not in state.members:
                return state, ()
            return _broken(state, f"{trainer}'s process group failed: {reason}")
        case Ended() | Saved():
            return state, ()
        case Restored() | NotRestored() | Leaving():
            raise NotImplementedError
        case _:
            assert_never(message)


def _broken(state: MembershipState, reason: str) -> Outcome:
    """Form another group, unless they break one after the other and nothing comes of it."""
    state = replace(state, num_broken=state.num_broken + 1)
    if state.num_broken > MAX_BROKEN_GROUPS:
        return _end(
            state, "failed", f"{state.num_broken} process groups failed without a step in between; the last: {reason}"
        )
    return _start_over(state, reason)


def _number(state: MembershipState) -> int:
    return state.generation.number if state.generation else 0


def _hello(state: MembershipState, hello: Hello) -> Outcome:
    trainer = hello.trainer
    if trainer not in state.starting:
        return state, ()
    state = replace(state, starting=_without(state.starting, trainer))
    if state.num_steps is not None and hello.num_steps != state.num_steps:
        return _fail(state, trainer, _OTHER_STEPS.format(trainer, hello.num_steps, state.num_steps))
    refused = _differs(state, hello)
    if refused:
        event = Emit(EventKind.TRAINER_REFUSED, {"trainer": trainer, "reason": refused})
        state, more = _count_loss(state, f"{trainer} was refused: {refused}")
        return state, (event, Kill(trainer, refused), *more)
    state = replace(
        state,
        ready=(*state.ready, trainer),
        stores={**state.stores, trainer: hello.store},
        fingerprint=hello.fingerprint,
        num_steps=hello.num_steps,
    )
    ready = Emit(EventKind.TRAINER_READY, {"trainer": trainer, "pid": hello.pid, "node": hello.node})
    state, more = _then(state, _form_if_enough, _flag_if_wanted)
    return state, (ready, *more)


def _differs(state: MembershipState, hello: Hello) -> str:
    if state.fingerprint is not None and hello.fingerprint != state.fingerprint:
        ours, theirs = dict(state.fingerprint), dict(hello.fingerprint)
        names = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
        return "another fingerprint: " + "; ".join(
            f"{k} is {theirs.get(k)!r}, the run's {ours.get(k)!r}" for k in names
        )
    return ""


def _fail(state: MembershipState, trainer: str, reason: str) -> Outcome:
    """Fail the job for what the training code does."""
    state, commands = _end(state, "failed", reason)
    return state, (Emit(EventKind.FAILED, {"reason": reason, "traceback": "", "trainer": trainer}), *commands)


_OTHER_STEPS = (
    "ContractError: {} asks for run.steps({}) where the others ask for run.steps({}): the number of steps must be the same on every "
    "trainer; take it from run.config"
)


def _report(state: MembershipState, report: Report) -> Outcome:
    current = report.number == state.number and report.incarnation == state.incarnation
    if state.phase is not Phase.COLLECTING or not current or report.trainer not in state.members:
        return state, ()
    stores = {**state.stores, report.trainer: report.store}
    return _decide_if_all(replace(state, reports={**state.reports, report.trainer: report}, stores=stores))


def _left(state: MembershipState, left: Left) -> Outcome:
    if state.phase is not Phase.RUNNING or left.generation != _number(state) or left.trainer not in state.members:
        return state, ()
    state = _progressed(replace(state, left=state.left | {left.trainer}), left.round)
    return _over_if_all_left(state)


def _over_if_all_left(state: MembershipState) -> Outcome:
    if state.left and all(t in state.left or t in state.done for t in state.members):
        return _start_over(state, "a planned change")
    return state, ()


def _done(state: MembershipState, done: Done) -> Outcome:
    if state.phase is not Phase.RUNNING or done.generation != _number(state) or done.trainer not in state.members:
        return state, ()
    return _conclude_if_all_done(replace(state, done={**state.done, done.trainer: done}))


def _conclude_if_all_done(state: MembershipState) -> Outcome:
    """The run's steps are complete when every live member says so, and all hold the same bytes."""
    members = state.members
    if not members or any(t not in state.done for t in members):
        return state, ()
    digests = {state.done[t].digest for t in members}
    if len(digests) > 1:
        return _end(state, "failed", "the trainers' final states differ: run `surefoot check` on this train function")
    finished = Emit(EventKind.FINISHED, {"steps": state.done[members[0]].steps, "digest": digests.pop()})
    state, commands = _elect(replace(state, phase=Phase.CONCLUDING))
    return state, (finished, *commands)


def _elect(state: MembershipState) -> Outcome:
    elected = state.elected if state.elected in state.members else state.members[0]
    return replace(state, elected=elected), (Send(elected, Conclude(incarnation=state.incarnation)),)


# ---- losses


def _lost(state: MembershipState, trainer: str, reason: str) -> Outcome:
    known = trainer in state.starting or trainer in state.ready or trainer in state.members
    if not known:
        return state, ()
    was_member = trainer in state.members
    event = _lost_event(trainer, reason)
    state = replace(
        state,
        starting=_without(state.starting, trainer),
        ready=_without(state.ready, trainer),
        lost=state.lost | {trainer} if was_member else state.lost,
        suspected=state.suspected - {trainer},
    )
    state, commands = _count_loss(state, f"{trainer} was lost: {reason}")
    if state.ended:
        return state, (event, *commands)
    state, more = _after_loss(state, f"{trainer} was lost: {reason}") if was_member else _form_if_enough(state)
    return state, (event, *commands, *more)


def _after_loss(state: MembershipState, reason: str) -> Outcome:
    match state.phase:
        case Phase.COLLECTING:
            return _decide_if_all(state)
        case Phase.RUNNING:
            state, commands = _conclude_if_all_done(state)
            return (state, commands) if state.phase is not Phase.RUNNING else _start_over(state, reason)
        case Phase.CONCLUDING if state.members:
            return _elect(state) if state.elected not in state.members else (state, ())
        case Phase.CONCLUDING:
            return _start_over(state, reason)
        case Phase.FORMING | Phase.RESTORING | Phase.RESERVING | Phase.ENDED | Phase.CONCLUDING | Phase.SAVING:
            return state, ()
        case _:
            assert_never(state.phase)


def _count_loss(state: MembershipState, reason: str) -> Outcome:
    """Replace a lost trainer, unless they die one after the other and nothing comes of it."""
    state = replace(state, fruitless=state.fruitless + 1)
    if state.fruitless > max(MAX_FRUITLESS_LOSSES, 2 * state.target):
        return _end(
            state, "failed", f"{state.fruitless} trainers were lost without a step in between; the last: {reason}"
        )
    return _fill(state)


def _progressed(state: MembershipState, round_number: int) -> MembershipState:
    if round_number <= state.newest_round:
        return state
    return replace(state, newest_round=round_number, fruitless=0, num_broken=0)


def _suspected(state: MembershipState, trainer: str, reason: str) -> Outcome:
    if trainer in state.starting or trainer in state.ready:
        # no state is at stake: simply another one instead
        state, commands = _lost(state, trainer, reason)
        return state, (Kill(trainer, reason), *commands)
    if trainer not in state.members:
        return state, ()
    state = replace(state, suspected=state.suspected | {trainer})
    if state.phase is Phase.COLLECTING:
        return _decide_if_all(state)
    if state.phase in (Phase.RUNNING, Phase.CONCLUDING):
        return _start_over(state, f"{trainer} is suspected: {reason}")
    return state, ()


def _trusted(state: MembershipState, trainer: str) -> Outcome:
    state = replace(state, suspected=state.suspected - {trainer})
    others = state.suspected.intersection(state.members)
    if state.phase in (Phase.RUNNING, Phase.CONCLUDING) and trainer in state.members and others:
        # suspected ones were taken along only because nobody better had state
        return _start_over(state, f"{min(others)} is still suspected")
    return state, ()


# ---- how many there should be


def _fill(state: MembershipState) -> Outcome:
    """Ask for as many trainers as are missing."""
    missing = state.target - len(state.members) - len(state.ready) - len(state.starting)
    if missing <= 0 or state.phase in (Phase.CONCLUDING, Phase.ENDED):
        return state, ()
    names = tuple(f"t{k}" for k in range(state.num_started, state.num_started + missing))
    state = replace(state, starting=state.starting + names, num_started=state.num_started + missing)
    return state, tuple(StartTrainer(t) for t in names)


def _trim(state: MembershipState) -> Outcome:
    """Withdraw those that are no longer wanted and have no state yet: first the ones still starting."""
    surplus = len(state.members) + len(state.ready) + len(state.starting) - state.target
    if surplus <= 0:
        return state, ()
    starting = state.starting[::-1][:surplus]
    ready = state.ready[::-1][: max(0, surplus - len(starting))]
    state = replace(state, starting=_less(state.starting, starting), ready=_less(state.ready, ready))
    ends = tuple(Send(t, End(incarnation=state.incarnation, reason="not wanted any more")) for t in ready)
    return state, (*(Withdraw(t) for t in starting), *ends)


def _form_if_enough(state: MembershipState) -> Outcome:
    """Found the first generation when all wanted trainers are ready, or enough are and the rest keeps us waiting."""
    if state.phase is not Phase.FORMING:
        return state, ()
    enough = len(state.ready) >= state.target or (
        len(state.ready) >= state.min_trainers and (state.grace_over or not state.starting)
    )
    if not enough:
        return state, ()
    return replace(state, phase=Phase.RESERVING, why="the first generation"), (Reserve(),)


def _flag_if_wanted(state: MembershipState) -> Outcome:
    """Ask for the end of the generation at the next step boundary, if a change is wanted: a joiner waits, or too many are here."""
    members = state.members
    wanted = len(members) > state.target or (bool(state.ready) and len(members) < state.target)
    if state.phase is not Phase.RUNNING or state.flagged or not wanted:
        return state, ()
    flag = Flag(number=_number(state), incarnation=state.incarnation)
    return replace(state, flagged=True), tuple(Send(t, flag) for t in members)


# ---- from one generation to the next


def _start_over(state: MembershipState, reason: str) -> Outcome:
    """End the generation: first the next number is made durable (R3)."""
    state = replace(state, phase=Phase.RESERVING, reports={}, left=frozenset(), done={}, flagged=False, why=reason)
    return state, (Reserve(),)


def _reserved(state: MembershipState, number: int, nonce: str) -> Outcome:
    if state.phase is not Phase.RESERVING:
        return state, ()
    state = replace(state, number=number, nonce=nonce)
    if state.generation is None:
        return _found(state, number, nonce)
    over = Over(number=number, incarnation=state.incarnation)
    overs = tuple(Send(t, over) for t in state.members)
    state, more = _decide_if_all(replace(state, phase=Phase.COLLECTING))
    return state, (*overs, *more)


def _found(state: MembershipState, number: int, nonce: str) -> Outcome:
    """Make the first generation: one member's state is the run's, the others join it."""
    chosen = state.ready[: state.target]
    if len(chosen) < state.min_trainers:
        return replace(state, phase=Phase.FORMING), ()
    own = spans(len(chosen), state.num_sub_tasks)
    members = tuple(Member(trainer=t, own=own[k], role="joining" if k else "settled") for k, t in enumerate(chosen))
    generation = Generation(number=number, nonce=nonce, start=0, members=members, store=state.stores[chosen[0]])
    return _enact(state, generation, joined=chosen, left=())


def _decide_if_all(state: MembershipState) -> Outcome:
    """Decide the next generation once nobody is worth waiting for."""
    waiting = [t for t in state.members if t not in state.reports and t not in state.suspected]
    if state.phase is not Phase.COLLECTING or waiting:
        return state, ()
    reports = _worth_going_by(state)
    if not may_decide(state, reports):
        return state, ()
    if not any(r.round >= 0 for r in reports.values()):
        return _everyone_lost(state, reports)
    return _decide(state, reports)


def _worth_going_by(state: MembershipState) -> dict[str, Report]:
    """Return the reports in rank order: of suspected members only those with state, and only if nobody else has any.

    A member may report and then stop; nobody would tell of it a second time.
    """
    reports = {t: state.reports[t] for t in state.members if t in state.reports}
    healthy = {t: r for t, r in reports.items() if t not in state.suspected}
    if any(r.round >= 0 for r in healthy.values()):
        return healthy
    return {t: r for t, r in reports.items() if t in healthy or r.round >= 0}


def _everyone_lost(state: MembershipState, stateless: Mapping[str, Report]) -> Outcome:
    """No state is left anywhere. Nothing is checkpointed yet, so the run begins again: same steps, same bytes."""
    began = state.newest_round > 0 or (state.generation is not None and len(state.generation.members) == 1)
    warning = (
        "every trainer that held state was lost: starting again from step 0"
        if began
        else "starting the first generation again"
    )
    half = state.half | cut_short(state, stateless)
    waiting = (*stateless, *state.ready)
    kills = tuple(Kill(t, "it may hold part of a state that is lost") for t in waiting if t in half)
    kills += tuple(Kill(t, "did not report in time") for t in state.members if t not in stateless)
    state = replace(
        state,
        phase=Phase.FORMING,
        generation=None,
        newest_round=0,
        lost=frozenset(),
        suspected=frozenset(),
        ready=_less(waiting, half),
        half=frozenset(),
    )
    state, more = _then(state, _fill, _form_if_enough)
    return state, (Emit(EventKind.WARNING, {"message": warning}), *kills, *more)


def _decide(state: MembershipState, reports: Mapping[str, Report]) -> Outcome:
    """Make the next generation out of what its members reported."""
    start = max(r.round for r in reports.values())
    stateful = {t: r for t, r in reports.items() if r.round >= 0}
    fenced = tuple(t for t in state.members if t not in reports)
    planned = may_leave(stateful.values())
    leavers = tuple(stateful)[state.target :] if planned else ()
    staying = {t: r for t, r in stateful.items() if t not in leavers}
    again = tuple(t for t in reports if t not in stateful)  # joiners whose joining was cut short
    waiting = again + tuple(t for t in state.ready if t not in again)
    takes = all(gives_state(r) for r in staying.values() if r.round == start)
    joiners = waiting[: max(0, state.target - len(staying))] if takes else ()
    state = replace(
        _progressed(state, start), ready=_less(waiting, joiners), half=state.half | cut_short(state, reports)
    )
    members = _members(staying, joiners, start, state.num_sub_tasks)
    store = state.stores[members[0].trainer]
    generation = Generation(number=state.number, nonce=state.nonce, start=start, members=members, store=store)
    lost = frozenset(t for t in _names(state.generation) if t in state.lost) | frozenset(fenced)
    again_count = _computed_again(state.generation, lost, start, state.num_sub_tasks)
    newest = next(r for r in reports.values() if r.round == start)
    at = newest.step
    state = replace(
        state,
        num_steps=state.num_steps if state.num_steps is not None else newest.num_steps,
        fingerprint=state.fingerprint if state.fingerprint is not None else newest.fingerprint,
    )
    kills = tuple(Kill(t, "did not report in time") for t in fenced)
    tells = tuple(_lost_event(t, "fenced: it did not report in time") for t in fenced)
    tells += tuple(Emit(EventKind.TRAINER_LEFT, {"trainer": t, "step": at}) for t in leavers)
    ends = tuple(Send(t, End(incarnation=state.incarnation, reason="drained")) for t in leavers)
    state, commands = _enact(
        state, generation, joined=joiners, left=leavers, lost=tuple(sorted(lost)), again=again_count, at=at
    )
    return state, (*kills, *commands, *ends, *tells)


def _members(
    staying: Mapping[str, Report], joiners: tuple[str, ...], start: int, num_sub_tasks: int
) -> tuple[Member, ...]:
    settled = {t: r for t, r in staying.items() if r.round == start}
    behind = {t: r for t, r in staying.items() if r.round < start}
    assert all(r.round == start - 1 for r in behind.values()), "members more than one round apart"
    holders = [t for t, r in settled.items() if r.retained]
    assert holders or not behind, "nobody holds the merged vector that members missed"
    if all(r.parked for r in settled.values()) and not behind:
        order = (*settled, *joiners)
        own = dict(zip(order, spans(len(order), num_sub_tasks), strict=True))
    else:
        holdings = {t: Holding(held=r.held, own=r.own, sub_task_s=r.sub_task_s) for t, r in settled.items()}
        holdings |= {t: Holding(sub_task_s=r.sub_task_s) for t, r in behind.items()} | {t: Holding() for t in joiners}
        own = assign(holdings, num_sub_tasks)
        order = (*settled, *behind, *joiners)
    source = {t: order.index(holders[k % len(holders)]) for k, t in enumerate(behind)}
    return tuple(
        Member(
            trainer=t,
            own=own[t],
            role="settled" if t in settled else "behind" if t in behind else "joining",
            source=source.get(t),
        )
        for t in order
    )


def _computed_again(generation: Generation | None, lost: frozenset[str], start: int, num_sub_tasks: int) -> int:
    """Upper bound of the sub-tasks of the start round that are computed a second time: what the lost ones owned of it."""
    if generation is None:
        return 0
    owns = (
        owned(generation, rank, start, num_sub_tasks) for rank, m in enumerate(generation.members) if m.trainer in lost
    )
    return sum(mask.bit_count() for mask in owns)


def _enact(
    state: MembershipState,
    generation: Generation,
    *,
    joined: tuple[str, ...],
    left: tuple[str, ...],
    lost: tuple[str, ...] = (),
    again: int = 0,
    at: int = 0,
) -> Outcome:
    """Record the generation, then tell its members."""
    names = _names(generation)
    event = Emit(
        EventKind.GENERATION,
        {
            "generation": generation.number,
            "trainers": list(names),
            "step": at,
            "reason": state.why,
            "joined": list(joined),
            "lost": list(lost),
            "left": list(left),
            "sub_tasks_again": again,
            "num_steps": state.num_steps,
        },
    )
    state = replace(
        state,
        phase=Phase.RUNNING,
        generation=generation,
        ready=tuple(t for t in state.ready if t not in names),
        lost=frozenset(),
        suspected=state.suspected.intersection(names),
        reports={},
    )
    enter = Enter(generation=generation, incarnation=state.incarnation)
    sends = tuple(Send(t, enter) for t in names)
    state, more = _then(state, _trim, _fill, _flag_if_wanted)
    return state, (Record(generation), *sends, event, *more)


def _end(state: MembershipState, outcome: str, reason: str) -> Outcome:
    return replace(state, phase=Phase.ENDED, why=reason), (Finish(outcome, reason),)


# ---- small things


def _lost_event(trainer: str, reason: str) -> Emit:
    return Emit(EventKind.TRAINER_LOST, {"trainer": trainer, "reason": reason})


def _names(generation: Generation | None) -> tuple[str, ...]:
    return tuple(m.trainer for m in generation.members) if generation else ()


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(n for n in names if n != name)


def _less(names: tuple[str, ...], gone: Collection[str]) -> tuple[str, ...]:
    return tuple(n for n in names if n not in gone)
