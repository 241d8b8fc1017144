"""What Ray says when it could not set a node up for a trainer: whose fault that is, in few words. Pure, it reads text alone."""

from __future__ import annotations

import re

__all__ = ["node_of", "refused_requirements", "why_not_set_up"]

_PIP_SAYS = re.compile(r"^\s*(ERROR: .+|error: .+)$", re.MULTILINE)
# What pip came upon on its way that has nothing to do with what it was asked for: the same requirements may go well elsewhere, or later.
_NOT_THE_REQUIREMENTS = re.compile(
    r"Retrying \(Retry\(|No space left|Disk quota|Errno (28|122|12|5)\b|timed out|Temporary failure in name resolution|"
    r"Network is unreachable|Connection (refused|reset|aborted|broken)|ConnectionError|HTTP error 5\d\d|Permission denied|MemoryError|"
    r"Cannot allocate memory|Killed|returned non-zero exit status -\d",
    re.IGNORECASE,
)
_NODE = re.compile(r"\[Node ([0-9a-fA-F.:]+)\]")
_LONGEST = 600


def refused_requirements(text: str) -> str:
    """Return pip's own last two lines if it is the requirements that cannot be installed; empty: something else failed."""
    said = list(dict.fromkeys(line.strip() for line in _PIP_SAYS.findall(text)))
    if "pip" not in text or not said or _NOT_THE_REQUIREMENTS.search(text):
        return ""
    return "\n".join(said[-2:])


def why_not_set_up(text: str) -> str:
    """Return what is worth telling of a node that could not be set up: its last line, and what pip says."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    said = [line.strip() for line in _PIP_SAYS.findall(text)][-2:]
    found = _NOT_THE_REQUIREMENTS.search(text)
    trouble = next((line for line in reversed(lines) if found and found.group(0) in line), "")
    told = list(dict.fromkeys([line for line in (trouble, *(said or lines[-1:])) if line]))
    return "; ".join(told)[:_LONGEST]


def node_of(text: str) -> str:
    """Return the address of the node of which Ray speaks; empty: it names none."""
    found = _NODE.search(text)
    return found.group(1) if found else ""
