"""Secrets are taken out of text, however they are written down, and however the text is cut into pieces."""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from surefoot_actors.masking import MASK, MaskedStream, Masking

SECRET = "secret123/+é"
KEY = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA\nx9Jk2lmN0pQrStUv\n-----END KEY-----"

WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": lambda s: f"key={s}!",
    "in JSON": lambda s: json.dumps({"key": s}),
    "in repr": lambda s: repr({"key": s}),
    "in a URL": lambda s: f"https://x?key={quote(s, safe='')}&y=1",
    "in hex": lambda s: s.encode().hex(),
    "wrapped": lambda s: "key: " + "\n    ".join(textwrap.wrap(s, 5)),
    "in base64": lambda s: base64.b64encode(s.encode()).decode(),
    "after a user's name": lambda s: "Basic " + base64.b64encode(f"u:{s}".encode()).decode(),
    "in the middle": lambda s: base64.urlsafe_b64encode(f"{{'k': '{s}', 'n': 1}}".encode()).decode(),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_a_secret_is_found_however_it_is_written(way: str) -> None:
    text = WRITTEN[way](SECRET)
    masked = Masking([SECRET]).text(text)
    assert MASK in masked
    assert SECRET not in masked
    assert "secret" not in masked
    # what is left of base64 tells no whole byte of it
    left = masked.replace(MASK, "").removeprefix("Basic ").strip("=")
    assert base64.urlsafe_b64encode(b"secret").decode()[:6] not in left


def test_each_line_of_a_secret_is_one() -> None:
    masking = Masking([KEY])
    assert masking.text(f"{KEY}\nx") == f"{MASK}\nx"
    assert masking.text("a x9Jk2lmN0pQrStUv b") == f"a {MASK} b"
    assert masking.text(json.dumps(KEY)) == f'"{MASK}"'


def test_what_is_around_it_stays() -> None:
    masking = Masking(["abcdef", "defghi"])
    assert masking.text("x abcdefghi y\n z") == f"x {MASK} y\n z"
    assert masking.text("abc\n\ndef\nabcde") == f"{MASK}\nabcde"
    assert Masking([]).text("abcdef") == "abcdef"
    assert masking.json({"abcdef": ["defghi", 1, None, {"x": "é"}]}) == {MASK: [MASK, 1, None, {"x": "é"}]}


def test_it_shows_nothing_of_what_it_knows() -> None:
    assert SECRET not in repr(Masking([SECRET]))


pieces = st.lists(
    st.sampled_from(["abcdef", "abc", "abab", "ababab", "def", "a", "b", "\n", "\r\n  ", " ", "x"]), max_size=12
)


@given(pieces, st.lists(st.integers(0, 60), max_size=8))
@example(["abcdef"], [1, 2, 3])
@example(["abab", "x"], [2])
def test_pieces_of_a_text_are_masked_as_the_whole(parts: list[str], cuts: list[int]) -> None:
    """No secret is told, and nothing else is lost or changed, wherever the text is cut."""
    text, masking = "".join(parts), Masking(["abcdef", "ababab"])
    stream, told, last = MaskedStream(masking), [], 0
    for cut in sorted(min(c, len(text)) for c in cuts):
        told.append(stream.feed(text[last:cut]))
        last = cut
    told += [stream.feed(text[last:]), stream.flush()]
    assert "".join(told) == masking.text(text)


def test_a_stream_holds_back_no_more_than_it_must() -> None:
    stream = MaskedStream(Masking(["abcdef"]))
    assert [stream.feed("xyz\n"), stream.feed("1 abc"), stream.feed("x"), stream.feed("abcdef\n")] == [
        "xyz\n",
        "1 ",
        "abcx",
        f"{MASK}\n",
    ]
    assert stream.flush() == ""
