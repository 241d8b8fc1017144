"""What a job has used and cost, folded from its events; what the rest takes; budgets that pause, over restarts too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from surefoot.budget import Budget
from surefoot.events import Circumstances, Event, EventKind, LedgerRow, Result
from surefoot.spec import JobState
from surefoot.usage import JobUsage
from surefoot_service.parts import Service
from surefoot_service.policy.forecast import Pace, forecast, pace_of
from surefoot_service.policy.usage import Account, account_at, fold, spent
from surefoot_service.reconciler.budgets import keep_budgets
from surefoot_service.store import overview
from surefoot_service.store.usage import Accounts

from .fake_ray import FakeRay
from .helpers import Attempt, until
from .test_reconciler import launched, running

AT = datetime(2026, 1, 1, tzinfo=UTC)
GROUPS = {
    "spot": {"cpus": 4, "price_per_hour": 3.6, "market": "gke-spot"},
    "fixed": {"cpus": 1, "price_per_hour": 3.6, "market": "on-demand"},
}
PRICED = pytest.mark.parametrize("settings_more", [{"node_groups": GROUPS}], indirect=True)


def told(at_s: float, kind: EventKind, **data: Any) -> Event:
    return Event(source="s", n=1, at=AT + timedelta(seconds=at_s), kind=kind, data=data)


def rate(group: str, market: str) -> float | None:
    return {"spot": 0.25, "fixed": 1.0}.get(group)


def account(*events: Event) -> Account:
    found = Account()
    for event in events:
        found = fold(found, event, rate)
    return found


def started(at_s: float, name: str, group: str = "") -> list[Event]:
    ready = {"group": group} if group else {}
    return [
        told(at_s, EventKind.TRAINER_STARTED, trainer=name),
        told(at_s + 1, EventKind.TRAINER_READY, trainer=name, **ready),
    ]


def state(at_s: float, to: str) -> Event:
    return told(at_s, EventKind.STATE, state=to)


def test_each_trainer_counts_from_its_start_to_its_end_at_its_own_price() -> None:
    found = account(
        state(0, "starting"), *started(10, "t0", "spot"), *started(20, "t1", "fixed"), *started(30, "t2"),
        told(110, EventKind.TRAINER_LOST, trainer="t0"), state(120, "succeeded"),
    )  # fmt: skip
    total = account_at(found, AT + timedelta(seconds=999), rate).total
    assert total.trainer_s == 100 + 100 + 90
    assert total.priced_s == 200
    assert total.cost == 100 * 0.25 + 100 * 1.0
    assert found.cluster_s(AT + timedelta(seconds=999)) == 120


def test_pauses_and_the_queue_cost_nothing() -> None:
    found = account(
        state(0, "queued"), state(100, "starting"), *started(110, "t0", "fixed"), state(120, "running"),
        state(150, "pausing"), state(160, "paused"), state(500, "queued"), state(600, "starting"), *started(610, "t0", "fixed"),
    )  # fmt: skip
    assert found.cluster_s(AT + timedelta(seconds=620)) == 60 + 20
    assert account_at(found, AT + timedelta(seconds=620), rate).total.cost == 50 + 10
    assert found.recoveries == 0


def test_faults_cost_what_all_trainers_waited() -> None:
    found = account(
        state(0, "starting"), *started(0, "t0", "fixed"), *started(0, "t1", "fixed"), *started(0, "t2", "fixed"), state(5, "running"),
        told(10, EventKind.TRAINER_LOST, trainer="t2"), told(12, EventKind.RECOVERED, seconds=2.0),
    )  # fmt: skip
    assert (found.recoveries, found.lost_s, found.lost.trainer_s, found.lost.cost) == (1, 2.0, 4.0, 4.0)


def test_an_attempt_that_is_lost_costs_until_the_next_one_trains() -> None:
    found = account(
        state(0, "starting"), state(5, "running"), state(50, "queued"), state(52, "starting"), state(60, "running")
    )
    assert (found.recoveries, found.lost_s, found.lost.trainer_s) == (1, 10.0, 0.0)
    # and its trainers meanwhile, at their price
    found = account(
        state(0, "starting"), *started(1, "t0", "fixed"), state(5, "running"), state(50, "queued"),
        state(52, "starting"), *started(54, "t0", "fixed"), *started(55, "t1", "fixed"), state(60, "running"),
    )  # fmt: skip
    assert (found.lost_s, found.lost.trainer_s, found.lost.cost) == (10.0, 6.0 + 5.0, 11.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100),
            st.sampled_from(
                [
                    *(
                        (EventKind.STATE, {"state": s})
                        for s in ("queued", "starting", "running", "paused", "odd", "failed")
                    ),
                    *((k, {"trainer": t}) for k in EventKind if k.value.startswith("trainer") for t in ("a", "b")),
                    (EventKind.RECOVERED, {"seconds": 1.5}),
                    (EventKind.RECOVERED, {}),
                    (EventKind.GENERATION, {"generation": 1, "trainers": ["a"], "step": 3}),
                    (EventKind.GENERATION, {}),
                    (EventKind.GENERATION, {"generation": 2, "trainers": 2, "step": 1}),
                    (EventKind.RESTORED, {"step": 3, "url": "/x"}),
                    (EventKind.WARNING, {"message": "x"}),
                ]
            ),
        ),
        max_size=30,
    )
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_whatever_is_told_in_whatever_order_it_only_grows(
    story: list[tuple[float, tuple[EventKind, dict[str, Any]]]],
) -> None:
    """Clocks of nodes may be wrong and events may be missing: no cost is ever taken back, and none is made of nothing."""
    before = Account()
    for at_s, (kind, data) in story:
        after = fold(before, told(at_s, kind, **data), rate)
        assert after.total.trainer_s >= before.total.trainer_s
        assert after.total.cost >= before.total.cost
        assert after.lost_s >= before.lost_s
        assert after.recoveries >= before.recoveries
        assert after.cluster_s(AT + timedelta(seconds=200)) >= 0
        before = after
    now = account_at(before, AT + timedelta(seconds=100), rate).total
    assert 0 <= now.priced_s <= now.trainer_s <= 100 * len(story)


# ---- budgets


def test_a_budget_is_spent_when_it_is_reached_and_not_before() -> None:
    found = account(state(0, "starting"), *started(0, "t0", "fixed"))
    budget = Budget(max_cost=100)
    assert spent(found, budget, AT + timedelta(seconds=99), rate, "EUR") == ""
    assert "cost 100 EUR of 100" in spent(found, budget, AT + timedelta(seconds=100), rate, "EUR")
    hours = Budget(max_hours=0.5)
    assert spent(found, hours, AT + timedelta(seconds=1799), rate, "EUR") == ""
    assert "0.5 h of 0.5" in spent(found, hours, AT + timedelta(seconds=1800), rate, "EUR")
    assert spent(found, Budget(), AT + timedelta(days=999), rate, "EUR") == ""


def begun(when: datetime, **ready: str) -> list[Event]:
    """What an attempt tells that began at that time, with two trainers."""
    events = [
        (EventKind.STATE, {"state": "running"}),
        *((kind, {"trainer": t} | (ready if kind is EventKind.TRAINER_READY else {}))
          for t in ("t0", "t1") for kind in (EventKind.TRAINER_STARTED, EventKind.TRAINER_READY)),
        (EventKind.GENERATION, {"generation": 1, "trainers": ["t0", "t1"], "step": 0, "num_steps": 100}),
    ]  # fmt: skip
    return [
        Event(source="supervisor-1", n=n, at=when, kind=kind, data=data) for n, (kind, data) in enumerate(events, 1)
    ]


@PRICED
@pytest.mark.parametrize("spec_more", [{"budget": {"max_cost": 1.0}}])
async def test_a_job_that_has_spent_its_budget_is_paused_and_stays_so(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    """2 trainers of a quarter of a node of 3.60 an hour: 1.80 an hour, begun two hours ago."""
    async with running(service, fake):
        attempt = await launched(fake, anonymous, job)
        assert (await attempt.claim()).status_code == 200
        ago = service.now() - timedelta(hours=2)
        await attempt.uplink(events=begun(ago, group="spot", market="gke-spot"))
        await client.post(f"/v1/jobs/{job}/budget", json={"max_cost": 1.0})  # wakes the reconciler
        pausing = await until(service, job, lambda v: v.state is JobState.PAUSING)
        assert "its budget is spent: its trainers have cost 3.6 USD of 1" in pausing.reason
        assert [c["kind"] for c in (await attempt.commands()).json()["commands"]] == ["pause"]
        told_paused = Event(
            source="supervisor-1", n=9, at=service.now(), kind=EventKind.STATE, data={"state": "paused"}
        )
        await attempt.uplink(events=[told_paused])
        refused = await client.post(f"/v1/jobs/{job}/resume")
        assert (refused.status_code, "higher budget" in refused.text) == (409, True)
    # a control plane that has just come back knows it from the store
    service.accounts._known.clear()
    assert (await client.post(f"/v1/jobs/{job}/resume")).status_code == 409
    raised = await client.post(f"/v1/jobs/{job}/budget", json={"max_cost": 50})
    assert raised.json()["spec"]["budget"] == {"max_cost": 50.0, "max_hours": None}
    assert (await client.post(f"/v1/jobs/{job}/resume")).json()["state"] == "queued"


@PRICED
@pytest.mark.parametrize("spec_more", [{"budget": {"max_hours": 1.0}}])
async def test_what_was_spent_while_the_control_plane_was_away_counts(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    await attempt.uplink(events=begun(service.now() - timedelta(hours=2)))
    service.accounts._known.clear()
    # it was started when the store says, just now: only the account's clock is another
    look = await service.database.read(overview.look, service.now())
    await keep_budgets(service, look)
    assert (await client.get(f"/v1/jobs/{attempt.job}")).json()["state"] == "running"

    later = service.now() + timedelta(hours=1)
    object.__setattr__(service, "now", lambda: later)
    await keep_budgets(service, await service.database.read(overview.look, later))
    found = (await client.get(f"/v1/jobs/{attempt.job}")).json()
    assert found["state"] == "pausing"
    assert "on the cluster for 1 h of 1" in found["reason"]
    await keep_budgets(service, await service.database.read(overview.look, later))  # again: it changes nothing
    assert [c["kind"] for c in (await attempt.commands()).json()["commands"]] == ["pause"]


@pytest.mark.parametrize("spec_more", [{"budget": {"max_hours": 1.0}}])
async def test_a_budget_that_cannot_be_judged_holds_up_nobody_else(
    service: Service, client: httpx.AsyncClient, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise ValueError("an event that nobody can read")

    monkeypatch.setattr("surefoot_service.store.usage.spent_of", broken)
    look = await service.database.read(overview.look, service.now())
    assert await keep_budgets(service, look) == look
    assert (await client.get(f"/v1/jobs/{attempt.job}")).json()["state"] == "starting"


async def test_a_job_without_a_budget_is_left_alone(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    await attempt.uplink(events=begun(service.now() - timedelta(days=900)))
    await keep_budgets(service, await service.database.read(overview.look, service.now()))
    assert (await client.get(f"/v1/jobs/{attempt.job}")).json()["state"] == "running"


@pytest.mark.parametrize("body", [{"max_cost": 0}, {"max_hours": -1}, {"max_cost": "x"}, {"most": 1}])
async def test_a_budget_that_is_none_is_refused(client: httpx.AsyncClient, job: str, body: dict[str, Any]) -> None:
    assert (await client.post(f"/v1/jobs/{job}/budget", json=body)).status_code == 422


# ---- what is told


def row(step: int, at: float, trainers: int = 2, generation: int = 1, **values: float) -> LedgerRow:
    result = Result(step=step, first_sample=step * 64, num_samples=64, digest="0" * 32, values=values)
    more = {"epoch_samples": 640} if step % 100 == 0 else {}
    how = Circumstances(generation=generation, trainers=trainers, seconds=0.1, at=at, **more)
    return LedgerRow(result=result, circumstances=how)


@PRICED
@pytest.mark.parametrize("spec_more", [{"target": "accuracy>=0.9"}])
async def test_usage_is_told(service: Service, client: httpx.AsyncClient, attempt: Attempt) -> None:
    now = service.now()
    await attempt.uplink(events=begun(now - timedelta(hours=1), group="spot"))
    begin = now.timestamp() - 50
    await attempt.uplink(rows=[row(n, begin + n / 2, accuracy=0.1) for n in range(30)])
    usage = JobUsage.model_validate((await client.get(f"/v1/jobs/{attempt.job}/usage")).json())
    assert usage.cost == pytest.approx(1.8, rel=0.01)
    assert usage.trainer_s == pytest.approx(7200, rel=0.01)
    assert usage.unpriced_trainer_s == 0
    assert [(kind.group, kind.market) for kind in usage.kinds] == [("spot", "")]
    assert usage.step_s == pytest.approx(0.5)
    assert usage.samples_per_s == pytest.approx(128)
    assert usage.epoch_s == pytest.approx(5.0)
    assert (usage.remaining_steps, usage.steps_to_target) == (70, None)
    by_number = {each.trainers: each for each in usage.forecast}
    assert set(by_number) == set(range(1, 9))
    assert by_number[2].measured
    assert by_number[2].remaining_s == pytest.approx(35)
    assert by_number[2].cost == pytest.approx(35 * 2 * 0.9 / 3600)
    assert not by_number[4].measured
    assert by_number[4].remaining_s is None
    assert by_number[4].remaining_s_low == pytest.approx(17.5)
    assert by_number[4].remaining_s_high == pytest.approx(35)
    assert by_number[1].remaining_s_high == pytest.approx(70)


def began_again(n: int, step: int, at: float, *before: tuple[EventKind, dict[str, Any]]) -> list[Event]:
    what = [*before, (EventKind.GENERATION, {"generation": n, "trainers": ["t0", "t1"], "step": step})]
    when = datetime.fromtimestamp(at, UTC)
    return [Event(source="supervisor-1", n=n + k, at=when, kind=kind, data=data) for k, (kind, data) in enumerate(what)]


@PRICED
async def test_steps_that_are_made_again_are_told_and_priced(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    """All trainers are lost at step 30, and the newest checkpoint is of step 10: within an attempt, and with it."""
    await attempt.uplink(events=begun(service.now() - timedelta(hours=1), group="spot"))
    begin = service.now().timestamp() - 500
    await attempt.uplink(rows=[row(n, begin + n / 2) for n in range(30)])

    async def usage() -> JobUsage:
        return JobUsage.model_validate((await client.get(f"/v1/jobs/{attempt.job}/usage")).json())

    before = await usage()
    assert (before.again_steps, before.again_s, before.again_cost) == (0, 0.0, None)
    restored = (EventKind.RESTORED, {"step": 10, "url": "/checkpoints/x"})
    await attempt.uplink(events=began_again(7, 10, begin + 20, restored))
    found = await usage()
    # the seconds are those of its recovery, which is told with the first new step
    assert (found.again_steps, found.again_s, found.again_cost) == (20, 0.0, None)
    # made again they are not stored anew; and what is new is not among them
    await attempt.uplink(rows=[row(n, begin + 20 + n / 2) for n in range(10, 40)])
    assert (await usage()).again_steps == 20

    # the attempt is lost, and the next one goes on from the same checkpoint
    lost = (EventKind.STATE, {"state": "paused"})  # what ends the stay of trainers on the cluster
    await attempt.uplink(events=began_again(9, 10, begin + 50, lost))
    again = await usage()
    assert again.again_steps == 20 + 30
    # 34.6 s from the first of them to the last one, but it had begun again only 30 s ago
    assert again.again_s == pytest.approx(30.0, abs=1e-3)
    assert again.again_trainer_s == pytest.approx(2 * again.again_s)
    assert again.again_cost == pytest.approx(again.again_trainer_s * 0.9 / 3600)


def test_where_a_job_began_again() -> None:
    """A resize, a loss that others outlive and a first generation are none."""

    def generation(at_s: float, step: int) -> Event:
        return told(at_s, EventKind.GENERATION, generation=1, trainers=["t0", "t1"], step=step)

    began = [state(0, "starting"), *started(1, "t0"), generation(5, 0), generation(9, 50), generation(10, 50)]
    assert account(*began).again == ()
    again = account(*began, told(20, EventKind.TRAINER_LOST, trainer="t0"), generation(30, 0))
    assert [(step, fresh) for step, _, fresh in again.again] == [(0, False)]
    from_a_checkpoint = account(
        *began, told(29, EventKind.RESTORED, step=70, url="/x"), generation(30, 70), generation(40, 90)
    )
    assert [(step, fresh) for step, _, fresh in from_a_checkpoint.again] == [(70, False)]
    another = account(*began, state(20, "queued"), state(25, "starting"), generation(30, 70))
    assert [(step, fresh) for step, _, fresh in another.again] == [(70, True)]


@pytest.mark.parametrize("spec_more", [{"target": "accuracy>=0.9"}])
async def test_a_target_that_was_met_is_told_with_what_it_took(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    begin = service.now()
    await attempt.uplink(events=begun(begin))
    at = begin.timestamp()
    rows = [row(n, at + n, accuracy=0.95 if n == 9 else 0.2) for n in range(10)]
    await attempt.uplink(rows=rows)
    usage = (await client.get(f"/v1/jobs/{attempt.job}/usage")).json()
    assert (usage["steps_to_target"], usage["target"]) == (10, "accuracy>=0.9")
    assert usage["cost_to_target"] is None  # no price was set
    assert usage["cost"] is None


async def test_a_job_that_has_told_nothing_yet(client: httpx.AsyncClient, job: str) -> None:
    usage = JobUsage.model_validate((await client.get(f"/v1/jobs/{job}/usage")).json())
    assert (usage.trainer_s, usage.forecast, usage.step_s) == (0.0, (), None)
    assert (await client.get("/v1/jobs/2222222222/usage")).status_code == 404


def test_accounts_are_bounded_and_never_go_back() -> None:
    accounts = Accounts()
    for n in range(3000):
        accounts.put(f"j{n}", n, Account())
    assert len(accounts._known) == 1000
    newer = Account(members=2)
    accounts.put("j2999", 5000, newer)
    accounts.put("j2999", 4000, Account(members=1))
    assert accounts.get("j2999") == (5000, newer)


# ---- the forecast


positive = st.floats(1e-3, 1e3)


@given(
    st.dictionaries(st.integers(1, 16), st.tuples(positive, positive, positive), min_size=1, max_size=4),
    st.integers(1, 16),
    st.one_of(st.none(), st.integers(0, 10_000)),
    st.one_of(st.none(), positive),
)
def test_a_forecast_holds_what_was_measured_and_says_what_was_not(
    measured: dict[int, tuple[float, float, float]], sub_tasks: int, steps: int | None, price: float | None
) -> None:
    paces = {n: Pace(low=min(ends), mean=sorted(ends)[1], high=max(ends)) for n, ends in measured.items()}
    found = forecast(paces, range(1, 17), sub_tasks=sub_tasks, remaining_steps=steps, trainer_per_s=price)
    assert [each.trainers for each in found] == list(range(1, 17))
    for each in found:
        assert each.measured == (each.trainers in paces)
        assert 0 < each.step_s_low <= each.step_s_high
        if each.measured:
            assert each.step_s == paces[each.trainers].mean
        else:
            assert each.step_s is None
            assert each.remaining_s is None
        assert (each.remaining_s_low is None) == (steps is None)
        assert (each.cost_low is None) == (steps is None or price is None)


@given(st.floats(1e-3, 10), st.floats(0, 10), st.integers(1, 64), st.integers(1, 16), st.integers(1, 16))
def test_what_scales_between_perfectly_and_not_at_all_is_in_the_range(
    work: float, fixed: float, sub_tasks: int, measured: int, asked: int
) -> None:
    """Whatever part of a step is divided and whatever is not: the truth lies in the range that was told."""

    def truth(trainers: int) -> float:
        return fixed + work * -(-sub_tasks // trainers)

    paces = {measured: Pace(low=truth(measured), mean=truth(measured), high=truth(measured))}
    [found] = forecast(paces, [asked], sub_tasks=sub_tasks, remaining_steps=1, trainer_per_s=None)
    assert found.step_s_low * (1 - 1e-9) <= truth(asked) <= found.step_s_high * (1 + 1e-9)


def test_nothing_measured_is_nothing_forecast() -> None:
    assert forecast({}, range(1, 9), sub_tasks=8, remaining_steps=10, trainer_per_s=1.0) == ()
    assert pace_of([1.0] * 7) is None
    assert pace_of([1.0, 3.0] * 8) == Pace(mean=2.0, low=2.0, high=2.0)
