"""Text of others made fit for a terminal: what it shows is what is there. Pure.

A terminal obeys what is printed: sequences that begin with ESC, or with a C1 character, set the clipboard, the title, or what earlier
lines show; bidirectional overrides and invisible characters make one text look like another. None of it is kept.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["printable", "printable_line"]

# A whole sequence, so that no half of it is left to read: CSI; then OSC, DCS, SOS, PM and APC up to their end, or the line's; then
# two characters. Each also by its C1 character.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# what nearly all text is
_PLAIN = re.compile(r"[\n\t -~]*")
_ODD = re.compile(r"[^\n\t -~]+")
# Shown as nothing, though they are no format characters by category.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(c) for c in range(0x180B, 0x1810)}
_LINE_ENDS = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def printable(text: str) -> str:
    """Return the text without what a terminal would obey or hide; lines and tabs stay."""
    if _PLAIN.fullmatch(text):
        return text
    whole = _SEQUENCE.sub("", text.replace("\r\n", "\n"))
    return _ODD.sub(lambda odd: "".join(filter(_is_shown, odd[0])), whole).translate(_HALVES)


def printable_line(text: str) -> str:
    """The same in one line: what would end it is a blank."""
    return printable(_LINE_ENDS.sub(" ", text)).replace("\t", " ").replace("\n", " ")


def _is_shown(char: str) -> bool:
    return char not in _INVISIBLE and unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp")


# Half a surrogate pair is no text: writing it would fail.
_HALVES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
