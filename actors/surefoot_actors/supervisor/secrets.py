"""The job's secrets on their way from the control plane to the trainers. No attribute holds one: they are sealed."""

from __future__ import annotations

import json
from collections.abc import Callable

from pydantic import JsonValue
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_delay,
    stop_never,
    wait_random_exponential,
)

from surefoot.events import EventKind
from surefoot.spec import JobSpec
from surefoot_actors.cluster.ports import TrainerGoneError, TrainerHandle
from surefoot_actors.masking import Masking
from surefoot_actors.protocol.messages import GiveSecrets
from surefoot_actors.sealed import Sealed
from surefoot_actors.tasks import Tasks
from surefoot_actors.uplink.ports import SecretsAwayError, Uplink

__all__ = ["SecretKeeper"]

# While the control plane is away, trainers that start are given the values that were told last, after so long.
_PATIENCE_S = 5.0
# Of the failures in a row, the one that people are told of: the first ones may be a restart.
_TOLD_AT = 5


class SecretKeeper:
    """Asks anew for every trainer that starts, so that one that starts after a rotation has the new value."""

    def __init__(self, spec: JobSpec, uplink: Uplink, tell: Callable[..., None]) -> None:
        self._names, self._uplink, self._tell = sorted(set(spec.secrets.values())), uplink, tell
        # what was told last, and all that was ever told: a value from before a rotation is a secret too
        self._newest: Sealed | None = None
        self._known = Sealed("[]")
        self._tasks = Tasks("secrets")

    async def give(self, trainer: TrainerHandle) -> None:
        """Give a trainer its secrets. Waits while nobody tells them; raises TrainerGoneError."""
        if self._names:
            await trainer.deliver(GiveSecrets(values=json.loads((await self._ask()).reveal())))

    def give_later(self, trainer: TrainerHandle) -> None:
        """Give them to a trainer that has them already, unless the supervisor before this one ended before it gave them."""
        if self._names:
            self._tasks.spawn(self._give_if_there(trainer), name=f"secrets-{trainer.trainer}")

    def mask(self, value: JsonValue) -> JsonValue:
        """Take the secrets out of what is told of the job."""
        return Masking(json.loads(self._known.reveal())).json(value) if self._names else value

    def close(self) -> None:
        self._tasks.cancel()

    async def _give_if_there(self, trainer: TrainerHandle) -> None:
        try:
            await self.give(trainer)
        except TrainerGoneError:
            pass  # its link tells that

    async def _ask(self) -> Sealed:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(SecretsAwayError),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            stop=stop_never if self._newest is None else stop_after_delay(_PATIENCE_S),
            before_sleep=self._tell_of,
            reraise=True,
        )
        try:
            values: dict[str, str] = await retrying(self._uplink.secrets)
        except SecretsAwayError:
            assert self._newest is not None
            return self._newest
        self._newest = Sealed(json.dumps(values))
        self._known = Sealed(json.dumps(sorted({*json.loads(self._known.reveal()), *values.values()})))
        return self._newest

    def _tell_of(self, state: RetryCallState) -> None:
        if state.attempt_number == _TOLD_AT and state.outcome is not None:
            why = f"the job's secrets ({', '.join(self._names)}) are not told, which trainers wait for: {state.outcome.exception()}"
            self._tell(EventKind.WARNING, message=why)
