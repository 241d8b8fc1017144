"""The first generation, and the first after everyone with state was lost: begun anew, or from a checkpoint that one trainer reads.

That trainer is the founder: its state is the run's, the others join it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import JsonValue

from surefoot.events import EventKind
from surefoot.names import trainer_number
from surefoot.spec import JobState
from surefoot_actors.protocol.membership.commands import BeginFrom, Command, Emit, Kill, Outcome, Reserve, Send
from surefoot_actors.protocol.membership.common import end, fail, less, lost, then, warn
from surefoot_actors.protocol.membership.events import CheckpointsFound
from surefoot_actors.protocol.membership.failures import count, give_up_if_hopeless
from surefoot_actors.protocol.membership.generation import enact
from surefoot_actors.protocol.membership.scaling import fill
from surefoot_actors.protocol.membership.state import MembershipState, Phase
from surefoot_actors.protocol.messages import Generation, Member, NotRestored, Report, Restore, Restored
from surefoot_actors.protocol.spans import spans

__all__ = [
    "checkpoints_found",
    "cut_short",
    "everyone_lost",
    "form_if_enough",
    "found",
    "may_begin_anew",
    "not_restored",
    "restored",
    "source_missing",
]


# ---- the rules, one function each, so that a test can take one away


def cut_short(state: MembershipState, reports: Mapping[str, Report]) -> frozenset[str]:
    """R5: joiners that may hold part of a state. It founds no run, unless it is the one of round 0."""
    if state.generation is None or state.generation.start == 0:
        return frozenset()
    return frozenset(t for t, report in reports.items() if report.round < 0)


def may_begin_anew(state: MembershipState, trainer: str) -> bool:
    """R5: whoever holds a checkpoint's state, or part of a state, does not begin with round 0."""
    return trainer not in state.partial_state


# ---- who founds


def form_if_enough(state: MembershipState) -> Outcome:
    """Found the first generation when all wanted trainers are ready, or enough are and the rest keeps us waiting."""
    if state.phase is Phase.RESTORING and state.restorer not in state.ready:
        state = replace(state, phase=Phase.FORMING, restorer=None, restoring="")
    if state.phase is not Phase.FORMING or state.searching:
        return state, ()
    if not state.checkpoints:
        return then(state, _discard_unfit_to_begin, _begin_if_enough)
    return _restore(state) if _enough(state) else (state, ())


def checkpoints_found(state: MembershipState, found: CheckpointsFound) -> Outcome:
    """Take over the checkpoints that were there before this supervisor."""
    older = tuple(u for u in found.urls if u not in state.checkpoints)
    return form_if_enough(
        replace(state, searching=False, checkpoints=state.checkpoints + older, others=state.others | found.others)
    )


def source_missing(state: MembershipState, reason: str) -> Outcome:
    """There is nothing to begin with, which matters to nobody if the run began long ago: peers hold the state."""
    return fail(state, "", reason) if state.generation is None else checkpoints_found(state, CheckpointsFound(()))


def _enough(state: MembershipState) -> bool:
    return len(state.ready) >= state.target or (
        len(state.ready) >= state.min_trainers and (state.grace_over or not state.starting)
    )


def _discard_unfit_to_begin(state: MembershipState) -> Outcome:
    unfit = tuple(t for t in state.ready if not may_begin_anew(state, t))
    if not unfit:
        return state, ()
    state, more = fill(
        replace(state, ready=less(state.ready, unfit), partial_state=state.partial_state.difference(unfit))
    )
    why = "it holds a state other than the one to begin with"
    return state, (*(lost(t, why) for t in unfit), *(Kill(t, why) for t in unfit), *more)


def _begin_if_enough(state: MembershipState) -> Outcome:
    if not _enough(state):
        return state, ()
    if state.from_checkpoint:
        reason = (
            f"none of the checkpoints that this run could go on from is whole ({state.damage}); begin from another one, or without "
            "`restore`, from step 0"
        )
        return fail(state, "", reason)
    reason = state.reason or "the first generation"
    return replace(state, phase=Phase.RESERVING, restorer=None, restoring="", reason=reason), (Reserve(),)


def _restore(state: MembershipState) -> Outcome:
    """Have one trainer read the newest checkpoint. Told again to one that has read it, it is answered again."""
    restorer, url = state.ready[0], state.checkpoints[0]
    state = replace(state, phase=Phase.RESTORING, restorer=restorer, restoring=url)
    return state, (Send(restorer, Restore(url=url, incarnation=state.incarnation)),)


# ---- what came of reading the checkpoint


def restored(state: MembershipState, message: Restored) -> Outcome:
    if not _answers(state, message):
        return state, ()
    state = replace(
        state,
        phase=Phase.RESERVING,
        restored=(message.round, message.step),
        damage="",
        partial_state=state.partial_state | {message.trainer},
        reason=f"restored from {message.url}",
    )
    return state, (Reserve(),)


def not_restored(state: MembershipState, message: NotRestored) -> Outcome:
    if not _answers(state, message):
        return state, ()
    match message.cause:
        case "refused":
            return fail(state, message.trainer, message.reason)
        case "unfit":
            return _refuse(state, message.reason)
        case "late":
            return _dismiss(state, message)
        case "damaged" | "missing":
            skipped = Emit(EventKind.CHECKPOINT_SKIPPED, {"url": message.url, "reason": message.reason})
            rest = tuple(u for u in state.checkpoints if u != message.url)
            reason = "no checkpoint is whole: from step 0"
            damage = state.damage or message.reason
            state, more = form_if_enough(
                replace(state, phase=Phase.FORMING, checkpoints=rest, reason=reason, damage=damage)
            )
            return state, (skipped, *more)


def _dismiss(state: MembershipState, message: NotRestored) -> Outcome:
    """It is not where we thought that it is: end it, and have another one read the checkpoint."""
    trainer, reason = message.trainer, f"it could not read a checkpoint: {message.reason}"
    state = count(
        replace(state, ready=less(state.ready, (trainer,)), partial_state=state.partial_state - {trainer}), (trainer,)
    )
    state, more = then(state, lambda s: give_up_if_hopeless(s, f"{trainer}: {reason}"), fill, form_if_enough)
    return state, (lost(trainer, reason), Kill(trainer, reason), *more)


def _answers(state: MembershipState, message: Restored | NotRestored) -> bool:
    asked = state.phase is Phase.RESTORING and message.trainer == state.restorer
    return asked and message.url == state.restoring


def _refuse(state: MembershipState, reason: str) -> Outcome:
    """Kill all that are ready: they have one fingerprint, which is not the run's."""
    refused = state.ready
    commands: tuple[Command, ...] = ()
    for trainer in refused:
        commands += (
            Emit(EventKind.TRAINER_REFUSED, {"trainer": trainer, "reason": reason}),
            Kill(trainer, reason),
        )
    state = count(
        replace(state, ready=(), fingerprint=None, partial_state=state.partial_state.difference(refused)), refused
    )
    state, more = then(state, lambda s: give_up_if_hopeless(s, f"refused: {reason}"), fill, form_if_enough)
    return state, commands + more


# ---- the generation


def found(state: MembershipState) -> Outcome:
    """Make the first generation: one member's state is the run's, the others join it."""
    begins_anew = state.restorer is None
    # not in the order of their readiness, which is chance
    ready = tuple(sorted(state.ready, key=trainer_number))
    order = ready if begins_anew else (*_present(state), *less(ready, _present(state)))
    chosen = order[: state.target]
    if len(chosen) < state.min_trainers or not (begins_anew or _present(state)):
        # whoever has read the checkpoint keeps it, and is told again
        return form_if_enough(replace(state, phase=Phase.FORMING, restorer=None, restoring=""))
    start, at = (0, 0) if begins_anew else state.restored
    own = spans(len(chosen), state.num_sub_tasks)
    members = tuple(
        Member(trainer=t, own=own[k], role="joining" if k else "settled", checked=not k) for k, t in enumerate(chosen)
    )
    store = state.stores[chosen[0]]
    generation = Generation(number=state.number, nonce=state.nonce, start=start, members=members, store=store)
    told = () if begins_anew else _tell_restored(state, chosen[0], at)
    # the newest round is remembered, but it is no progress to come back to it
    newest = max((state.newest_round, state.newest_step), (start, at))
    state = replace(state, restorer=None, restoring="", newest_round=newest[0], newest_step=newest[1])
    state, commands = enact(state, generation, joined=chosen, at=at)
    return state, (*told, *commands)


def _tell_restored(state: MembershipState, founder: str, step: int) -> tuple[Command, ...]:
    """Tell which checkpoint the run goes on from, or begins from if it is another job's."""
    data: dict[str, JsonValue] = {"step": step, "url": state.restoring, "trainer": founder}
    if state.restoring not in state.others:
        return (Emit(EventKind.RESTORED, data),)
    return BeginFrom(state.restoring, step), Emit(EventKind.RESTORED, data | {"first_step": step})


def _present(state: MembershipState) -> tuple[str, ...]:
    return tuple(t for t in state.ready if t == state.restorer)


def everyone_lost(state: MembershipState, stateless: Mapping[str, Report]) -> Outcome:
    """Nobody with state is left: go on from the newest checkpoint, or begin again. Same steps, same bytes."""
    if state.pausing:
        return end(
            state,
            JobState.PAUSED,
            "every trainer that held state was lost; resuming goes on from the newest checkpoint",
        )
    began = state.newest_round > 0 or (state.generation is not None and len(state.generation.members) == 1)
    if state.checkpoints:
        warning = "every trainer that held state was lost: going on from the newest checkpoint"
    elif state.searching:
        warning = "every trainer that held state was lost: going on from the newest checkpoint, if there is one"
    elif began:
        warning = "every trainer that held state was lost: starting again from step 0"
    else:
        warning = "starting the first generation again"
    partial_state = state.partial_state | cut_short(state, stateless) | frozenset(state.leaving)
    waiting = (*stateless, *state.ready)
    silent = tuple(t for t in state.members if t not in stateless)
    why = "it may hold part of a state that is lost"
    ended = {t: state.leaving.get(t, why) for t in waiting if t in partial_state}
    ended |= dict.fromkeys(silent, "did not report in time")
    told = tuple(lost(t, reason) for t, reason in ended.items())
    kills = tuple(Kill(t, reason) for t, reason in ended.items())
    state = replace(
        count(state, silent),
        phase=Phase.FORMING,
        generation=None,
        lost=frozenset(),
        suspected=frozenset(),
        leaving={},
        ready=less(waiting, partial_state),
        partial_state=frozenset(),
        saved=False,
        reason=warning,
    )
    state, more = then(state, lambda s: give_up_if_hopeless(s, "trainers did not report"), fill, form_if_enough)
    return state, (warn(warning), *told, *kills, *more)
