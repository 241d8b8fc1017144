"""The cluster over Ray: a trainer is a detached, named actor that Ray never restarts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError, RuntimeEnvSetupError

from surefoot.spec import JobSpec
from surefoot_actors.cluster import Inbox, TrainerGoneError, TrainerHandle, TrainerSetup
from surefoot_actors.environment import trainer_env
from surefoot_actors.protocol.messages import ToTrainer
from surefoot_actors.pulse import PulseServer
from surefoot_actors.ray_actors import DEFAULT_SERVICE, TrainerActor
from surefoot_actors.ray_end import confirm_gone, place_of
from surefoot_actors.ray_names import KEEPER, NAMESPACE, SUPERVISOR, actor_name, find_actor, list_roles

__all__ = ["RayCluster", "death_reason"]

# "Perhaps executed": every call may be told again, after so long.
_RETRY_S = 0.1
_LONGEST_REASON = 4000
_TRAINER: Any = ray.remote(concurrency_groups={"control": 1, "collect": 1})(TrainerActor)  # type: ignore[call-overload]
_OUT_OF_MEMORY = re.compile(r"OutOfMemory|memory (usage )?threshold|running low on memory", re.IGNORECASE)


def death_reason(error: RayError) -> str:
    """A sentence, or a traceback, for how an actor ended."""
    text = str(error).strip()
    if isinstance(error, RuntimeEnvSetupError):
        return f"its runtime environment failed: {text[-_LONGEST_REASON:]}"
    if isinstance(error, OutOfMemoryError) or _OUT_OF_MEMORY.search(text):
        return f"out of memory: {text[-_LONGEST_REASON:]}"
    if "creation task" in text:
        return f"it failed to start: {text[-_LONGEST_REASON:]}"
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

    def __init__(self, trainer: str, actor: ActorHandle[Any], pulse: PulseServer) -> None:
        self._trainer, self._actor, self._pulse = trainer, actor, pulse
        self._ending: asyncio.Task[None] | None = None

    @property
    def trainer(self) -> str:
        return self._trainer

    async def start(self) -> None:
        """Return when the actor has a place and its service answers."""
        await self._ask(self._actor.start)

    async def deliver(self, message: ToTrainer) -> None:
        await self._ask(self._actor.deliver, message)

    async def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        inbox: Inbox = await self._ask(self._actor.collect, after, rows_below, wait_s)
        return inbox

    async def kill(self) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name=f"end-{self._trainer}")
        await asyncio.shield(self._ending)

    async def tell_pulse(self) -> None:
        """Have its helper beat here."""
        if (place := place_of(self._actor)) is not None and place.state == "ALIVE":
            self._pulse.expect(self._trainer)
        try:
            await self._ask(self._actor.pulse, self._pulse.address, self._pulse.secret)
        except TrainerGoneError:
            pass

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
                raise TrainerGoneError(death_reason(error)) from None

    async def _end(self) -> None:
        """Kill by the helper, which reaches a stopped process at once; by Ray; and make sure."""
        place = place_of(self._actor)
        confirmed = await self._pulse.fence(self._trainer)
        ray.kill(self._actor, no_restart=True)
        if not confirmed:
            await confirm_gone(place)


class RayCluster:
    """Trainers as actors named "attempt/trainer", found again by name. Used on one event loop, in the supervisor's actor."""

    def __init__(
        self, attempt: str, pulse: PulseServer, *, package_uri: str | None = None, service: str = DEFAULT_SERVICE
    ) -> None:
        self._attempt, self._pulse, self._package_uri, self._service = attempt, pulse, package_uri, service
        self._telling: set[asyncio.Task[None]] = set()

    async def start_trainer(self, setup: TrainerSetup) -> TrainerHandle:
        trainer = self._create(setup)
        try:
            await trainer.start()
        except asyncio.CancelledError:
            await trainer.kill()
            raise
        return trainer

    def _create(self, setup: TrainerSetup) -> _RayTrainer:
        resources = setup.spec.resources
        options = {
            "name": actor_name(self._attempt, setup.trainer),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "runtime_env": _runtime_env(setup.spec, self._package_uri),
        }
        actor = _TRAINER.options(**options).remote(setup, self._service)
        return _RayTrainer(setup.trainer, actor, self._pulse)

    async def find_trainers(self) -> list[TrainerHandle]:
        found = self._find()
        for trainer in found:
            # not awaited: one that is stopped answers no more, and the pulse, which expects it, says so
            telling = asyncio.create_task(trainer.tell_pulse(), name=f"pulse-{trainer.trainer}")
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
        return list(found)

    async def close(self) -> None:
        for telling in tuple(self._telling):
            telling.cancel()
        await asyncio.gather(*(trainer.kill() for trainer in self._find()))

    def _find(self) -> list[_RayTrainer]:
        roles = [role for role in list_roles(self._attempt) if role not in (SUPERVISOR, KEEPER)]
        actors = [(role, find_actor(self._attempt, role)) for role in roles]
        return [_RayTrainer(role, actor, self._pulse) for role, actor in actors if actor is not None]
