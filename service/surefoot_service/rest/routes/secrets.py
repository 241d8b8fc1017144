"""Secrets: set, listed without their values, given another one, removed; and handed to the supervisors of the jobs that name them."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Response

from surefoot.names import ATTEMPT_PATTERN
from surefoot.secret_rules import SECRET_PATTERN
from surefoot.secrets import HandedSecrets, KeyRotated, SecretList, SecretRequest, SecretView
from surefoot_service.rest.body import BodyKind, takes
from surefoot_service.rest.dependencies import AttemptToken, ServiceDep, User
from surefoot_service.rest.problems import documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.store import handing
from surefoot_service.store import secrets as store

router = APIRouter(prefix="/v1/secrets", tags=["secrets"], dependencies=[User], route_class=GuardedRoute)
attempts = APIRouter(prefix="/v1/attempts", tags=["attempts"], route_class=GuardedRoute)

SecretName = Annotated[str, Path(pattern=SECRET_PATTERN, description="the secret's name")]

# there is one user: whoever has the user's token
_OWNER = "the user"


@router.get("", responses=documented(401))
async def list_secrets(service: ServiceDep) -> SecretList:
    """List all secrets, by name, without their values."""
    return SecretList(secrets=await service.database.read(store.listing))


@router.put(
    "/{name}",
    status_code=201,
    responses={
        200: {"description": "It was set before, to the same value", "model": SecretView},
        **documented(401, 408, 409, 415),
    },
)
@takes(BodyKind.SECRET)
async def set_secret(name: SecretName, body: SecretRequest, response: Response, service: ServiceDep) -> SecretView:
    """Set a secret. Setting the same value again changes nothing; another value is refused: rotate it."""
    async with service.key_ring.steady:
        view, new = await service.database.write(
            store.put, name, body.value.get_secret_value(), keys=service.key_ring, by=_OWNER, now=service.now()
        )
    if not new:
        response.status_code = 200
    return view


@router.post("/{name}/rotate", responses=documented(401, 404, 408, 415))
@takes(BodyKind.SECRET)
async def rotate_secret(name: SecretName, body: SecretRequest, service: ServiceDep) -> SecretView:
    """Give a secret another value. Trainers that start from now on find it, of running jobs too; others keep the one that they have."""
    async with service.key_ring.steady:
        return await service.database.write(
            store.rotate, name, body.value.get_secret_value(), keys=service.key_ring, by=_OWNER, now=service.now()
        )


@router.delete("/{name}", status_code=204, responses=documented(401, 404, 409))
async def remove_secret(name: SecretName, service: ServiceDep) -> None:
    """Remove a secret that no job names which has not ended. Removing it again changes nothing."""
    await service.database.write(store.remove, name, by=_OWNER, now=service.now())


@router.post("/keys/new", responses=documented(401, 409))
async def rotate_key(service: ServiceDep) -> KeyRotated:
    """Encrypt all secrets with a new key; where the keys are given by a setting or a mounted file, with the first of those."""
    keys = service.key_ring
    async with keys.steady:
        made = await asyncio.to_thread(keys.begin_rotation)
        number = await service.database.write(store.encrypt_anew, keys=keys, by=_OWNER, now=service.now())
        await asyncio.to_thread(keys.end_rotation)
    return KeyRotated(secrets=number, made=made)


@attempts.post("/{attempt}/secrets", responses=documented(401, 409, 410))
async def hand_secrets(
    attempt: Annotated[str, Path(pattern=ATTEMPT_PATTERN, description="the attempt's name")],
    token: AttemptToken,
    service: ServiceDep,
) -> HandedSecrets:
    """Tell the values of the secrets that the attempt's job names, as they are now, for trainers that are about to start."""
    values = await service.database.write(handing.hand, attempt, token, keys=service.key_ring, now=service.now())
    return HandedSecrets(values=values)
