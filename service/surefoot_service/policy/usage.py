"""What a job has used, folded out of its events: seconds on the cluster, its trainers' seconds and cost, what faults have cost. Pure.

The events are stored and stay, so the same comes out after any restart. A trainer counts from its start to its end, whether it
trains, starts or waits: its node is held for it all that while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from surefoot.budget import Budget
from surefoot.events import Event, EventKind
from surefoot.spec import JobState

__all__ = ["KINDS", "Account", "Amount", "Rate", "account_at", "fold", "spent"]

# what a trainer costs a second, by its node's group and market; None: that is not known
Rate = Callable[[str, str], float | None]

_ENDS = (EventKind.TRAINER_LOST, EventKind.TRAINER_LEFT, EventKind.TRAINER_REFUSED)
# the kinds of event that the fold looks at
KINDS = (
    EventKind.STATE, EventKind.TRAINER_STARTED, EventKind.TRAINER_READY, *_ENDS, EventKind.GENERATION, EventKind.RECOVERED,
    EventKind.RESTORED,
)  # fmt: skip
_ON_CLUSTER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.RECOVERING, JobState.PAUSING})
# so many numbers of trainers, and generations of each, are remembered with the steps that they began with
_GENERATIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Seconds of trainers, and what those of them cost that have a price."""

    trainer_s: float = 0.0
    priced_s: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            trainer_s=self.trainer_s + other.trainer_s,
            priced_s=self.priced_s + other.priced_s,
            cost=self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """One that is there."""

    since: datetime
    group: str = ""
    market: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a job has used."""

    state: str = ""
    # by the kind of node, of trainers that have ended
    used: Mapping[tuple[str, str], Amount] = field(default_factory=dict)
    there: Mapping[str, Trainer] = field(default_factory=dict)
    # members of the present generation
    members: int = 0
    # when it came to the cluster, and left it; the last one may still be there
    stays: tuple[tuple[datetime, datetime | None], ...] = ()
    recoveries: int = 0
    lost_s: float = 0.0
    lost: Amount = Amount()
    # when a whole attempt was lost, until another one trains
    away_since: datetime | None = None
    # of generations: the first step, and how many trainers
    sizes: tuple[tuple[int, int], ...] = ()
    # it goes on from a checkpoint next
    restoring: bool = False
    # at which steps it began again, as everybody that had the state was lost; when; and whether an attempt was lost with them, so
    # that nobody tells when it has recovered
    again: tuple[tuple[int, datetime, bool], ...] = ()

    @property
    def total(self) -> Amount:
        return sum(self.used.values(), Amount())

    def cluster_s(self, until: datetime) -> float:
        """Seconds on the cluster before that moment."""
        return sum(_seconds(begin, min(end or until, until)) for begin, end in self.stays)


def _seconds(begin: datetime, end: datetime) -> float:
    """Clocks of nodes differ: what ends before it began took no time."""
    return max(0.0, (end - begin).total_seconds())


def fold(account: Account, event: Event, rate: Rate) -> Account:
    """Take the next event into the account."""
    match event.kind:
        case EventKind.STATE:
            return _state(account, event, rate)
        case EventKind.TRAINER_STARTED:
            return replace(account, there={**account.there, _name(event): Trainer(since=event.at)})
        case EventKind.TRAINER_READY:
            since = account.there[_name(event)].since if _name(event) in account.there else event.at
            ready = Trainer(since=since, group=_text(event, "group"), market=_text(event, "market"))
            return replace(account, there={**account.there, _name(event): ready})
        case EventKind.GENERATION:
            return _generation(account, event)
        case EventKind.RECOVERED:
            return _recovered(account, event, rate)
        case EventKind.RESTORED:
            return replace(account, restoring=True)
        case kind if kind in _ENDS:
            return _ended(account, (_name(event),), event.at, rate)
    return account


def _name(event: Event) -> str:
    return str(event.data.get("trainer"))


def _text(event: Event, name: str) -> str:
    return str(event.data.get(name) or "")


def _ended(account: Account, names: tuple[str, ...], at: datetime, rate: Rate) -> Account:
    used, there = dict(account.used), dict(account.there)
    for name in names:
        if (trainer := there.pop(name, None)) is not None:
            kind = trainer.group, trainer.market
            used[kind] = used.get(kind, Amount()) + _amount(_seconds(trainer.since, at), rate(*kind))
    return replace(account, used=used, there=there)


def _amount(seconds: float, rate: float | None) -> Amount:
    if rate is None:
        return Amount(trainer_s=seconds)
    return Amount(trainer_s=seconds, priced_s=seconds, cost=seconds * rate)


def _state(account: Account, event: Event, rate: Rate) -> Account:
    before, state = account.state, _text(event, "state")
    account = replace(account, state=state)
    stays, open_stay = account.stays, bool(account.stays) and account.stays[-1][1] is None
    if state in _ON_CLUSTER:
        if not open_stay:
            account = replace(account, stays=(*stays, (event.at, None)))
        if state == JobState.RUNNING and account.away_since is not None:
            # a whole attempt was lost: what it was away
            account = _lost(
                account, _seconds(account.away_since, event.at), _there(account, account.away_since, event.at, rate)
            )
            account = replace(account, away_since=None)
        return account
    if open_stay:
        account = replace(account, stays=(*stays[:-1], (stays[-1][0], max(event.at, stays[-1][0]))))
    account = replace(_ended(account, tuple(account.there), event.at, rate), members=0)
    if state == JobState.QUEUED and before in (JobState.RUNNING, JobState.RECOVERING) and account.away_since is None:
        account = replace(account, away_since=event.at)
    return account


def _lost(account: Account, seconds: float, amount: Amount) -> Account:
    return replace(
        account, recoveries=account.recoveries + 1, lost_s=account.lost_s + seconds, lost=account.lost + amount
    )


def _generation(account: Account, event: Event) -> Account:
    told = event.data.get("trainers")
    members = len(told) if isinstance(told, list | tuple) else told if isinstance(told, int) else 0
    step = event.data.get("step")
    if not isinstance(step, int) or not members:
        return replace(account, members=members)
    fresh = account.members == 0
    if account.sizes and (fresh or account.restoring or step < account.sizes[-1][0]):
        account = replace(account, again=(*account.again, (step, event.at, fresh))[-_GENERATIONS:])
    account = replace(account, restoring=False)
    return replace(account, members=members, sizes=(*account.sizes, (step, members))[-_GENERATIONS:])


def _recovered(account: Account, event: Event, rate: Rate) -> Account:
    told = event.data.get("seconds")
    seconds = float(told) if isinstance(told, int | float) else 0.0
    amount = sum((_amount(seconds, rate(t.group, t.market)) for t in account.there.values()), Amount())
    return _lost(account, seconds, amount)


def _there(account: Account, since: datetime, until: datetime, rate: Rate) -> Amount:
    """What the trainers that are there have used since then."""
    used = (_amount(_seconds(max(t.since, since), until), rate(t.group, t.market)) for t in account.there.values())
    return sum(used, Amount())


def account_at(account: Account, now: datetime, rate: Rate) -> Account:
    """The account as it is at that moment, with what is still there."""
    ended = _ended(account, tuple(account.there), now, rate)
    return replace(ended, there=account.there)


def spent(account: Account, budget: Budget, now: datetime, rate: Rate, currency: str) -> str:
    """Say which part of the budget is spent; empty: none is."""
    cost, hours = account_at(account, now, rate).total.cost, account.cluster_s(now) / 3600
    if budget.max_cost is not None and cost >= budget.max_cost:
        return f"its budget is spent: its trainers have cost {cost:.4g} {currency} of {budget.max_cost:g}"
    if budget.max_hours is not None and hours >= budget.max_hours:
        return f"its budget is spent: it was on the cluster for {hours:.4g} h of {budget.max_hours:g}"
    return ""
