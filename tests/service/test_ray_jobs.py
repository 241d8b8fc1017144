"""Ray's REST API through the client: what is repeated is harmless, and what goes wrong says what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from surefoot_service.cluster.jobs_api import (
    RayJobs,
    RayRefusedError,
    RayStatus,
    RayUnavailableError,
    open_ray_jobs,
)
from surefoot_service.scheduler.capacity import NodeSize

from .fake_ray import TOKEN, FakeRay


@pytest.fixture
def fake() -> FakeRay:
    return FakeRay()


@pytest.fixture
async def ray(fake: FakeRay) -> AsyncIterator[RayJobs]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(fake.app()), base_url="http://ray", headers=headers
    ) as client:
        yield RayJobs(client)


async def test_session_and_nodes(fake: FakeRay, ray: RayJobs) -> None:
    fake.nodes = [{"CPU": 4.0, "GPU": 1.0, "memory": 1e9}, {"memory": 1e9}]
    fake.labels = {1: {"ray.io/node-group": "gpu-spot", "ray.io/accelerator-type": "L4", "ray.io/node-id": "f0"}}
    assert await ray.session_name() == "session_1"
    assert await ray.nodes() == (
        NodeSize(cpus=4, gpus=1),
        NodeSize(cpus=0, gpus=0, group="gpu-spot", device="L4"),
    )


async def test_a_package_is_uploaded_once(fake: FakeRay, ray: RayJobs, tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    path.write_bytes(b"PK")

    async def read() -> bytes:
        return path.read_bytes()

    await ray.ensure_package("p.zip", read)
    path.unlink()
    await ray.ensure_package("p.zip", read)
    assert fake.packages == {"p.zip": b"PK"}


async def test_a_submission_repeated_is_left_as_it_is(fake: FakeRay, ray: RayJobs) -> None:
    await ray.submit("s", "one", {"A": "1"})
    await ray.submit("s", "two", {})
    assert fake.submissions["s"].entrypoint == "one"


async def test_a_submission_whose_answer_was_lost_is_there(fake: FakeRay, ray: RayJobs) -> None:
    fake.refuse = [200]
    await ray.submit("s", "one", {})
    assert fake.posts == 1


async def test_refusals(fake: FakeRay, ray: RayJobs) -> None:
    fake.refuse = [400, 500]
    with pytest.raises(RayRefusedError, match="ValueError: no"):
        await ray.submit("s", "one", {})
    with pytest.raises(RayUnavailableError, match="500: ValueError: no"):
        await ray.submit("s", "one", {})
    assert fake.submissions == {}


async def test_a_submission_that_ray_does_not_know(ray: RayJobs) -> None:
    assert await ray.find("s") is None
    assert await ray.log_tail("s") == ""
    await ray.stop("s")
    await ray.delete("s")


async def test_status_and_the_first_line_of_the_message(fake: FakeRay, ray: RayJobs) -> None:
    await ray.submit("s", "one", {})
    message = "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\nlong\n"
    fake.end("s", "FAILED", message, logs="x" * 10_000 + "the end")
    found = await ray.find("s")
    assert found is not None
    assert (found.status, found.message) == (RayStatus.FAILED, "Job entrypoint command failed with exit code 1")
    tail = await ray.log_tail("s")
    assert len(tail) == 8_000
    assert tail.endswith("the end")


async def test_without_the_clusters_token(fake: FakeRay) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake.app()), base_url="http://ray") as client:
        with pytest.raises(RayUnavailableError, match="SUREFOOT_RAY_AUTH_TOKEN"):
            await RayJobs(client).session_name()


async def test_a_cluster_that_is_not_there() -> None:
    async with open_ray_jobs("http://127.0.0.1:9", None) as ray:
        with pytest.raises(RayUnavailableError, match=r"127\.0\.0\.1:9 does not answer"):
            await ray.session_name()
