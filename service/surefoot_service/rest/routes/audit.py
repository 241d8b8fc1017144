"""What was removed, and done with secrets; by whom or by which rule, and when."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from surefoot.views import AuditPage
from surefoot_service.rest.dependencies import ServiceDep, User
from surefoot_service.rest.numbers import Digits
from surefoot_service.rest.problems import documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.store import audit as store

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[User], route_class=GuardedRoute)


@router.get("", responses=documented(401))
async def read_audit(
    service: ServiceDep,
    after: Annotated[int, Query(ge=0, le=2**53, description="only entries with a higher n"), Digits] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="at most so many entries"), Digits] = 100,
    subject: Annotated[
        str | None,
        Query(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="a job's id, a package's hash, or a secret's name"),
    ] = None,
) -> AuditPage:
    """List what was removed, and done with secrets, oldest first, the entries with n above `after`. They outlive what they are about."""
    return AuditPage(entries=await service.database.read(store.entries_after, after, limit, subject))
