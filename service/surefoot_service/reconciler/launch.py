"""How an attempt gets on the cluster and off it again, through Ray's Jobs API."""

from __future__ import annotations

import shlex
import zlib
from dataclasses import dataclass
from functools import partial
from zipfile import BadZipFile

from surefoot_service.cluster.jobs_api import RayJob, RayJobs, RayRefusedError, RayUnavailableError
from surefoot_service.packages.archive import for_ray
from surefoot_service.parts import Service
from surefoot_service.store.attempts import package_name
from surefoot_service.store.overview import Watched
from surefoot_service.waiting import BusyError, HungError, Kind

__all__ = ["Launch", "PackageGoneError"]


class PackageGoneError(RayRefusedError):
    """The job's code is no longer on the service's disk: it cannot be launched, however often that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Submissions of one service to one cluster. Every call may be repeated."""

    service: Service
    ray: RayJobs
    # the interpreter that has surefoot_actors, on the cluster
    python: str

    async def submit(self, watched: Watched) -> None:
        """Bring the code package to the cluster and submit the launcher.

        The environment of a Ray job is shown to whoever may list jobs: it carries a claim code that works once, no token.
        """
        attempt, sha256 = watched.attempt, watched.spec.package
        await self.ray.ensure_package(package_name(sha256), partial(self._package, sha256))
        env = {**self._env(attempt.id), "SUREFOOT_CLAIM": self.service.keys.claim_code(attempt.id)}
        await self.ray.submit(attempt.submission_id, self._entrypoint("surefoot_actors.launch.launcher"), env)

    async def _package(self, sha256: str) -> bytes:
        """Return the package as Ray is to unpack it. Raises PackageGoneError, and RayUnavailableError where the disk does not answer."""
        path = self.service.packages.path(sha256)
        try:
            return await self.service.waiting.run(Kind.LAUNCHES, for_ray, path)
        except (FileNotFoundError, BadZipFile, zlib.error) as error:
            raise PackageGoneError(
                f"the job's code, package {sha256}, is no longer whole on the control plane's disk; submit the job again: "
                "that uploads it anew"
            ) from error
        except (OSError, BusyError, HungError) as error:
            raise RayUnavailableError(
                f"package {sha256} cannot be read from the control plane's disk: {error}"
            ) from error

    async def clean_up(self, watched: Watched) -> RayJob | None:
        """End the launcher and remove the attempt's actors by name. Return how far the clean-up is; None: just asked for."""
        attempt = watched.attempt
        name = self._clean_up_id(watched)
        found = await self.ray.find(name)
        if found is None:
            await self.ray.stop(attempt.submission_id)
            await self.ray.submit(name, self._entrypoint("surefoot_actors.launch.cleanup"), self._env(attempt.id))
        return found

    async def stop_launcher(self, watched: Watched) -> bool:
        """End the launcher; return whether it has ended."""
        found = await self.ray.find(watched.attempt.submission_id)
        if found is None or found.status.ended:
            return True
        await self.ray.stop(watched.attempt.submission_id)
        return False

    async def forget(self, watched: Watched) -> None:
        """Have Ray forget the attempt's submissions."""
        await self.ray.delete(watched.attempt.submission_id)
        await self.ray.delete(self._clean_up_id(watched))

    async def log_tail(self, watched: Watched, *, clean_up: bool = False) -> str:
        return await self.ray.log_tail(self._clean_up_id(watched) if clean_up else watched.attempt.submission_id)

    def _clean_up_id(self, watched: Watched) -> str:
        return f"{watched.attempt.submission_id}-cleanup"

    def _env(self, attempt: str) -> dict[str, str]:
        return {"SUREFOOT_URL": self.service.settings.url, "SUREFOOT_ATTEMPT": attempt}

    def _entrypoint(self, module: str) -> str:
        # -P: what lies in the folder it happens to start in is not importable
        return f"{shlex.quote(self.python)} -P -m {module}"
