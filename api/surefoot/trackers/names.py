"""What a logged value is called in a tracker that does not allow its name. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256

__all__ = ["Names"]

_PLAIN = re.compile(r"[^\w\- ]")
_LONGEST = 200


class Names:
    """Names as they are where they are allowed; else a name that is, always the same, and another for another value."""

    def __init__(self, allowed: re.Pattern[str]) -> None:
        self._allowed = allowed
        self._changed: dict[str, str] = {}

    @property
    def changed(self) -> Mapping[str, str]:
        return self._changed

    def __call__(self, name: str) -> str:
        if self._allowed.fullmatch(name):
            return name
        if name not in self._changed:
            # the hash keeps two names apart of which the same is left
            text = _PLAIN.sub("_", name).strip("_ ")[:_LONGEST] or "value"
            self._changed[name] = f"{text}.{sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
        return self._changed[name]
