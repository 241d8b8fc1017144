"""How the values of secrets are stored: encrypted and authenticated (Fernet: AES-128-CBC and HMAC-SHA256), each bound to its name.

The keys are a setting, a mounted file, or the file `secrets.key` in the data folder, which is made here. The first key encrypts, all of
them decrypt, so that a new one can be put before an old one, and the old one taken away once everything is encrypted anew.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from surefoot.errors import UserError
from surefoot_service.errors import UnreadableSecretError
from surefoot_service.keys import private_file
from surefoot_service.settings import Settings

__all__ = ["KeyRing", "open_key_ring"]

_FILE = "secrets.key"


class KeyRing:
    """The keys, newest first. `own`: the file that is the service's to write; None: they are given to it."""

    def __init__(self, keys: list[str], own: Path | None = None) -> None:
        self._own = own
        # held while something is encrypted and stored: what is on its way with an old key is not seen by a rotation
        self.steady = asyncio.Lock()
        self._take(keys)

    def __repr__(self) -> str:
        return "KeyRing()"

    def _take(self, keys: list[str]) -> None:
        self._keys, self._fernet = keys, MultiFernet([Fernet(key) for key in keys])

    def encrypt(self, name: str, value: str) -> str:
        """Return what may be stored of a secret."""
        return self._fernet.encrypt(json.dumps([name, value]).encode()).decode()

    def decrypt(self, name: str, sealed: str) -> str:
        """Undo it. Raises UnreadableSecretError where no key fits, or where it is stored under another name than it was encrypted for."""
        try:
            found, value = json.loads(self._fernet.decrypt(sealed.encode()))
        except InvalidToken:
            raise UnreadableSecretError(name) from None
        if found != name:
            raise UnreadableSecretError(name)
        return str(value)

    def begin_rotation(self) -> bool:
        """Put a new key first, durably, if the keys are this service's own; return whether they are."""
        if self._own is not None:
            self._write(self._own, [Fernet.generate_key().decode(), *self._keys])
        return self._own is not None

    def end_rotation(self) -> None:
        """Forget all keys but the first: nothing is encrypted with the others any more."""
        if self._own is not None:
            self._write(self._own, self._keys[:1])

    def _write(self, file: Path, keys: list[str]) -> None:
        private_file(file, "\n".join(keys) + "\n")
        self._take(keys)


def open_key_ring(settings: Settings) -> KeyRing:
    """Take the keys from where the settings say. Raises UserError for what is no key, or a file that cannot be read."""
    if settings.secrets_key is not None:
        return _ring(settings.secrets_key.get_secret_value().split(","), "SUREFOOT_SECRETS_KEY")
    own = settings.data / _FILE
    if settings.secrets_key_file is None and not own.exists():
        private_file(own, Fernet.generate_key().decode() + "\n")
    file = settings.secrets_key_file or own
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"the keys that secrets are encrypted with cannot be read: {error}") from None
    return _ring(lines, str(file), own if file is own else None)


def _ring(lines: list[str], where: str, own: Path | None = None) -> KeyRing:
    # with or without the padding of base64
    keys = [line.strip().rstrip("=") + "=" for line in lines if line.strip()]
    if not keys:
        raise UserError(f"{where} has no key to encrypt secrets with")
    try:
        return KeyRing(keys, own)
    except ValueError:
        message = f"{where} has a line that is no key: each is 32 bytes in URL-safe base64, as `openssl rand -base64 32 | tr +/ -_` makes"
        raise UserError(message) from None
