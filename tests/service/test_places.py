"""URLs read strictly: what is below a place, and every trick to get out of it."""

from __future__ import annotations

import posixpath

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot_service.checkpoints.places import PROTOCOLS, RefusedUrlError, belongs, read_place, refusal

NAME = st.text("abcXYZ019._- ", min_size=1, max_size=8).filter(lambda n: n not in (".", ".."))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("/data/runs/j", "/data/runs/j"),
        ("/data/runs/j/step-5/model", "/data/runs/j"),
        ("file:///data/runs/j/m", "/data/runs/j/"),
        ("/data//runs/j/m", "file:///data/runs/j"),
        ("s3://bucket/runs/j/m", "s3://bucket/runs/j"),
        ("s3a://bucket/runs/j/m", "s3://bucket/runs/j"),
        ("gs://b/j", "gcs://b"),
        ("abfs://c@account.dfs.core.windows.net/j/m", "abfs://c@account.dfs.core.windows.net/j"),
    ],
)
def test_what_lies_below_belongs(url: str, place: str) -> None:
    assert belongs(url, place)
    assert refusal(url, PROTOCOLS) == ""


# Each is a way out of /data/runs/j, or of s3://bucket/runs/j, that somebody has tried somewhere.
TRICKS = [
    "/data/runs/j2/m",
    "/data/runs",
    "/data/runs/j/../k/m",
    "/data/runs/j/./m",
    "/data/runs/j/..",
    "/data/runs/j/%2e%2e/k",
    "/data/runs/j/%2E%2E%2Fk",
    "/data/runs/j/%252e%252e/k",
    "/data/runs/j\\..\\..\\k",
    "/data/runs/j/m\0.safetensors",
    "/data/runs/j/m\n",
    "/data/runs/j/\u202em",
    "/data/runs/j/\ud800",
    "data/runs/j/m",
    "~/data/runs/j",
    "",
    "file:/data/runs/j/m",
    "file://data/runs/j/m",
    "file://localhost/data/runs/j/m",
    "FILE:///data/runs/j/m",
    "File:///data/runs/j/m",
    "local:///data/runs/j/m",
    " /data/runs/j/m",
    "http://127.0.0.1:8470/v1/jobs",
    "https://169.254.169.254/latest/meta-data",
    "ftp://host/data/runs/j",
    "sftp://host/data/runs/j/m",
    "ssh://host/data/runs/j/m",
    "data:text/plain,x",
    "data://x",
    "reference:///data/runs/j/refs.json",
    "reference://::file:///data/runs/j/refs.json",
    "simplecache::file:///data/runs/j/m",
    "blockcache::s3://bucket/runs/j/m",
    "zip://key::file:///data/runs/j/a.zip",
    "zip:///data/runs/j/a.zip",
    "tar://x::/data/runs/j/a.tar",
    "dir::/data/runs/j",
    "/data/runs/j::/etc/passwd",
    "jar:file:/data/runs/j!/x",
    "github://a:b@c/x",
    "git://x",
    "memory://runs/j/m",
    "jupyter://x",
    "C:\\data\\runs\\j",
    "s3://bucket/runs/j2",
    "s3://bucket/runs/j/../k",
    "s3://bucket/runs//j/m",
    "s3://bucket2/runs/j/m",
    "s3://key:secret@bucket/runs/j/m",
    "s3://bucket/runs/j/m?versionId=1",
    "s3://bucket/runs/j/m#x",
    "s3://bucket/runs/j/*",
    "S3://bucket/runs/j/m",
    "s3:bucket/runs/j/m",
    "s3:///runs/j/m",
    "gs://bucket/runs/j/m",
    "/" + "x/" * 20_000,
]


@pytest.mark.parametrize("place", ["/data/runs/j", "s3://bucket/runs/j"])
@pytest.mark.parametrize("url", TRICKS)
def test_no_trick_belongs(url: str, place: str) -> None:
    assert not belongs(url, place)


@pytest.mark.parametrize(
    "url", [t for t in TRICKS if "://" not in t.removeprefix("s3://") or t.partition(":")[0] not in PROTOCOLS]
)
def test_a_refusal_says_why_in_plain_characters(url: str) -> None:
    why = refusal(url, PROTOCOLS)
    assert why.isprintable()
    if not url.startswith(("/data/runs/j2", "s3://bucket")) and url != "/data/runs":
        assert why
        assert len(why) < 500


def test_a_password_is_not_told() -> None:
    assert "hunter2" not in refusal("s3://me:hunter2@bucket/x", PROTOCOLS)


@given(st.lists(NAME, min_size=1, max_size=4), st.lists(NAME, max_size=4), st.sampled_from(["", "file://"]))
def test_folders_below_belong_however_they_are_written(base: list[str], below: list[str], scheme: str) -> None:
    place = "/" + "/".join(base)
    assert belongs(scheme + "/".join([place, *below]), place)
    assert belongs(place, place)


@settings(deadline=None)
@given(
    st.text(st.sampled_from("/.~%25eEfFcC\\:sS3a-z\0\n \u202e@?#*"), max_size=30), st.sampled_from(["/d/j", "s3://d/j"])
)
def test_whatever_belongs_is_opened_below_the_place_by_everybody(tail: str, place: str) -> None:
    """As fsspec takes the URL apart, and as the system normalizes the path."""
    url = f"{place}{tail}"
    if not belongs(url, place):
        return
    system, path = _take_apart(url)
    assert system == _take_apart(place)[0]
    normal = posixpath.normpath(path)
    root = posixpath.normpath(_take_apart(place)[1])
    assert normal == root or normal.startswith(f"{root}/")


def _take_apart(url: str) -> tuple[str, str]:
    (chain,) = fsspec.core._un_chain(url, {})
    path, protocol, _ = chain
    kind = fsspec.get_filesystem_class(protocol)
    return protocol, str(kind._strip_protocol(path))


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        place = read_place(text)
    except RefusedUrlError as error:
        place, text = None, str(error)
    if place is None:
        assert text.isprintable()
    else:
        assert all(part not in ("", ".", "..") and "/" not in part for part in place.parts)
