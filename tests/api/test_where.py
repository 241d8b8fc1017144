"""Finding the control plane, and which token belongs to it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot._where import DEFAULT_URL, find, network_here
from surefoot.errors import UserError

OWN = "http://127.0.0.1:9999"


def write(folder: Path, url: str = OWN, network: str | None = None) -> dict[str, str]:
    """What an `up` has written into its data folder."""
    (folder / "service.json").write_text(json.dumps({"url": url, "pid": 1, "network": network or network_here()}))
    (folder / "token").write_text("secret\n")
    (folder / "lock").write_text("1\n")
    return {"SUREFOOT_DATA": str(folder)}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder, as a live `up` does."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment beside a running `up`."""
    env = write(tmp_path)
    with held(tmp_path):
        yield env


def test_nothing_known_is_the_default(tmp_path: Path) -> None:
    where = find(None, None, {"SUREFOOT_DATA": str(tmp_path)})
    assert (where.url, where.token) == (DEFAULT_URL, None)


def test_a_running_service_is_found_with_its_token(running: dict[str, str]) -> None:
    where = find(None, None, running)
    assert (where.url, where.token, where.own) == (OWN, "secret", True)


def test_arguments_go_over_the_environment_and_that_over_the_folder(running: dict[str, str]) -> None:
    env = running | {"SUREFOOT_URL": "https://b/", "SUREFOOT_TOKEN": "t"}
    assert (find(None, None, env).url, find(None, None, env).token) == ("https://b", "t")
    assert (find("http://c/", "u", env).url, find("http://c", "u", env).token) == ("http://c", "u")


# ---- a token goes only to the URL that it belongs to


@pytest.mark.parametrize(
    "url",
    [
        DEFAULT_URL,
        "http://127.0.0.1:8470/",
        "http://localhost:9999",
        "http://localhost:1234",
        "http://[::1]:9999",
        "http://127.0.0.1",
        "http://127.0.0.2:9999",
        "https://127.0.0.1:9999",
        "http://127.0.0.1:9999/other",
        "http://127.0.0.1:99990".replace("99990", "9998"),
        "http://example.com",
        "http://127.0.0.1.example.com:9999",
    ],
)
def test_the_folders_token_is_for_the_service_that_holds_the_folder(running: dict[str, str], url: str) -> None:
    where = find(url, None, running)
    assert (where.token, where.own) == (None, False)
    assert OWN in where.note
    assert find(None, None, running | {"SUREFOOT_URL": url}).token is None


@pytest.mark.parametrize("url", [OWN, f"{OWN}/", "HTTP://127.0.0.1:9999"])
def test_it_may_be_named(running: dict[str, str], url: str) -> None:
    assert find(url, None, running).token == "secret"


def test_after_a_kill_whoever_has_the_port_now_gets_nothing(tmp_path: Path) -> None:
    """`up` was killed: its file still names the port, which another user's process may listen on by now."""
    env = write(tmp_path, DEFAULT_URL)
    where = find(None, None, env)
    assert (where.url, where.token) == (DEFAULT_URL, None)
    assert find(DEFAULT_URL, None, env).token is None
    with held(tmp_path):
        assert find(None, None, env).token == "secret"


def test_a_folder_that_is_shared_with_another_machine_names_its_loopback_not_ours(tmp_path: Path) -> None:
    with held(tmp_path):
        env = write(tmp_path, network="another machine")
        assert (find(None, None, env).token, find(OWN, None, env).token) == (None, None)
        env = write(tmp_path, "https://surefoot.example.com", network="another machine")
        assert find(None, None, env).token == "secret"


def test_looking_keeps_no_up_from_starting(tmp_path: Path) -> None:
    env = write(tmp_path)
    find(None, None, env)
    with held(tmp_path):
        pass


def test_a_token_is_not_sent_to_a_guess(tmp_path: Path) -> None:
    env = {"SUREFOOT_DATA": str(tmp_path)}
    for where in (find(None, "t", env), find(None, None, env | {"SUREFOOT_TOKEN": "t"})):
        assert (where.url, where.token) == (DEFAULT_URL, None)
        assert "not sent to a guess" in where.note
    assert find(DEFAULT_URL, "t", env).token == "t"
    assert find(DEFAULT_URL, None, env | {"SUREFOOT_TOKEN": "t"}).token == "t"


def test_the_environments_token_belongs_to_the_environments_url(tmp_path: Path) -> None:
    env = {"SUREFOOT_DATA": str(tmp_path), "SUREFOOT_URL": "https://mine.example", "SUREFOOT_TOKEN": "t"}
    assert find(None, None, env).token == "t"
    assert find("https://mine.example/", None, env).token == "t"
    other = find("https://other.example", None, env)
    assert (other.token, "SUREFOOT_TOKEN belongs to SUREFOOT_URL" in other.note) == (None, True)
    assert find("https://other.example", "u", env).token == "u"


@given(st.sampled_from(["", "http://"]), st.text("127.0:89/@#?\\[]lochst% \t\n", max_size=20))
def test_no_spelling_gets_the_token_but_the_services_own(
    tmp_path_factory: pytest.TempPathFactory, scheme: str, rest: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "spelled"
    folder.mkdir(exist_ok=True)
    env = write(folder)
    with held(folder):
        try:
            where = find(scheme + rest, None, env)
        except UserError:
            return
        assert (where.token == "secret") == (where.url.rstrip("/") in ("", OWN))


# ---- what is no address, and no token


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 3}', "null", '{"url": "x"}', "[" * 100_000])
def test_a_broken_file_is_no_crash(tmp_path: Path, text: str) -> None:
    with held(tmp_path):
        (tmp_path / "service.json").write_text(text)
        assert find(None, None, {"SUREFOOT_DATA": str(tmp_path)}).url == DEFAULT_URL


@pytest.mark.parametrize("name", ["service.json", "token", "lock"])
def test_nor_is_a_folder_in_its_place_or_what_is_no_text(tmp_path: Path, name: str) -> None:
    env = write(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert find(None, None, env).token is None
    (tmp_path / name).rmdir()
    (tmp_path / name).write_bytes(b"\xff\xfe")
    assert find(None, None, env).token is None


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8470",
        "ftp://x",
        "http://",
        "x",
        "http://[",
        "http://x:99999",
        "http://x:y",
        "http://x y",
        "http://x/?a",
        "http://x#a",
    ],
)
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(UserError, match="no address of a control plane"):
        find(url, None, {})


def test_a_password_in_a_url_is_refused_and_not_told() -> None:
    """httpx would send it in place of the token."""
    with pytest.raises(UserError, match="--token") as told:
        find("http://me:hunter2@127.0.0.1:8470", None, {})
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("token", ["a b", "a\nb", "ä", "\ud800", "a\0"])
def test_a_token_that_no_header_carries_is_told(token: str) -> None:
    with pytest.raises(UserError, match="the token has characters") as told:
        find(OWN, token, {})
    assert token not in str(told.value)


def test_the_token_is_not_in_the_repr() -> None:
    assert "secret" not in repr(find(OWN, "secret", {}))
