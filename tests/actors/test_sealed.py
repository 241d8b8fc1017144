"""Secrets of an attempt: nothing that can be looked up from an actor holds one, while it is at work."""

from __future__ import annotations

import asyncio
import gc
import pickle
import types
from collections.abc import Iterator
from typing import Any

import pytest
from tests.actors.control_plane import CODE, TOKEN, ControlPlane, serve

from surefoot.events import EventKind
from surefoot.spec import JobSpec
from surefoot_actors.cluster.environment import without_secrets
from surefoot_actors.launch.launcher import claim
from surefoot_actors.launch.supervisor_actor import SupervisorActor, SupervisorSetup
from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.liveness.watchdog_process import Watchdog
from surefoot_actors.sealed import Sealed
from surefoot_actors.uplink.http import HttpUplink

SPEC = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8)
SECRET = "correct horse battery staple"
# What belongs to the interpreter and to modules, and not to an object.
_SKIPPED = (type, types.ModuleType, types.BuiltinFunctionType)


def reachable(root: Any) -> Iterator[Any]:
    """Yield all that is reached from an object: attributes, closures, and the variables of coroutines that wait."""
    seen, left = {id(root)}, [root]
    while left:
        found = left.pop()
        yield found
        for inner in gc.get_referents(found):
            if id(inner) in seen or isinstance(inner, _SKIPPED) or _is_namespace(inner):
                continue
            seen.add(id(inner))
            left.append(inner)


def _is_namespace(found: Any) -> bool:
    """A module's variables, which a function refers to; or this test's own frame."""
    return (isinstance(found, dict) and "__builtins__" in found) or (
        isinstance(found, types.FrameType) and found.f_back is not None
    )


def holds(root: Any, secret: str) -> bool:
    return any(
        secret in found if isinstance(found, str) else secret.encode() in found
        for found in reachable(root)
        if isinstance(found, str | bytes | bytearray)
    )


class _Plain:
    def __init__(self, secret: str) -> None:
        self.headers = {"Authorization": f"Bearer {secret}"}
        self.closure = lambda: secret


def test_the_search_finds_what_is_there() -> None:
    assert holds(_Plain(SECRET), SECRET)
    assert holds(_Plain(SECRET).closure, SECRET)


async def test_the_search_finds_what_a_coroutine_waits_with() -> None:
    async def wait(secret: str) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(wait("".join(SECRET)))
    await asyncio.sleep(0)
    assert holds([task], SECRET)
    task.cancel()


def test_a_sealed_secret_is_revealed_and_nothing_else() -> None:
    sealed = Sealed(SECRET)
    assert sealed.reveal() == SECRET
    assert not holds(sealed, SECRET)
    assert SECRET not in repr(sealed)
    assert not [
        name for name in dir(sealed) if not callable(getattr(sealed, name)) and SECRET in str(getattr(sealed, name))
    ]
    with pytest.raises(TypeError, match="not sent"):
        pickle.dumps(sealed)


async def test_an_uplink_at_work_holds_no_token() -> None:
    """While a poll stands, which is nearly always, and after posts."""
    plane = ControlPlane(SPEC)
    with serve(plane):
        uplink = HttpUplink(plane.url, "job-1", TOKEN, "s")
        await uplink.start()
        polling = asyncio.create_task(_poll(uplink))
        uplink.event(EventKind.WARNING, message="x")
        assert await uplink.flush(30)
        async with asyncio.timeout(90):
            while holds([uplink, polling], TOKEN):  # noqa: ASYNC110  until the poll is sent, a matter of milliseconds
                await asyncio.sleep(0.01)
        for _ in range(5):
            await asyncio.sleep(0.02)
            assert not holds([uplink, polling], TOKEN)
        assert len(plane.of(EventKind.WARNING)) == 1
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        await uplink.close()


async def _poll(uplink: HttpUplink) -> None:
    async for _ in uplink.commands():
        pass


async def test_a_supervisors_actor_holds_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live(self: SupervisorActor) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(SupervisorActor, "_live_or_die", live)
    monkeypatch.setattr("surefoot_actors.launch.supervisor_actor.without_secrets", lambda env: None)
    actor = SupervisorActor(SupervisorSetup(url="http://x", attempt="job-1", token=SECRET, spec=SPEC, package_uri=None))
    await asyncio.sleep(0)
    assert not holds(actor, SECRET)
    assert actor._token.reveal() == SECRET
    actor._task.cancel()
    await asyncio.gather(actor._task, return_exceptions=True)


def test_orders_do_not_show_the_token() -> None:
    assert SECRET not in repr(
        SupervisorSetup(url="http://x", attempt="job-1", token=SECRET, spec=SPEC, package_uri=None)
    )


async def test_neither_side_of_liveness_holds_its_secret() -> None:
    from surefoot_actors.cluster.ports import TrainerSetup

    server = LivenessServer("job-1", secret=SECRET.replace(" ", "-"))
    await server.start()
    setup = TrainerSetup(
        attempt="job-1", trainer="t0", spec=SPEC, liveness=server.address, liveness_secret=server.sealed
    )
    assert not holds([server, setup, Watchdog(setup, Sealed(SECRET))], SECRET)
    assert not holds([server, setup], SECRET.replace(" ", "-"))
    await server.close()


def test_an_actors_environment_has_no_secrets() -> None:
    secret = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "SUREFOOT_DATA", "SUREFOOT_TOKEN", "SUREFOOT_CLAIM", "SUREFOOT_RAY_AUTH_TOKEN",
              "SUREFOOT_DATABASE_URL", "PGPASSWORD"}  # fmt: skip
    env = dict.fromkeys({*secret, "PATH", "AWS_ACCESS_KEY_ID"}, "x")
    without_secrets(env)
    assert not secret & env.keys()
    assert {"PATH", "AWS_ACCESS_KEY_ID"} <= env.keys()


# ---- the cluster's clients and the environment's proxy


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    """A proxy that keeps what it hears: another control plane, whose claims and events would be counted."""
    proxy = ControlPlane(SPEC)
    with serve(proxy):
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield proxy


async def test_no_proxy_hears_of_a_claim_or_of_events(proxied: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    plane = ControlPlane(SPEC)
    with serve(plane):
        claimed = await asyncio.to_thread(claim, plane.url, "job-1", CODE)
        assert claimed is not None
        uplink = HttpUplink(plane.url, "job-1", claimed.token, "s")
        await uplink.start()
        uplink.event(EventKind.WARNING, message="x")
        assert await uplink.flush(30)
        await uplink.close()
    assert (plane.claims, len(plane.events)) == (1, 1)
    assert (proxied.claims, len(proxied.events)) == (0, 0)


async def test_not_even_where_the_control_plane_is_another_machine(
    proxied: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the cluster: the proxy is the way out of it."""
    monkeypatch.setattr("surefoot_actors.launch.launcher.CLAIM_S", 0.1)
    from surefoot_actors.launch.launcher import LaunchError

    with pytest.raises(LaunchError, match="could not be reached"):
        await asyncio.to_thread(claim, "http://control-plane.invalid:8470", "job-1", CODE)
    assert proxied.claims == 0
