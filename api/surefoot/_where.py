"""Where the control plane is and what it lets in: from arguments, the environment, or the data folder of a running `surefoot up`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from surefoot.errors import UserError

__all__ = ["DEFAULT_URL", "Where", "data_folder", "find"]

DEFAULT_URL = "http://127.0.0.1:8470"


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A control plane's address. The token stays out of the repr, which ends up in logs."""

    # without a trailing slash
    url: str
    token: str | None = field(repr=False)


def data_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that `surefoot up` keeps everything under: SUREFOOT_DATA, or ~/.surefoot."""
    return Path(env.get("SUREFOOT_DATA") or "~/.surefoot").expanduser()


def find(url: str | None, token: str | None, env: Mapping[str, str] = os.environ) -> Where:
    """Return where to go: the arguments first, then the environment, then what a running `surefoot up` has written.

    The token in the data folder is sent only to the service that the data folder names, or to a loopback address.
    Raises UserError for a URL that is none.
    """
    data = data_folder(env)
    local = _written_url(data) or DEFAULT_URL
    chosen = (url or env.get("SUREFOOT_URL") or local).rstrip("/")
    parts = urlsplit(chosen)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{chosen!r} is no address of a control plane: it looks like {DEFAULT_URL}")
    token = token or env.get("SUREFOOT_TOKEN")
    if token is None and (chosen == local.rstrip("/") or parts.hostname in ("127.0.0.1", "localhost", "::1")):
        token = _read(data / "token")
    return Where(url=chosen, token=token)


def _written_url(data: Path) -> str | None:
    text = _read(data / "service.json")
    try:
        url = json.loads(text)["url"] if text else None
    except (ValueError, KeyError, TypeError):
        return None  # half-written, or another version's: the default is as good a guess
    return url if isinstance(url, str) else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
