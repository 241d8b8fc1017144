"""URLs of a job are shown to whoever may see jobs: none has a password, a token or a signature in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from surefoot.secret_rules import STORED
from surefoot.spec import JobSpec
from surefoot.stored_spec import read_spec

SECRET = "hunter2hunter2"
SPEC = {"entrypoint": "train:train", "package": "0" * 64, "batch_size": 8}

_CHAINS = st.sampled_from(
    ["", "simplecache::", "filecache::", "zip://a/*.csv::", "tar://x::blockcache::", "file:///tmp/c::"]
)
_SCHEMES = st.sampled_from(["s3", "gs", "abfs", "ftp", "sftp", "http", "https", "smb", "S3", "webdav+https"])
_HOSTS = st.sampled_from(["bucket", "data.example.com", "data.example.com:8443", "10.0.0.1:9000", "[::1]:9000"])
_USERS = st.sampled_from([f"u:{SECRET}@", f"AKIA7:{SECRET}/x+y@", f":{SECRET}@", f"u:{SECRET}@x@"])
_PARAMS = st.sampled_from(
    [
        "sig",
        "Signature",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "X-Amz-Credential",
        "X-Goog-Signature",
        "token",
        "access_token",
        "accessToken",
        "api_key",
        "apikey",
        "password",
        "client_secret",
        "AWSAccessKeyId",
        "%73ig",
        "sas",
        "auth",
        "jwt",
    ]
)
_BEFORE = st.sampled_from(["?", "?sv=2022&se=2026&", "?a=1;", "#", "?x#"])


def _places(url: str) -> dict[str, dict[str, Any]]:
    return {
        "data": {"data": {"x": url}},
        "data that is copied": {"data": {"x": {"url": url, "copy": True}}},
        "checkpoints": {"checkpoint": {"url": url}},
        "restore": {"restore": url},
    }


def _refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        JobSpec.model_validate(SPEC | fields)
    told = [error["msg"] for error in raised.value.errors()]
    assert any("out of the URL" in text for text in told), told
    assert SECRET not in " ".join(told)
    _masked_where_it_was_stored(fields)


def _masked_where_it_was_stored(fields: dict[str, Any]) -> None:
    """By a version that took it: all of the job is shown but for the secret, and it is refused as such again."""
    read = read_spec(json.dumps(SPEC | fields))
    shown = read.spec.model_dump_json()
    assert SECRET not in shown + read.unreadable
    assert "***" in shown
    assert "out of the URL" in read.unreadable
    assert "pip" in fields or "as a secret" in read.unreadable
    again = read_spec(shown)
    assert (again.spec, again.unreadable) == (read.spec, read.unreadable)


@settings(deadline=None, max_examples=80)
@given(_CHAINS, _SCHEMES, _USERS, _HOSTS)
def test_a_password_is_refused_in_any_link_of_a_chain(chain: str, scheme: str, user: str, host: str) -> None:
    for fields in _places(f"{chain}{scheme}://{user}{host}/x").values():
        _refused(fields)


@settings(deadline=None, max_examples=80)
@given(_CHAINS, _SCHEMES, _HOSTS, _BEFORE, _PARAMS, st.sampled_from(["", "&x=1", "::a"]))
def test_a_signature_is_refused(chain: str, scheme: str, host: str, before: str, name: str, after: str) -> None:
    for fields in _places(f"{chain}{scheme}://{host}/x.csv{before}{name}={SECRET}{after}").values():
        _refused(fields)


@pytest.mark.parametrize(
    "requirement",
    [
        f"git+https://{SECRET}@github.com/a/b",
        f"x @ https://u:{SECRET}@host/x.whl",
        f"--extra-index-url https://u:{SECRET}@host/simple",
        f"x @ https://host/x.whl?token={SECRET}",
    ],
)
def test_nor_has_a_requirement_one(requirement: str) -> None:
    _refused({"pip": [requirement]})


@pytest.mark.parametrize(
    "url",
    [
        "/data/x?token=1",
        "s3://bucket/a:b@c",
        "s3://bucket/x@v1/y",
        "abfs://container@account.dfs.core.windows.net/x",
        "hdfs://user@host:8020/x",
        "http://host:8020/a@b",
        "http://host/a?version=3&page=2",
        "https://host/x?tokenizer=bert",
        "github://org:repo@main/data",
        "hf://datasets/a/b@main/x",
        "zip://*.csv::s3://bucket/x.zip",
        "s3://bucket/shard-??.tar",
        "https://[::1]:9000/x",
        "s3://bucket/x?sig=",
        "simplecache::https://host/x",
        "s3://bucket/design=a&sig",
        "gs://b/x?generation=12",
    ],
)
def test_any_other_url_is_taken(url: str) -> None:
    for fields in _places(url).values():
        spec = JobSpec.model_validate(SPEC | fields)
        assert JobSpec.model_validate(SPEC | fields, context=STORED) == spec


@pytest.mark.parametrize(
    "requirement", ["git+ssh://git@github.com/a/b", "x @ https://host/x.whl#sha256=0a", "torch==2.13.0"]
)
def test_and_any_other_requirement(requirement: str) -> None:
    JobSpec.model_validate(SPEC | {"pip": [requirement]})
