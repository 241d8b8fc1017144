"""Takes secrets out of text before it leaves a process: what was printed, tracebacks, events. Pure.

A value is found as it is, line by line where it has several, wrapped over lines, and as programs write such values down: in JSON, in
`repr`, in a URL, in hex, and in base64 at any offset (as in an HTTP header "Basic user:secret"). What is computed from a secret in other
ways, reversed say, is not found: masking is against accidents, not against code that wants to tell.
"""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:  # the standard library alone: it runs in logs/collector.py, too
    from pydantic import JsonValue

__all__ = ["MASK", "MaskedStream", "Masking"]

MASK = "***"
# What is shorter is found in ordinary words. No secret is (see `surefoot.secrets`), but a line of one may be.
_SHORTEST = 6
# Where a text may be wrapped.
_BREAKS = re.compile(r"[\r\n]+[ \t]*")

Span = tuple[int, int]


class Masking:
    """Knows some secrets, and takes them out of text."""

    __slots__ = ("_needles",)

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {_joined(form) for secret in secrets for form in _forms(secret)}
        self._needles = tuple(sorted((n for n in found if len(n) >= _SHORTEST), key=len, reverse=True))

    def __repr__(self) -> str:
        return "Masking()"

    def __bool__(self) -> bool:
        return bool(self._needles)

    def text(self, text: str) -> str:
        """The text with each secret in it replaced by `***`."""
        if not self._needles:
            return text
        joined = _joined(text)
        spans = self.spans(joined)
        return _replaced(text, _in_text(text, spans)) if spans else text

    def json(self, value: JsonValue) -> JsonValue:
        """The same for all texts of a JSON value, its keys included."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(key): self.json(each) for key, each in value.items()}
            case list() | tuple():
                return [self.json(each) for each in value]
        return value

    def spans(self, joined: str) -> list[Span]:
        """Where secrets are in a text without line breaks: disjoint, in order."""
        return _merged(span for needle in self._needles for span in _occurrences(joined, needle))

    def unfinished(self, joined: str) -> int:
        """Where the longest end of the text begins that a secret may go on from; its length: nowhere."""
        first = len(joined)
        for needle in self._needles:
            at = joined.find(needle[0], max(0, len(joined) - len(needle) + 1))
            while 0 <= at < first:
                if needle.startswith(joined[at:]):
                    first = at
                    break
                at = joined.find(needle[0], at + 1)
        return first


class MaskedStream:
    """Masks a text that comes in pieces, however it is cut: what may be the beginning of a secret waits for what follows it."""

    def __init__(self, masking: Masking) -> None:
        self._masking, self._held = masking, ""

    def feed(self, text: str) -> str:
        """Take the next piece; return what can be told by now."""
        if not self._masking:
            return text
        whole = self._held + text
        joined = _joined(whole)
        cut = self._masking.unfinished(joined)
        for start, end in reversed(self._masking.spans(joined)):
            if start < cut < end:
                cut = start
        at = _in_text(whole, [(cut, cut + 1)])[0][0] if cut < len(joined) else len(whole)
        self._held = whole[at:]
        return self._masking.text(whole[:at])

    def flush(self) -> str:
        """Return what waited: nothing follows, or not soon."""
        rest, self._held = self._held, ""
        return self._masking.text(rest)


def _joined(text: str) -> str:
    return _BREAKS.sub("", text) if "\n" in text or "\r" in text else text


def _forms(secret: str) -> Iterator[str]:
    """Yield the ways in which a secret is written down."""
    yield secret
    yield from secret.splitlines()
    for text in (json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)):
        yield text[1:-1]
    yield from (quote(secret), quote(secret, safe=""), quote_plus(secret))
    raw = secret.encode("utf-8", "surrogatepass")
    yield from (raw.hex(), raw.hex().upper())
    yield from _in_base64(raw)


def _in_base64(raw: bytes) -> Iterator[str]:
    """Yield what the base64 of anything that has these bytes in it has in it, for each of the three ways in which they may fall."""
    for offset in range(3):
        coded = base64.b64encode(bytes(offset) + raw)
        # characters that depend on what is around it are left away
        begin, end = -(-offset * 4 // 3), (offset + len(raw)) * 8 // 6
        text = coded[begin:end].decode()
        yield from (text, text.replace("+", "-").replace("/", "_"))


def _occurrences(text: str, needle: str) -> Iterator[Span]:
    at = text.find(needle)
    while at >= 0:
        yield at, at + len(needle)
        at = text.find(needle, at + 1)


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _in_text(text: str, spans: list[Span]) -> list[Span]:
    """Spans of the joined text as spans of the text itself."""
    breaks = [match.span() for match in _BREAKS.finditer(text)]
    removed = list(accumulate((end - start for start, end in breaks), initial=0))
    # where in the joined text each break was
    places = [start - gone for (start, _), gone in zip(breaks, removed, strict=False)]
    return [(_origin(start, places, removed), _origin(end - 1, places, removed) + 1) for start, end in spans]


def _origin(at: int, places: list[int], removed: list[int]) -> int:
    return at + removed[bisect_right(places, at)]


def _replaced(text: str, spans: list[Span]) -> str:
    pieces, told = [], 0
    for start, end in spans:
        pieces += [text[told:start], MASK]
        told = end
    return "".join([*pieces, text[told:]])
