"""What the service refuses, and why. Nothing here knows of HTTP: `surefoot_service.rest.problems` says how each is answered.

DomainError
├── NotFoundError       there is no such job, attempt, package or module
├── ConflictError       what it is about does not allow it as it is now
├── InvalidError        a field of what was asked for cannot be accepted
├── TokenError          the token that was brought is missing, or another one's
├── ClaimCodeError      the claim code that was brought is another attempt's
├── OverError           an attempt is over: nothing that it says counts any more
├── UnreadableSecretError  no key that there is decrypts a secret
└── StorageError        the storage behind a URL does not give what is asked of it
"""

from __future__ import annotations

from surefoot.errors import SurefootError

__all__ = [
    "ClaimCodeError",
    "ConflictError",
    "DomainError",
    "InvalidError",
    "NotFoundError",
    "OverError",
    "StorageError",
    "TokenError",
    "UnreadableSecretError",
]


class DomainError(SurefootError):
    """What was asked for cannot be done; nothing was changed by it. The message is for whoever asked."""


class NotFoundError(DomainError):
    """There is no such thing."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"there is no {what} {name!r}")


class ConflictError(DomainError):
    """What it is about does not allow it as it is now."""


class InvalidError(DomainError):
    """One field of what was asked for cannot be accepted: "body.trainers", "query.module"."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TokenError(DomainError):
    """The token that was brought is missing, or another one's."""


class ClaimCodeError(DomainError):
    """The claim code that was brought is another attempt's."""

    def __init__(self) -> None:
        super().__init__("this is not the attempt's claim code")


class OverError(DomainError):
    """An attempt is over: nothing that it says counts any more."""


class UnreadableSecretError(DomainError):
    """A stored secret cannot be decrypted: its key is none of those that there are."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the secret {name} cannot be decrypted with the keys that there are: bring back the key that it was stored with "
            "(secrets.key of the data folder, or SUREFOOT_SECRETS_KEY), or give it another value by `surefoot secret rotate`"
        )


class StorageError(DomainError):
    """The storage behind a URL does not answer, or does not give what is asked of it."""
