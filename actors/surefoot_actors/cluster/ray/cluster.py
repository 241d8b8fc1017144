"""The cluster over Ray: a trainer is a detached, named actor that Ray never restarts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError, RuntimeEnvSetupError

from surefoot.events import FaultKind
from surefoot.names import SUPERVISOR, name_within
from surefoot.node_groups import NodeGroup
from surefoot.spec import JobSpec
from surefoot_actors.cluster.environment import KIND_LABELS, trainer_env
from surefoot_actors.cluster.placement import device_for, next_waited, order, selectors, to_ask
from surefoot_actors.cluster.ports import Inbox, SetupFailedError, TrainerGoneError, TrainerHandle, TrainerSetup, Where
from surefoot_actors.cluster.ray.demand import mark
from surefoot_actors.cluster.ray.ending import confirm_gone, draining_nodes, place_of
from surefoot_actors.cluster.ray.names import KEEPER, NAMESPACE, find_actor, list_roles
from surefoot_actors.cluster.ray.setup import node_of, refused_requirements, why_not_set_up
from surefoot_actors.cluster.ray.trainer_actor import DEFAULT_SERVICE, TrainerActor
from surefoot_actors.cluster.ray.waiting import Entry, WaitingList
from surefoot_actors.faults.refused import FaultRefusedError
from surefoot_actors.liveness.server import Condition, LivenessServer
from surefoot_actors.process_log import log
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.messages import ToTrainer
from surefoot_actors.tasks import Tasks

__all__ = ["RayCluster", "gone"]

# "Perhaps executed": every call may be told again, after so long.
_RETRY_S = 0.1
_LONGEST_REASON = 4000

_TRAINER: Any = ray.remote(concurrency_groups={"control": 1, "collect": 1})(TrainerActor)  # type: ignore[call-overload]
# How long the end of a trainer that cannot be reached is waited for; it is fenced, and its end goes on behind.
_SILENT_S = 2.0
_DRAIN_POLL_S = 1.0
# Ray's words for an actor that has no process yet
_PENDING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION")
# How long a node that could not be set up is avoided, where there are others.
_TROUBLED_S = 600.0
_NODE_DIED = re.compile(r"node (has )?died|node was (preempted|terminated)", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"OutOfMemory|memory (usage )?threshold|running low on memory", re.IGNORECASE)


def gone(error: RayError) -> TrainerGoneError:
    """How an actor ended: what Ray says is read here, once."""
    text = str(error).strip()
    if isinstance(error, RuntimeEnvSetupError):
        reason = f"its node could not be set up: {why_not_set_up(text)}"
        return SetupFailedError(reason, refused_requirements(text), node_of(text))
    last = text[-_LONGEST_REASON:]
    if isinstance(error, OutOfMemoryError) or _OUT_OF_MEMORY.search(text):
        return TrainerGoneError(f"out of memory: {last}", DeathCause.OUT_OF_MEMORY)
    if _NODE_DIED.search(text):
        return TrainerGoneError(f"its node died: {last}", DeathCause.NODE)
    if "creation task" in text:
        return TrainerGoneError(f"it failed to start: {last}", DeathCause.SETUP)
    return TrainerGoneError(_process_died(text))


def _process_died(text: str) -> str:
    # The first lines name the actor; the guesses that Ray adds would mislead.
    lines = [line for line in text.splitlines()[1:] if not line.startswith("\t")]
    said = " ".join(lines).partition(" Some common causes")[0]
    detail = said.rpartition("Worker exit detail: ")[2]
    return f"its process died: {detail or text}"[:_LONGEST_REASON]


def _runtime_env(spec: JobSpec, package_uri: str | None) -> dict[str, Any]:
    """What Ray sets up for a trainer; only trainers have the user's code."""
    env: dict[str, Any] = {"env_vars": trainer_env(spec)}
    if package_uri is not None:
        env["working_dir"] = package_uri
    if spec.pip:
        env["pip"] = list(spec.pip)
    return env


class _RayTrainer(TrainerHandle):
    """The supervisor's end of one trainer actor."""

    def __init__(self, trainer: str, actor: ActorHandle[Any], liveness: LivenessServer, ending: Tasks) -> None:
        """`ending` holds the tasks that see to trainers' ends, for as long as that takes."""
        self._trainer, self._actor, self._liveness, self._ending_all = trainer, actor, liveness, ending
        self._ending: asyncio.Task[None] | None = None
        # id of its node, once it is known
        self.node = ""

    @property
    def trainer(self) -> str:
        return self._trainer

    async def start(self) -> None:
        """Return when the actor has a place and its service answers."""
        self.node = await self._ask(self._actor.start)

    async def deliver(self, message: ToTrainer) -> None:
        await self._ask(self._actor.deliver, message)

    async def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        inbox: Inbox = await self._ask(self._actor.collect, after, rows_below, wait_s)
        return inbox

    async def where(self) -> Where:
        where: Where = await self._ask(self._actor.where)
        return where

    def refusal(self, fault: FaultKind) -> str:
        if fault is FaultKind.NODE and self.node == ray.get_runtime_context().get_node_id():
            return f"{self._trainer} runs on the supervisor's own node"
        return (
            ""
            if self._liveness.is_linked(self._trainer)
            else f"{self._trainer} has no watchdog that could do it at present"
        )

    async def inject(self, fault: FaultKind) -> None:
        if refused := self.refusal(fault):
            raise FaultRefusedError(refused)
        await self._liveness.inject(self._trainer, fault)

    async def kill(self) -> None:
        """End the process. Where that cannot be reached this returns after a while: it is fenced, and ends when it can be."""
        if self._ending is None:
            self._ending = self._ending_all.spawn(self._end(), name=f"end-{self._trainer}")
        while not self._ending.done():
            await asyncio.wait({self._ending}, timeout=_SILENT_S)
            if self._liveness.condition(self._trainer) in (Condition.SILENT, Condition.GONE):
                return

    def is_pending(self) -> bool:
        """Whether it has no process yet."""
        place = place_of(self._actor)
        return place is not None and not place.pid and place.state in _PENDING

    async def withdraw(self) -> None:
        """Take back the request for an actor that has no node. It is not fenced: another of its name is to come."""
        place = await asyncio.to_thread(place_of, self._actor)
        await asyncio.to_thread(ray.kill, self._actor, no_restart=True)
        await confirm_gone(place)  # where it was given a node just now

    async def tell_liveness(self) -> None:
        """Have its watchdog beat here."""
        place = await asyncio.to_thread(place_of, self._actor)
        if place is not None and place.state == "ALIVE":
            self._liveness.expect(self._trainer)
        with contextlib.suppress(TrainerGoneError):
            self.node = await self._ask(self._actor.liveness, self._liveness.address, self._liveness.sealed.reveal())

    async def _ask(self, method: Callable[..., Any], *arguments: Any) -> Any:
        while True:
            try:
                return await method.remote(*arguments)  # type: ignore[attr-defined]
            except ActorUnavailableError:
                await asyncio.sleep(_RETRY_S)
            except RayTaskError as error:
                # the service is ours: what raises there is broken, and told as a loss
                await self.kill()
                raise TrainerGoneError(f"its service raised, so it was ended: {error}") from None
            except RayError as error:
                raise gone(error) from None

    async def _end(self) -> None:
        """Kill by the watchdog, which reaches a stopped process at once; by Ray; and make sure."""
        try:
            placing = asyncio.create_task(asyncio.to_thread(place_of, self._actor))
            confirmed = await self._liveness.fence(self._trainer)
            place = await placing
            await asyncio.to_thread(ray.kill, self._actor, no_restart=True)
            if not confirmed:
                await confirm_gone(place)
        except Exception as error:  # noqa: BLE001  the task's edge: it is fenced, and nobody waits for more
            log.warning("end_not_confirmed", trainer=self._trainer, error=repr(error))


def _ignore(*_: str) -> None:
    pass


class RayCluster:
    """Trainers as actors named "attempt/trainer", found again by name. Used on one event loop, in the supervisor's actor."""

    installs = True

    def __init__(
        self,
        attempt: str,
        liveness: LivenessServer,
        *,
        package_uri: str | None = None,
        service: str = DEFAULT_SERVICE,
        groups: Mapping[str, NodeGroup] | None = None,
        node_wait_s: float = 300.0,
    ) -> None:
        """`groups`: the kinds of nodes that there may be, and `node_wait_s`: how long a trainer waits for one before a dearer one."""
        self.on_notice: Callable[[str, str], None] = _ignore
        self.on_waiting: Callable[[str], None] = _ignore
        self._attempt, self._liveness, self._package_uri, self._service = attempt, liveness, package_uri, service
        self._tasks, self._ending = Tasks("ray cluster"), Tasks("end")
        # those whose nodes are watched
        self._trainers: dict[str, _RayTrainer] = {}
        self._watching = self._looking = False
        self._groups = groups or {}
        self._waiting = WaitingList(node_wait_s, lambda text: self.on_waiting(text))
        # the model of the GPUs of this attempt's nodes, once one is there
        self._device = ""
        # models that were waited for in vain while none was there
        self._passed: frozenset[str] = frozenset()
        # addresses of nodes that could not be set up, and when: for a while others are preferred
        self._troubled: dict[str, float] = {}

    async def start_trainer(self, setup: TrainerSetup) -> TrainerHandle:
        waited: frozenset[str] = frozenset()
        each = setup.spec.resources
        while True:
            device = await asyncio.to_thread(self._model, setup.spec)
            groups = order(self._groups, each, device)
            asked = to_ask(groups, waited)
            entry = Entry(
                has_choice=len(groups) > 1 or self._other_model(setup.spec, device) != device,
                left_out=frozenset(groups).difference(asked),
                needs={"CPU": each.cpus, "GPU": each.gpus},
            )
            trainer = await self._ask_for(setup, asked, entry)
            if trainer is not None:
                self._watch([trainer])
                return trainer
            waited = frozenset() if entry.anew else next_waited(groups, waited)
            if not waited and not entry.anew and not self._device:
                other = self._other_model(setup.spec, device)
                self._passed = self._passed | {device} if other not in self._passed else frozenset()

    def _model(self, spec: JobSpec) -> str:
        """Which model of GPU to ask for: that of the nodes that are had; while none is, the first that was not waited for in vain."""
        known = self._known_device() if spec.resources.gpus else ""
        return known or device_for(self._groups, spec.resources, spec.min_trainers, self._passed)

    def _other_model(self, spec: JobSpec, device: str) -> str:
        """Which model comes after this one, while no node is had; itself: none."""
        if self._device:
            return self._device
        return device_for(self._groups, spec.resources, spec.min_trainers, self._passed | {device})

    async def _ask_for(self, setup: TrainerSetup, groups: Sequence[str], entry: Entry) -> _RayTrainer | None:
        """Start a trainer on a node of the first of these groups that has one. None: none came in time, and it is withdrawn."""
        creating = asyncio.create_task(asyncio.to_thread(self._create, setup, groups))
        try:
            trainer = await asyncio.shield(creating)
            if not await self._started_in_time(trainer, entry):
                await self._withdraw(trainer)
                return None
        except SetupFailedError as failed:
            self._troubled[failed.node] = time.monotonic()
            raise
        except asyncio.CancelledError:
            await (await creating).kill()
            raise
        return trainer

    async def _started_in_time(self, trainer: _RayTrainer, entry: Entry) -> bool:
        if not self._groups:
            await trainer.start()
            return True
        self._look_after_waiting()
        starting = asyncio.create_task(trainer.start())
        with self._waiting.entered(name_within(self._attempt, trainer.trainer), entry):
            over = asyncio.create_task(entry.over.wait())
            try:
                await asyncio.wait({starting, over}, return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():
                    return False
                await starting
                return True
            finally:
                over.cancel()
                starting.cancel()

    async def _withdraw(self, trainer: _RayTrainer) -> None:
        """Return when another of its name may be asked for. What is asked of Ray may be lost with its head: so it is asked again."""
        await trainer.withdraw()
        while (left := await asyncio.to_thread(find_actor, self._attempt, trainer.trainer)) is not None:
            await asyncio.sleep(_RETRY_S)  # Ray tells no event
            await self._handle(trainer.trainer, left).withdraw()

    def _create(self, setup: TrainerSetup, groups: Sequence[str] = ()) -> _RayTrainer:
        resources = setup.spec.resources
        options: dict[str, Any] = {
            "name": name_within(self._attempt, setup.trainer),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "runtime_env": _runtime_env(setup.spec, self._package_uri),
        }
        device = self._known_device() if resources.gpus else ""
        if wanted := selectors(groups, self._groups, device, self._shunned(setup.apart_from)):
            marked = mark(options["name"]) if self._groups else {}
            first, *others = ({**selector, **marked} for selector in wanted)
            options["label_selector"] = first
            if others:
                options["fallback_strategy"] = [{"label_selector": selector} for selector in others]
        secret = setup.liveness_secret.reveal() if setup.liveness_secret else ""
        actor = _TRAINER.options(**options).remote(replace(setup, liveness_secret=None), self._service, secret)
        return self._handle(setup.trainer, actor)

    def _shunned(self, trainers: tuple[str, ...]) -> list[str]:
        """Ids of the nodes that these trainers were on, and of those that could not be set up of late."""
        nodes = {self._trainers[t].node for t in trainers if t in self._trainers} - {""}
        troubled = {ip for ip, at in self._troubled.items() if time.monotonic() - at < _TROUBLED_S}
        if troubled:
            there = ray.nodes()  # type: ignore[no-untyped-call]
            nodes |= {str(node["NodeID"]) for node in there if node["NodeManagerAddress"] in troubled}
        return sorted(nodes)

    def _known_device(self) -> str:
        """The model of the GPUs of the nodes that this attempt's trainers are on; empty: none, or not known."""
        nodes = {trainer.node for trainer in list(self._trainers.values())} - {""}
        if not self._device and self._groups and nodes:
            labels = [n["Labels"] for n in ray.nodes() if n["NodeID"] in nodes]  # type: ignore[no-untyped-call]
            self._device = next(filter(None, (found.get(KIND_LABELS["device"], "") for found in labels)), "")
        return self._device

    def _handle(self, trainer: str, actor: ActorHandle[Any]) -> _RayTrainer:
        return _RayTrainer(trainer, actor, self._liveness, self._ending)

    async def find_trainers(self) -> list[TrainerHandle]:
        found = await self._with_places(await asyncio.to_thread(self._find))
        for trainer in found:
            # not awaited: one that is stopped answers no more, and the detector, which expects it, says so
            self._tasks.spawn(trainer.tell_liveness(), name=f"liveness-{trainer.trainer}")
        self._watch(found)
        return list(found)

    async def _with_places(self, found: list[_RayTrainer]) -> list[_RayTrainer]:
        """Withdraw those that an earlier supervisor asked for in vain: nobody would ask for them in another group any more."""
        if not self._groups:
            return found
        pending = [trainer for trainer in found if await asyncio.to_thread(trainer.is_pending)]
        await asyncio.gather(*(self._withdraw(trainer) for trainer in pending))
        return [trainer for trainer in found if trainer not in pending]

    async def close(self) -> None:
        self._tasks.cancel()
        found = await asyncio.to_thread(self._find)
        await asyncio.gather(*(trainer.kill() for trainer in found))

    async def settle(self, within_s: float) -> None:
        """Wait, so long at most, until those that could not be reached when they were killed are gone as well."""
        await self._ending.settle(within_s)

    def _find(self) -> list[_RayTrainer]:
        roles = [role for role in list_roles(self._attempt) if role not in (SUPERVISOR, KEEPER)]
        actors = [(role, find_actor(self._attempt, role)) for role in roles]
        return [self._handle(role, actor) for role, actor in actors if actor is not None]

    def _look_after_waiting(self) -> None:
        if not self._looking:
            self._looking = True
            self._tasks.spawn(self._waiting.run(), name="trainers-that-wait")

    # ---- nodes that are about to go

    def _watch(self, trainers: Iterable[_RayTrainer]) -> None:
        self._trainers.update((trainer.trainer, trainer) for trainer in trainers)
        if not self._watching:
            self._watching = True
            self._tasks.spawn(self._watch_nodes(), name="drained-nodes")

    async def _watch_nodes(self) -> None:
        while True:
            await asyncio.sleep(_DRAIN_POLL_S)
            draining = await asyncio.to_thread(draining_nodes)
            for trainer in [t for t in self._trainers.values() if t.node in draining]:
                del self._trainers[trainer.trainer]
                self.on_notice(trainer.trainer, "its node is being drained")
