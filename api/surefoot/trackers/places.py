"""How places are told: without what opens them. Pure."""

from __future__ import annotations

import re

__all__ = ["without_password"]

_USER = re.compile(r"(?<=://)[^/@]*@")


def without_password(url: str) -> str:
    """Return a URL without the user and password in it."""
    return _USER.sub("", url)
