"""The loop that compares the store with the cluster and mends: starts jobs, watches their launchers, cleans up after them.

Truth lives in the store, and every step may be repeated, so it goes on where it was after any restart. It is woken by wakeups; it
looks again by itself only while there is something on the cluster that wakes nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import structlog

from surefoot.spec import JobState
from surefoot_service.cluster.jobs_api import RayError, RayJob, RayRefusedError, RayStatus, open_ray_jobs
from surefoot_service.parts import Service
from surefoot_service.policy import attempts as policy
from surefoot_service.policy.attempts import Action, Facts, Patience
from surefoot_service.reconciler.budgets import keep_budgets
from surefoot_service.reconciler.launch import Launch
from surefoot_service.scheduler.capacity import Capacity, addable
from surefoot_service.scheduler.fifo import Decision, decide
from surefoot_service.scheduler.standstill import Starting, gives_back, in_vain, without_hopes
from surefoot_service.store import attempts, jobs
from surefoot_service.store import overview as store
from surefoot_service.store.database import StoreAwayError
from surefoot_service.store.events import trainers_on_nodes
from surefoot_service.store.overview import Overview, Watched
from surefoot_service.store.reading import state_of
from surefoot_service.wakeups import RECONCILER, news_of

__all__ = ["Reconciler", "reconciling"]

log = structlog.get_logger()

# Ray does not tell when a submission changes; these are how often it is asked
_SOON_S = 0.5
_WATCH_S = 5.0
_UNREACHABLE_S = 2.0


@asynccontextmanager
async def reconciling(service: Service, address: str, token: str | None, python: str) -> AsyncIterator[None]:
    """Reconcile with the cluster whose dashboard is at `address` inside the block."""
    async with open_ray_jobs(address, token) as ray:
        service.cluster.watched = True
        loop = asyncio.create_task(Reconciler(service, Launch(service=service, ray=ray, python=python)).run())
        service.cluster.expected, service.cluster.ask = True, ray.session_name
        try:
            yield
        finally:
            service.cluster.ask = None
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)


class Reconciler:
    """One service's loop over one cluster."""

    def __init__(self, service: Service, launch: Launch, patience: Patience | None = None) -> None:
        self._service, self._launch = service, launch
        self._patience = patience or Patience(cancel=timedelta(seconds=service.settings.cancel_grace_s))
        # when what supervisors say last began to reach the store, and Ray this loop: silence before it proves nothing
        self._able_since = service.now()
        self._session = ""
        # why supervisors are dead, by attempt, as Ray said in this pass
        self._deaths: Mapping[str, str] = {}

    async def run(self) -> None:
        """Reconcile until cancelled."""
        instruments = self._service.instruments
        with self._service.wakeups.listen(RECONCILER) as wakeup, instruments.clock.started():
            while not self._service.wakeups.closed:
                with instruments.one_pass():
                    pause_s = await self._pass()
                await wakeup.wait(instruments.rests(pause_s))

    async def _pass(self) -> float | None:
        """Do once what there is to do. Return in how many seconds to look again; None: when woken."""
        try:
            overview = await self._service.database.read(store.look, self._service.now())
            for job, wrong in overview.unreadable:
                await self._explain([job], f"{wrong}; it is not started: cancel it, or run the version that stored it")
            wait = None if overview.next_retry is None else overview.next_retry.total_seconds()
            overview = await keep_budgets(self._service, overview)
            if not overview.queue and not overview.watched:
                return wait
            again = await self._mend(overview)
            return again if wait is None else min(wait, again)
        except StoreAwayError as error:
            self._able_since = self._service.now()
            log.warning("store_away", error=str(error))
            return _UNREACHABLE_S
        except Exception:
            # The boundary of the loop: whatever it is, the next pass starts from the store again.
            log.exception("reconciling_failed")
            return _WATCH_S

    async def _mend(self, overview: Overview) -> float:
        try:
            self._session = await self._launch.ray.session_name()
            self._deaths = await self._supervisor_deaths(overview)
            started = await self._schedule(overview)
        except RayError as error:
            # Not a lost attempt: jobs go on without us, and what is gone will be seen when the cluster answers.
            self._service.cluster.reachable = False
            self._able_since = self._service.now()
            await self._explain((c.job for c in overview.queue), str(error))
            return _UNREACHABLE_S
        self._service.cluster.reachable = True
        again = await asyncio.gather(*(self._oversee_alone(w) for w in overview.watched))
        return 0.0 if started else min((_WATCH_S, *again))

    async def _supervisor_deaths(self, overview: Overview) -> Mapping[str, str]:
        if not any(w.attempt.claimed_at is not None and w.attempt.session == self._session for w in overview.watched):
            return {}
        return await self._launch.ray.supervisor_deaths()

    # ---- the queue

    async def _schedule(self, overview: Overview) -> bool:
        """Start what fits, and say of the rest why not. Return whether anything was started, or has given back what it had."""
        vain = await self._in_vain(overview)
        if not overview.queue and len(vain) < 2:
            return False
        nodes = await self._launch.ray.nodes()
        if not nodes:
            await self._explain((c.job for c in overview.queue), "the Ray cluster has no live node yet")
            return False
        capacity = Capacity(
            nodes=nodes,
            addable=addable(self._service.settings.node_groups, nodes),
            used_cpus=overview.used_cpus,
            used_gpus=overview.used_gpus,
        )
        if (last := gives_back(vain, capacity)) is not None:
            return await self._give_back(last)
        decisions = decide(overview.queue, without_hopes(capacity, vain))
        for decision in decisions:
            await self._decided(decision)
        return any(d.start for d in decisions)

    async def _in_vain(self, overview: Overview) -> list[Starting]:
        """Jobs that have waited for their fewest trainers for too long, in the queue's order."""
        fewest = {w.attempt.id: w.spec.min_trainers for w in overview.watched}
        starting = [
            Starting(job=w.job.id, attempt=w.attempt.id, each=w.spec.resources, since=w.attempt.created_at)
            for w in overview.watched
            if state_of(w.job) is JobState.STARTING and w.attempt.fenced_at is None
        ]
        vain = in_vain(starting, self._service.now(), timedelta(seconds=self._service.settings.start_wait_s))
        # one whose trainers run waits for its data, or its own code: for no node
        read = self._service.database.read
        return [v for v in vain if await read(trainers_on_nodes, v.job, v.attempt) < fewest[v.attempt]]

    async def _give_back(self, last: Starting) -> bool:
        """Have a job wait in the queue again, so that one before it gets what it holds."""
        reason = "gave back the nodes it had: too few for it, and a job before it waits for the same; it starts once there is room"
        done = await self._service.database.write(store.give_back, last.attempt, reason=reason, now=self._service.now())
        if done:
            log.warning("job_gave_back", attempt=last.attempt)
            self._service.wakeups.wake(news_of(last.job))
        return done

    async def _decided(self, decision: Decision) -> None:
        """Act on one decision; what goes wrong with one job does not hold up the others."""
        try:
            await (self._start(decision) if decision.start else self._explain([decision.job], decision.reason))
        except StoreAwayError:
            raise
        except Exception:
            # The boundary of one job.
            log.exception("starting_failed", job=decision.job)

    async def _start(self, decision: Decision) -> None:
        made = await self._service.database.write(
            attempts.make,
            decision.job,
            keys=self._service.keys,
            session_name=self._session,
            reason=decision.reason,
            now=self._service.now(),
        )
        if made is not None:
            self._service.instruments.attempts_started.inc()
            log.info("job_started", job=decision.job, attempt=made.id, reason=decision.reason)
            self._service.wakeups.wake(news_of(decision.job))

    async def _explain(self, names: Iterable[str], reason: str) -> None:
        for job in names:
            if await self._service.database.write(jobs.explain_queued, job, reason):
                log.info("job_waits", job=job, reason=reason)
                self._service.wakeups.wake(news_of(job))

    # ---- attempts

    async def _oversee_alone(self, watched: Watched) -> float:
        """Oversee one attempt; what the cluster refuses for it does not hold up the others."""
        try:
            return await self._oversee(watched)
        except (RayError, StoreAwayError) as error:
            log.warning("overseeing_failed", attempt=watched.attempt.id, error=str(error))
            return _UNREACHABLE_S
        except Exception:
            # The boundary of one attempt: whatever it is, the others are overseen, and this one again in the next pass.
            log.exception("overseeing_failed", attempt=watched.attempt.id)
            return _WATCH_S

    async def _oversee(self, watched: Watched) -> float:
        """Do the next thing about an attempt. Return in how many seconds to look again."""
        if watched.attempt.fenced_at is not None:
            return await self._clean(watched)
        launcher = await self._launcher(watched)
        judgement = policy.decide(self._facts(watched, launcher), self._patience)
        match judgement.action:
            case Action.WAIT:
                return _WATCH_S if watched.attempt.spoke_at and not self._ending(watched) else _SOON_S
            case Action.SUBMIT:
                await self._submit(watched)
            case Action.CONDEMN:
                await self._condemn(watched, judgement.verdict, judgement.reason)
            case Action.FORGET:
                await self._settle(watched, "")
                return _WATCH_S
        return 0.0

    async def _launcher(self, watched: Watched) -> RayJob | None:
        """What Ray says of the launcher, where that matters."""
        spoken_for = watched.attempt.spoke_at is not None and not self._ending(watched)
        if spoken_for or watched.attempt.submitted_at is None or watched.attempt.session != self._session:
            return None
        return await self._launch.ray.find(watched.attempt.submission_id)

    @staticmethod
    def _ending(watched: Watched) -> bool:
        return not store.is_on_cluster(watched.job) or watched.job.cancel_at is not None

    def _facts(self, watched: Watched, launcher: RayJob | None) -> Facts:
        attempt, job = watched.attempt, watched.job
        return Facts(
            state=state_of(job) or JobState.RUNNING,
            now=self._service.now(),
            ended_at=job.ended_at,
            cancel_at=job.cancel_at,
            submitted=attempt.submitted_at is not None,
            claimed_at=attempt.claimed_at,
            spoke_at=attempt.spoke_at,
            heard_at=self._heard_at(attempt.id, attempt.spoke_at),
            same_session=attempt.session == self._session,
            launcher=launcher,
            supervisor_death=self._deaths.get(attempt.id, ""),
            number=attempt.n,
            steps_done=job.steps_done,
        )

    def _heard_at(self, attempt: str, spoke_at: datetime | None) -> datetime | None:
        """When the supervisor was last heard; while the service, its store or the cluster was away, nobody could be."""
        if spoke_at is None:
            return None
        return max(self._service.cluster.heard.get(attempt, spoke_at), self._able_since)

    async def _submit(self, watched: Watched) -> None:
        try:
            await self._launch.submit(watched)
        except RayRefusedError as error:
            await self._condemn(watched, JobState.FAILED, str(error))
            return
        await self._service.database.write(store.mark_submitted, watched.attempt.id, self._service.now())
        log.info("attempt_submitted", job=watched.job.id, attempt=watched.attempt.id)
        self._service.wakeups.wake(news_of(watched.job.id))

    async def _condemn(self, watched: Watched, verdict: JobState | None, reason: str) -> None:
        """Fence the attempt; the next pass cleans it off the cluster."""
        same_cluster = watched.attempt.session == self._session
        tells = verdict in (JobState.FAILED, JobState.QUEUED) and watched.attempt.submitted_at is not None
        tail = await self._launch.log_tail(watched) if tells and same_cluster else ""
        done = await self._service.database.write(
            store.condemn, watched, verdict, reason=reason, launcher_log=tail, now=self._service.now()
        )
        if done:
            self._service.instruments.attempts_condemned.inc()
            log.warning("attempt_condemned", attempt=watched.attempt.id, reason=reason)

    async def _clean(self, watched: Watched) -> float:
        """Take a fenced attempt off the cluster. Return in how many seconds to look again."""
        if watched.attempt.session != self._session:
            await self._settle(watched, "")
        elif watched.attempt.claimed_at is None:
            # Nobody holds its token, so no actor was made: there is only the launcher to end.
            if not await self._launch.stop_launcher(watched):
                return _SOON_S
            await self._settle(watched, "")
        else:
            clean_up = await self._launch.clean_up(watched)
            if clean_up is None or not clean_up.status.ended:
                return _SOON_S
            await self._settle(watched, await self._clean_up_failure(watched, clean_up))
        return _WATCH_S

    async def _clean_up_failure(self, watched: Watched, clean_up: RayJob) -> str:
        """What to tell of a clean-up that failed; nothing of one that did its work."""
        if clean_up.status is RayStatus.SUCCEEDED:
            return ""
        tail = await self._launch.log_tail(watched, clean_up=True)
        log.error("clean_up_failed", attempt=watched.attempt.id, message=clean_up.message, tail=tail)
        return f"its clean-up failed, so actors may be left on the cluster: {clean_up.message}"

    async def _settle(self, watched: Watched, note: str) -> None:
        """Nothing of the attempt is left: its job ends, or is tried again, and Ray is to forget it."""
        job = await self._service.database.write(store.settle, watched.attempt.id, note=note, now=self._service.now())
        self._service.cluster.heard.pop(watched.attempt.id, None)
        log.info("attempt_settled", attempt=watched.attempt.id, job=job)
        self._service.wakeups.wake(news_of(job), RECONCILER)
        if watched.attempt.session == self._session:
            await self._launch.forget(watched)
