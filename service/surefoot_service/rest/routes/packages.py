"""Code packages: uploaded once, named by their hash."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from surefoot.errors import PackageError
from surefoot.views import PackageView
from surefoot_service.errors import InvalidError, NotFoundError
from surefoot_service.packages.archive import FolderError, TooLargeError
from surefoot_service.rest.body import BodyKind, takes
from surefoot_service.rest.dependencies import ServiceDep, User
from surefoot_service.rest.problems import ProblemError, documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.store import packages as store
from surefoot_service.waiting import Kind

router = APIRouter(prefix="/v1/packages", tags=["packages"], dependencies=[User], route_class=GuardedRoute)

Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="the SHA-256, in hex, of the zip's bytes")]

_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {"application/zip": {"schema": {"type": "string", "contentMediaType": "application/zip"}}},
    }
}


@router.post(
    "",
    status_code=201,
    openapi_extra=_UPLOAD,
    responses={200: {"description": "It was there before", "model": PackageView}, **documented(401, 408, 415)},
)
@takes(BodyKind.PACKAGE)
async def upload_package(request: Request, response: Response, service: ServiceDep) -> PackageView:
    """Take in a zip with the training code at its root."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/zip":
        raise ProblemError(415, "a package is uploaded as application/zip")
    try:
        sha256, size = await service.packages.receive(request.stream(), service.waiting)
    except TooLargeError as error:
        raise ProblemError(413, str(error)) from error
    except PackageError as error:
        raise InvalidError("body", str(error)) from error
    except FolderError as error:
        raise ProblemError(503, str(error), headers={"Retry-After": "10"}) from error
    if not await service.database.write(store.add, sha256, size, now=service.now()):
        response.status_code = 200
    return PackageView(package=sha256, bytes=size)


@router.get("/{sha256}", responses=documented(401, 404))
async def get_package(sha256: Sha256, service: ServiceDep) -> PackageView:
    """Tell whether a package is here, so that it need not be uploaded again."""
    size = await service.database.read(store.size_of, sha256)
    # A file that is gone from the disk, or cut, is told to be none, so that it is uploaded again.
    if size is None or not await service.waiting.run(Kind.PACKAGES, service.packages.has, sha256, size):
        raise NotFoundError("package", sha256)
    return PackageView(package=sha256, bytes=size)
