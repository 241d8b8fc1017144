"""From what a job's spec says of its data to what the train function is given: copied to this node, or where it lies."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import xxhash

from surefoot.data import Data, DataSource, DataUrl, is_local, size_words
from surefoot.errors import DataError, NodeError, SurefootError
from surefoot_actors.node_data.cache import CACHE_DIR, CACHE_SIZE, Copy, NodeCache
from surefoot_actors.node_data.copying import Copying, is_full, is_passing, patiently, told
from surefoot_actors.node_data.listing import Listing, digest_of, list_place, local_path
from surefoot_actors.process_log import say

__all__ = ["Copier", "Printed", "Teller", "in_place"]

# what must stay free beside what is copied
_SPARE_BYTES = 64 << 20


class Teller(Protocol):
    """Who is told of what takes its time. Every call may raise, to end that."""

    def waits(self, what: str) -> None:
        """It waits for this, as it does since it was told before; empty: no more."""

    def copying(self, name: str, listing: Listing) -> None:
        """It begins to copy."""

    def progress(self, name: str, num_bytes: int, of: int) -> None:
        """So much is copied. Called about twice a second."""

    def copied(self, name: str, copy: Copy, seconds: float) -> None:
        """It has copied."""

    def trouble(self, name: str, what: str) -> None:
        """The storage does not answer as it should; it is tried again."""


class Printed:
    """Tells a person at a terminal."""

    def __init__(self) -> None:
        self._waits = ""

    def waits(self, what: str) -> None:
        if what and what != self._waits:
            say(f"waiting for {what}")
        self._waits = what

    def copying(self, name: str, listing: Listing) -> None:
        say(f"copying data {name}: {size_words(listing.bytes)}, {len(listing.items)} files")

    def progress(self, name: str, num_bytes: int, of: int) -> None:
        pass

    def copied(self, name: str, copy: Copy, seconds: float) -> None:
        say(f"copied data {name} in {seconds:.1f} s, digest {copy.digest}")

    def trouble(self, name: str, what: str) -> None:
        say(f"data {name} cannot be read at present: {what}")


def in_place(source: DataSource) -> Path | DataUrl:
    """What is given of data that is read where it lies."""
    return Path(local_path(source.url)) if is_local(source.url) else DataUrl(source.url)


@dataclass(frozen=True, slots=True)
class Copier:
    """Has data copied to this node, once."""

    cache: NodeCache
    teller: Teller
    # names the attempt: what could change unseen is copied once for each
    run_id: str = ""

    def data(self, sources: Mapping[str, DataSource]) -> Data:
        """Return all of a job's data. Raises DataError, and NodeError for what another node may do better."""
        return Data({n: self.copy(n, s, s.digest).path if s.copies else in_place(s) for n, s in sources.items()})

    def copy(self, name: str, source: DataSource, agreed: str | None) -> Copy:
        """Return this node's copy. `agreed`: the digest that it is to have, if that is known: where the node has it, nobody asks the
        storage."""
        found = self.cache.having(agreed) if agreed else None
        if found is not None:
            return found
        with _telling(name, source.url, "listed"):
            listing = self._list(name, source.url)
        if listing is None or not listing.items:
            raise DataError(f"data {name}: there are {'too many' if listing is None else 'no'} files at {source.url}")
        key = self._key(source.url, listing)
        waited = f"another process of this node, which copies data {name}"
        try:
            with _telling(name, source.url, "copied to this node"):
                found = self.cache.have(
                    key,
                    lambda folder: self._made(name, source.url, listing, folder, key),
                    lambda: self.teller.waits(waited),
                )
        finally:
            self.teller.waits("")
        if source.digest and found.digest != source.digest:
            raise DataError(
                f"data {name}: what lies at {source.url} has the digest {found.digest}, and the job is given {source.digest}"
            )
        return found

    def _list(self, name: str, url: str) -> Listing | None:
        return patiently(self._sleep, lambda what: self.teller.trouble(name, what))(list_place, url)

    def _key(self, url: str, listing: Listing) -> str:
        """Where nothing tells that a file has changed, no other attempt's copy is taken."""
        alone = "" if listing.marked else self.run_id or secrets.token_hex(16)
        return xxhash.xxh3_128_hexdigest(
            f"{url.rstrip('/')}\0{listing.digest()}\0{alone}".encode(errors="surrogateescape")
        )

    def _sleep(self, seconds: float) -> None:
        self.teller.waits("the storage of its data, which does not answer as it should")
        time.sleep(seconds)

    def _made(self, name: str, url: str, listing: Listing, folder: Path, key: str) -> Copy:
        self.teller.waits("")
        self._check_room(name, listing, key)
        self.teller.copying(name, listing)
        began = time.monotonic()
        tell = self.teller
        copying = Copying(
            url,
            listing,
            folder,
            lambda num_bytes: tell.progress(name, num_bytes, listing.bytes),
            lambda what: tell.trouble(name, what),
        )
        files = copying.run()
        if self._list(name, url) != listing:
            raise DataError(f"data {name}: {url} changed while it was copied")
        copy = Copy(folder=folder, files=files, digest=digest_of(files), is_file=listing.is_file)
        self.teller.copied(name, copy, time.monotonic() - began)
        return copy

    def _check_room(self, name: str, listing: Listing, key: str) -> None:
        free = self.cache.make_room(listing.bytes + _SPARE_BYTES, key)
        if free < listing.bytes + _SPARE_BYTES:
            raise NodeError(
                f"data {name} has {size_words(listing.bytes)}, and {self.cache.root} has room for {size_words(free)}: give the node "
                f"a larger disk, by {CACHE_DIR}, or more of this one, by {CACHE_SIZE}, or read it in place (--data {name}:in-place=URL)"
            )


@contextmanager
def _telling(name: str, url: str, what: str) -> Iterator[None]:
    try:
        yield
    except SurefootError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"data {name}: there is nothing at {url}, as seen from this node") from error
    except Exception as error:  # the edge to the storage: each backend has errors of its own
        kind: Callable[[str], SurefootError] = NodeError if is_full(error) or is_passing(error) else DataError
        raise kind(f"data {name}: {url} could not be {what}: {told(error)}") from error
