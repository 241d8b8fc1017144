"""What a job has used, read from its events, and what is still to come, from its ledger. Only what is new is read of the events."""

from __future__ import annotations

import itertools
import json
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean

from sqlalchemy import select
from sqlalchemy.orm import Session

from surefoot.events import LedgerRow
from surefoot.spec import JobSpec
from surefoot.target import parse_target
from surefoot.usage import Forecast, JobUsage, KindUsage
from surefoot_service.policy.forecast import Pace, forecast, pace_of
from surefoot_service.policy.usage import KINDS, Account, Amount, Rate, account_at, fold, spent
from surefoot_service.scheduler.prices import trainer_per_second
from surefoot_service.settings import Settings
from surefoot_service.store.jobs import has_ended, load
from surefoot_service.store.reading import event_of, ledger_row, spec_of
from surefoot_service.store.tables import EventRow, JobRow, StepRow

__all__ = ["Accounts", "account_of", "amount_of", "spent_of", "usage_of"]

# jobs whose accounts are remembered; those of others are read anew
_REMEMBERED = 1000
# steps that are looked at of one generation, and how many at its beginning are not: it warms up
_MOST, _WARM = 512, 2
# numbers of trainers that are forecast; a job may have thousands
_NUMBERS = 16
# how often a row says how many samples an epoch has
_EPOCH_ROWS = 100
_NEWEST = 16


class Accounts:
    """The accounts of jobs as far as their events were read. Used from any thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, Account]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, job: str) -> tuple[int, Account]:
        with self._lock:
            return self._known.get(job, (0, Account()))

    def put(self, job: str, seq: int, account: Account) -> None:
        with self._lock:
            if seq >= self._known.get(job, (0, account))[0]:
                self._known[job] = seq, account
            self._known.move_to_end(job)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def _rate(spec: JobSpec, settings: Settings) -> Rate:
    return lambda group, market: trainer_per_second(settings.node_groups, spec.resources, group=group, market=market)


def account_of(session: Session, job: str, accounts: Accounts, rate: Rate) -> Account:
    """Read what is new of the job's events into its account."""
    seq, account = accounts.get(job)
    mine = (EventRow.job == job, EventRow.seq > seq, EventRow.kind.in_([str(kind) for kind in KINDS]))
    for row in session.scalars(select(EventRow).where(*mine).order_by(EventRow.seq)):
        account, seq = fold(account, event_of(row), rate), row.seq
    accounts.put(job, seq, account)
    return account


def spent_of(session: Session, job: str, accounts: Accounts, settings: Settings, now: datetime) -> str:
    """Say which part of a job's budget is spent; empty: none, or there is no budget."""
    row = load(session, job)
    spec = spec_of(row).spec
    if not spec.budget.is_set:
        return ""
    rate = _rate(spec, settings)
    return spent(account_of(session, job, accounts, rate), spec.budget, now, rate, settings.currency)


def amount_of(session: Session, job: str, *, accounts: Accounts, settings: Settings, now: datetime) -> Amount:
    """Return what a job's trainers have used, and cost."""
    rate = _rate(spec_of(load(session, job)).spec, settings)
    return account_at(account_of(session, job, accounts, rate), now, rate).total


def usage_of(session: Session, job: str, accounts: Accounts, settings: Settings, now: datetime) -> JobUsage:
    """Return what a job has used, and what the rest of it takes. Raises NotFoundError."""
    row = load(session, job)
    spec = spec_of(row).spec
    rate = _rate(spec, settings)
    account = account_of(session, job, accounts, rate)
    until = row.ended_at or now
    at = account_at(account, until, rate)
    newest = _step_seconds(session, job, max(0, row.steps_done - _NEWEST), row.steps_done)
    step_s = fmean(newest) if newest else None
    epoch = _epoch_samples(session, row)
    left = None if row.num_steps is None else max(0, row.num_steps - row.steps_done)
    usage = JobUsage(
        currency=settings.currency,
        cluster_s=at.cluster_s(until),
        trainer_s=at.total.trainer_s,
        cost=_cost(at.total),
        unpriced_trainer_s=at.total.trainer_s - at.total.priced_s,
        kinds=tuple(
            KindUsage(group=group, market=market, trainer_s=amount.trainer_s, cost=_cost(amount))
            for (group, market), amount in sorted(at.used.items())
        ),
        recoveries=at.recoveries,
        lost_s=at.lost_s,
        lost_trainer_s=at.lost.trainer_s,
        lost_cost=_cost(at.lost),
        steps_done=row.steps_done,
        remaining_steps=left,
        step_s=step_s,
        samples_per_s=spec.batch_size / step_s if step_s else None,
        epoch_s=step_s * epoch / spec.batch_size if step_s and epoch else None,
        budget=spec.budget,
        spent=spent(account, spec.budget, until, rate, settings.currency),
    )
    usage = usage.model_copy(update=_to_target(session, row, spec, at) | _made_again(session, row, at))
    return usage if has_ended(row) else usage.model_copy(update={"forecast": _forecast(session, row, spec, at, left)})


def _cost(amount: Amount) -> float | None:
    return amount.cost if amount.priced_s or not amount.trainer_s else None


def _to_target(session: Session, job: JobRow, spec: JobSpec, account: Account) -> dict[str, object]:
    """What it took to meet the target, which is the last step's if any's."""
    if spec.target is None:
        return {}
    last = _row(session, job, job.steps_done - 1)
    if last is None or not parse_target(spec.target).met(last.result.values):
        return {"target": spec.target}
    met_at = datetime.fromtimestamp(last.circumstances.at, UTC)
    return {
        "target": spec.target,
        "steps_to_target": job.steps_done,
        "s_to_target": account.cluster_s(met_at),
        "cost_to_target": _cost(account.total),
    }


def _made_again(session: Session, job: JobRow, account: Account) -> dict[str, object]:
    """The steps between a checkpoint, or the beginning, and the loss of everybody that had the state; what they had taken, at most.

    Where the attempt went on, the seconds to the first new step are told as those of its recovery, with the steps made again in them.
    """
    steps, seconds, trainer_s = 0, 0.0, 0.0
    before: datetime | None = None
    for step, at, is_lost in account.again:
        made, since, before = _made(session, job, step, at), before, at
        if made is None:
            continue
        num_steps, took, trainers = made
        steps += num_steps
        if is_lost:
            # it may have been lost again before it was as far as the first time
            took = took if since is None else min(took, max(0.0, (at - since).total_seconds()))
            seconds, trainer_s = seconds + took, trainer_s + took * trainers
    total = account.total
    cost = trainer_s * total.cost / total.priced_s if total.priced_s and trainer_s else None
    return {"again_steps": steps, "again_s": seconds, "again_trainer_s": trainer_s, "again_cost": cost}


def _made(session: Session, job: JobRow, begin: int, at: datetime) -> tuple[int, float, int] | None:
    """How many steps from this one on were made before that moment, in how many seconds, with how many trainers; None: none were."""
    first = _row(session, job, begin)
    if first is None or _made_after(session, job, begin, at):
        return None
    known = range(job.steps_done)
    end = bisect_left(known, True, lo=begin, key=lambda n: _made_after(session, job, n, at))
    last = _row(session, job, end - 1)
    if last is None:
        return None
    took = last.circumstances.at - first.circumstances.at + first.circumstances.seconds
    return end - begin, max(0.0, took), last.circumstances.trainers


def _made_after(session: Session, job: JobRow, step: int, at: datetime) -> bool:
    row = _row(session, job, step)
    return row is None or row.circumstances.at > at.timestamp()


def _row(session: Session, job: JobRow, step: int) -> LedgerRow | None:
    stored = session.get(StepRow, (job.id, step)) if step >= 0 else None
    return ledger_row(stored.row) if stored else None


def _forecast(session: Session, job: JobRow, spec: JobSpec, account: Account, left: int | None) -> tuple[Forecast, ...]:
    paces = _paces(session, job, account)
    numbers = range(spec.min_trainers, spec.most_trainers + 1)
    chosen = sorted({*_spread(numbers), *(n for n in paces if n in numbers)})
    total = account.total
    per_s = total.cost / total.priced_s if total.priced_s else None
    return forecast(paces, chosen, sub_tasks=spec.sub_tasks, remaining_steps=left, trainer_per_s=per_s)


def _spread(numbers: range) -> Sequence[int]:
    """All of them where they are few; else by powers of two, with both ends."""
    if len(numbers) <= _NUMBERS:
        return numbers
    powers = [1 << n for n in range(numbers.stop.bit_length())]
    return [numbers[0], *(n for n in powers if n in numbers), numbers[-1]]


def _paces(session: Session, job: JobRow, account: Account) -> dict[int, Pace]:
    """Seconds a step by number of trainers, each of the newest generation that made enough."""
    found: dict[int, Pace] = {}
    if not account.sizes:  # no trainer was there yet
        return found
    ends = [step for step, _ in account.sizes[1:]] + [job.steps_done]
    for (begin, trainers), end in zip(reversed(account.sizes), reversed(ends), strict=True):
        if trainers in found or end - begin <= _WARM:
            continue
        seconds = _step_seconds(session, job.id, max(begin + _WARM, end - _MOST), end)
        if (pace := pace_of(seconds)) is not None:
            found[trainers] = pace
    return found


def _step_seconds(session: Session, job: str, begin: int, end: int) -> list[float]:
    """Seconds from each step's commit to the next's, of steps begin to end: by the clock, so that what is between steps is in it."""
    mine = (StepRow.job == job, StepRow.step >= begin, StepRow.step < end)
    rows = session.scalars(select(StepRow.row).where(*mine).order_by(StepRow.step))
    told = [at for row in rows if (at := _moment(row)) is not None]
    pairs = itertools.pairwise(told)
    # each on the trainer that told it: of two generations, clocks and trainers may be others
    return [b[0] - a[0] if a[1] == b[1] and b[0] > a[0] > 0 else b[2] for a, b in pairs]


def _moment(row: str) -> tuple[float, int, float] | None:
    """When a step was committed, in which generation, and the seconds that it took itself."""
    try:
        how = json.loads(row)["circumstances"]
        return float(how.get("at", 0.0)), int(how["generation"]), float(how["seconds"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # of another version


def _epoch_samples(session: Session, job: JobRow) -> int:
    """How many samples an epoch has; 0: that was not told."""
    if not job.steps_done:
        return 0
    row = _row(session, job, (job.steps_done - 1) // _EPOCH_ROWS * _EPOCH_ROWS)
    return row.circumstances.epoch_samples if row else 0
