"""What an attempt's launcher and supervisor call: claim, uplink, commands."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query

from surefoot.events import ClaimRequest, CommandKind, UplinkAck, UplinkBatch
from surefoot.names import ATTEMPT_PATTERN
from surefoot.views import Claimed, CommandPage
from surefoot_service.errors import ClaimCodeError
from surefoot_service.keys import new_token, same
from surefoot_service.rest.body import BodyKind, takes
from surefoot_service.rest.dependencies import AttemptToken, ServiceDep
from surefoot_service.rest.numbers import Digits
from surefoot_service.rest.problems import documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.store import attempts as store
from surefoot_service.wakeups import RECONCILER, commands_of, news_of

router = APIRouter(prefix="/v1/attempts", tags=["attempts"], route_class=GuardedRoute)

AttemptId = Annotated[str, Path(pattern=ATTEMPT_PATTERN, description="the attempt's name")]

# how often a waiting poll looks again although nobody rang: another replica may have written
_LOOK_AGAIN_S = 15.0


@router.post("/{attempt}/claim", responses=documented(403, 404, 408, 409, 410, 415))
async def claim_attempt(attempt: AttemptId, body: ClaimRequest, service: ServiceDep) -> Claimed:
    """Trade the single-use claim code for the attempt's token and the job's spec."""
    # The code is derived from the attempt's name: a stranger's costs no look into the database, let alone its write lock.
    if not same(body.code, service.keys.claim_code(attempt)):
        raise ClaimCodeError()
    claimed, _job = await service.database.write(
        store.claim,
        attempt,
        body.code,
        token=new_token(),
        checkpoints=service.settings.checkpoint_place,
        now=service.now(),
    )
    service.wakeups.wake(RECONCILER)
    settings = service.settings
    return claimed.model_copy(
        update={
            "node_groups": settings.node_groups,
            "node_wait_s": settings.node_wait_s,
            "max_output_bytes": settings.max_output_bytes,
        }
    )


@router.post("/{attempt}/uplink", responses=documented(401, 408, 410, 415))
@takes(BodyKind.UPLINK)
async def uplink(attempt: AttemptId, batch: UplinkBatch, token: AttemptToken, service: ServiceDep) -> UplinkAck:
    """Take in events and ledger rows. The same ones again change nothing; what the answer acknowledges may be forgotten."""
    result, job = await service.database.write(
        store.ingest_from, attempt, token, batch, max_bytes=service.settings.max_told_bytes, now=service.now()
    )
    service.cluster.heard[attempt] = service.now()
    service.instruments.took_in(job, result.events, len(batch.rows))
    service.wakeups.wake(news_of(job))
    if result.moved:
        service.wakeups.wake(RECONCILER)
    return result.ack


@router.get("/{attempt}/commands", responses=documented(401, 410))
async def poll_commands(
    attempt: AttemptId,
    token: AttemptToken,
    service: ServiceDep,
    after: Annotated[int, Query(ge=0, lt=2**31, description="only commands with a higher n"), Digits] = 0,
    wait_s: Annotated[
        float, Query(ge=0, le=60, allow_inf_nan=False, description="seconds to wait for the first command")
    ] = 0,
) -> CommandPage:
    """Return commands with n above `after`, waiting up to `wait_s` for the first; a new one is answered at once."""
    job = await service.database.read(store.authorize, attempt, token)
    deadline = asyncio.get_running_loop().time() + wait_s
    with service.wakeups.listen(commands_of(job)) as wakeup:
        while True:
            service.cluster.heard[attempt] = service.now()
            commands = await service.database.read(store.commands_for, attempt, token, after)
            if any(c.kind is CommandKind.FAULT for c in commands):
                commands = await service.database.write(store.hand_over, attempt, token, after, now=service.now())
            left = deadline - asyncio.get_running_loop().time()
            if commands or left <= 0 or service.wakeups.closed:
                return CommandPage(commands=commands)
            await wakeup.wait(min(left, _LOOK_AGAIN_S))
