"""The data folder is its owner's alone, whatever was there before; and one `up` holds it."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from surefoot._where import find
from surefoot.errors import UserError
from surefoot_service.cluster.local_head import RayHead
from surefoot_service.data_folder import announced, locked, make_private
from surefoot_service.rest.app import open_service
from surefoot_service.settings import Settings


def modes(data: Path) -> dict[str, str]:
    return {str(p.relative_to(data)): oct(stat.S_IMODE(p.lstat().st_mode)) for p in sorted(data.rglob("*"))}


@pytest.fixture(autouse=True)
def _generous_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def use(data: Path) -> dict[str, str]:
    """Open a service over the folder and use its database; return the modes while it is open."""
    service = open_service(Settings(data=data))
    try:
        asyncio.run(service.database.write(lambda session: session.execute(text("create table x (y)"))))
        (data / "packages" / f"{'a' * 64}.zip").touch(mode=0o666)
        return modes(data)
    finally:
        service.database.close()


def test_a_new_folder_is_nobody_elses(tmp_path: Path) -> None:
    found = use(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert {
        "surefoot.db",
        "surefoot.db-wal",
        "surefoot.db-shm",
        "key",
        "secrets.key",
        "token",
        "token.sha256",
    } <= found.keys()
    assert {name: mode for name, mode in found.items() if name.startswith("surefoot.db")} == {
        name: "0o600" for name in found if name.startswith("surefoot.db")
    }
    assert (found["key"], found["token"], found["packages"]) == ("0o600", "0o600", "0o700")


def test_whatever_was_open_is_closed(tmp_path: Path) -> None:
    """As a copy, an unpacked archive or an older version left it."""
    data = tmp_path / "data"
    use(data)
    (data / "surefoot.db-wal").touch()
    (data / "surefoot.db-shm").touch()
    (data / "lock").touch()
    for path in [data, *data.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    make_private(data)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {name: mode for name, mode in modes(data).items() if mode not in ("0o600", "0o700")} == {}


def test_a_link_in_the_folder_changes_nothing_elsewhere(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    data.mkdir()
    other.write_text("x")
    other.chmod(0o644)
    (data / "token").symlink_to(other)
    make_private(data)
    assert stat.S_IMODE(other.stat().st_mode) == 0o644


@pytest.mark.parametrize("mode", [0o1777, 0o1755])
def test_a_folder_for_everybody_is_refused_and_left_as_it_is(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(UserError, match="name a folder of its own by --data"):
        make_private(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode
    tmp_path.chmod(0o700)


def test_so_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    with pytest.raises(UserError, match="a folder of its own"):
        make_private(tmp_path)


def test_and_another_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UserError, match="another user's"):
        make_private(tmp_path)


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(UserError, match="cannot be used"):
        make_private(tmp_path / "data")


# ---- the lock, by which the SDK knows that it is the user's own `up`


def test_the_token_is_sent_while_up_runs_and_no_longer(tmp_path: Path) -> None:
    env = {"SUREFOOT_DATA": str(tmp_path)}
    (tmp_path / "token").write_text("secret")
    with locked(tmp_path):
        assert find(None, None, env).token is None
        with announced(tmp_path, "http://127.0.0.1:1234"):
            where = find(None, None, env)
            assert (where.url, where.token) == ("http://127.0.0.1:1234", "secret")
            left = (tmp_path / "service.json").read_text()
    (tmp_path / "service.json").write_text(left)  # as a kill leaves it
    assert find(None, None, env).token is None


def test_who_looks_keeps_no_up_from_starting_and_a_second_up_is_told(tmp_path: Path) -> None:
    env, stop = {"SUREFOOT_DATA": str(tmp_path)}, threading.Event()
    with locked(tmp_path), announced(tmp_path, "http://127.0.0.1:1234"):
        text = (tmp_path / "service.json").read_text()
        with pytest.raises(UserError, match="in use by another"), locked(tmp_path):
            pass
    (tmp_path / "service.json").write_text(text)

    def look() -> None:
        while not stop.is_set():
            find(None, None, env)

    looking = [threading.Thread(target=look) for _ in range(3)]
    for thread in looking:
        thread.start()
    try:
        for _ in range(100):
            with locked(tmp_path):
                pass
    finally:
        stop.set()
        for thread in looking:
            thread.join()


# ---- what a local head, and so every trainer on it, is given


_SECRETS = ("SUREFOOT_TOKEN", "SUREFOOT_DATA", "surefoot_data", "SUREFOOT_DATABASE_URL", "SUREFOOT_RAY_AUTH_TOKEN", "SUREFOOT_URL",
            "OTEL_EXPORTER_OTLP_HEADERS", "PGPASSWORD", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # fmt: skip


async def test_a_local_head_is_given_no_secret(tmp_path: Path) -> None:
    head = RayHead(tmp_path, cpus=1)
    outer = dict.fromkeys(_SECRETS, "secret")
    try:
        env = head._environment(outer | {"PATH": "p", "AWS_ACCESS_KEY_ID": "k", "SUREFOOT_FAULTS_FIRED": "f"})
        assert "secret" not in env.values()
        assert head.token not in env.values()
        assert {"PATH", "AWS_ACCESS_KEY_ID", "SUREFOOT_FAULTS_FIRED"} <= env.keys()
        assert "127.0.0.1" in env["no_proxy"].split(",")
        folder = Path(env["RAY_AUTH_TOKEN_PATH"]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        head.kill()
