"""The service's secrets: the user's token, kept as a hash, and the key that claim codes are derived with."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from surefoot_service.durable import sync_folder

__all__ = ["Keys", "KnownTokens", "digest", "new_token", "open_keys", "private_file", "same"]


def new_token() -> str:
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is kept of a random secret: sha256, hex. Of a random secret that is enough; it is no password."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Keys:
    """What the service holds."""

    token_hash: str
    key: bytes

    def claim_code(self, attempt: str) -> str:
        """The attempt's single-use code. Derived, so that a submission can be repeated after a restart without storing it."""
        return hmac.new(self.key, f"claim:{attempt}".encode(), hashlib.sha256).hexdigest()

    def is_user(self, token: str) -> bool:
        return same(digest(token), self.token_hash)


def open_keys(data: Path) -> Keys:
    """Read the keys in the data folder, making those that are missing: `token` (for the user), its hash, and `key`."""
    hash_file, key_file = data / "token.sha256", data / "key"
    if not hash_file.exists():
        sync_folder(data.parent)
        token = new_token()
        private_file(data / "token", token + "\n")
        private_file(hash_file, digest(token) + "\n")
    if not key_file.exists():
        private_file(key_file, secrets.token_hex(32) + "\n")
    return Keys(token_hash=hash_file.read_text().strip(), key=bytes.fromhex(key_file.read_text().strip()))


def private_file(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


# tokens of attempts that are remembered as seen
_KNOWN = 10_000


# lookups of unknown tokens at a time: they are strangers', and the database's threads are everybody's
_LOOKUPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTokens:
    """Hashes of attempts' tokens that were right when they were looked up: they need not be looked up before every body.

    It only decides whether a body is worth reading. Whether the attempt may still speak is decided where its words are stored.
    """

    hashes: OrderedDict[str, str] = field(default_factory=OrderedDict)
    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_LOOKUPS))

    def knows(self, attempt: str, token_hash: str) -> bool:
        return same(self.hashes.get(attempt, ""), token_hash)

    def add(self, attempt: str, token_hash: str) -> None:
        self.hashes[attempt] = token_hash
        self.hashes.move_to_end(attempt)
        if len(self.hashes) > _KNOWN:
            self.hashes.popitem(last=False)
