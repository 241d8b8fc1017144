"""Finding the control plane and the token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surefoot._where import DEFAULT_URL, find
from surefoot.errors import UserError


def folder(tmp_path: Path, url: str = "http://127.0.0.1:9999") -> dict[str, str]:
    (tmp_path / "service.json").write_text(json.dumps({"url": url}))
    (tmp_path / "token").write_text("secret\n")
    return {"SUREFOOT_DATA": str(tmp_path)}


def test_nothing_known_is_the_default(tmp_path: Path) -> None:
    where = find(None, None, {"SUREFOOT_DATA": str(tmp_path)})
    assert (where.url, where.token) == (DEFAULT_URL, None)


def test_a_running_service_is_found_with_its_token(tmp_path: Path) -> None:
    where = find(None, None, folder(tmp_path))
    assert (where.url, where.token) == ("http://127.0.0.1:9999", "secret")


def test_arguments_go_over_the_environment_and_that_over_the_folder(tmp_path: Path) -> None:
    env = folder(tmp_path) | {"SUREFOOT_URL": "https://b/", "SUREFOOT_TOKEN": "t"}
    assert (find(None, None, env).url, find(None, None, env).token) == ("https://b", "t")
    assert (find("http://c/", "u", env).url, find("http://c", "u", env).token) == ("http://c", "u")


def test_the_folders_token_is_not_sent_to_strangers(tmp_path: Path) -> None:
    env = folder(tmp_path)
    assert find("http://example.com", None, env).token is None
    assert find("http://localhost:1234", None, env).token == "secret"
    assert find("http://10.0.0.9:8470", None, folder(tmp_path, "http://10.0.0.9:8470")).token == "secret"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 3}', "null"])
def test_a_broken_file_is_no_crash(tmp_path: Path, text: str) -> None:
    (tmp_path / "service.json").write_text(text)
    assert find(None, None, {"SUREFOOT_DATA": str(tmp_path)}).url == DEFAULT_URL


@pytest.mark.parametrize("url", ["localhost:8470", "ftp://x", "http://", "x"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(UserError, match="no address of a control plane"):
        find(url, None, {})


def test_the_token_is_not_in_the_repr() -> None:
    assert "secret" not in repr(find(None, "secret", {}))
