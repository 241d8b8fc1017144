"""Copies what lies at a URL into a folder, several files at a time, and digests what it writes."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import fsspec
import xxhash
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from surefoot.data import is_local
from surefoot.errors import DataError, NodeError, SurefootError
from surefoot_actors.node_data.listing import Item, Listing, local_path

__all__ = ["Copying", "is_full", "is_passing", "patiently", "told"]

NUM_FILES = 8
_LIBC = ctypes.CDLL(None, use_errno=True)
_CHUNK_BYTES = 8 << 20
# Storage that is away is tried again for so long before that is this node's loss.
PATIENCE_S = 300.0
_LOOK_EVERY_S = 0.5

# what trying again does not mend: it is not there, it is forbidden, or it is no URL
_FOR_GOOD = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ImportError, ValueError)
# errors of clouds' libraries, which are not installed everywhere
_FOR_GOOD_NAMES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}
)


def is_passing(error: BaseException) -> bool:
    """Whether trying again may help."""
    known = isinstance(error, (SurefootError, *_FOR_GOOD)) or type(error).__name__ in _FOR_GOOD_NAMES
    return isinstance(error, Exception) and not known and not is_full(error)


def is_full(error: BaseException) -> bool:
    """Whether the disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def told(error: BaseException) -> str:
    """What an error says, in a line."""
    if isinstance(error, ImportError):
        return f"{error}; what this kind of URL needs is not installed (S3: pip install 'surefoot[s3]')"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split())[:500]


def patiently(sleep: Callable[[float], Any], on_trouble: Callable[[str], None]) -> Retrying:
    """Try again what may pass. `sleep` may raise, to end that; `on_trouble` is told of what it was."""

    def tell(state: RetryCallState) -> None:
        if state.outcome is not None and (error := state.outcome.exception()) is not None:
            on_trouble(told(error))

    return Retrying(
        retry=retry_if_exception(is_passing),
        wait=wait_random_exponential(multiplier=0.5, max=15.0),
        stop=stop_after_delay(PATIENCE_S),
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )


class _Cancelled(Exception):
    """Whoever wants the copy has stopped."""


class Copying:
    """One copy. Used on one thread; `progress` is called there twice a second, and may raise to end it."""

    def __init__(
        self, url: str, listing: Listing, into: Path, progress: Callable[[int], None], trouble: Callable[[str], None]
    ) -> None:
        self._url, self._listing, self._into, self._progress, self._trouble = url, listing, into, progress, trouble
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._num_bytes = 0
        # what was wrong with the storage, where it is tried again
        self._wrong = ""

    def run(self) -> dict[str, tuple[int, str]]:
        """Copy all; return each file's size and digest. Raises DataError, NodeError where the disk is full, or what `progress` raises."""
        read = _reader(self._url)
        with ThreadPoolExecutor(NUM_FILES, "copy-data") as pool:
            futures = {pool.submit(self._copy, item, read): item for item in self._listing.items}
            try:
                self._wait(set(futures))
            except BaseException:
                self._cancelled.set()
                pool.shutdown(cancel_futures=True)
                raise
        self._progress(self._num_bytes)
        _protect(self._into)
        _make_durable(self._into)
        return {item.path: (item.bytes, future.result()) for future, item in futures.items()}

    def _wait(self, waiting: set[Future[str]]) -> None:
        while waiting:
            done, waiting = wait(waiting, _LOOK_EVERY_S, FIRST_EXCEPTION)
            for future in done:
                future.result()
            self._progress(self._num_bytes)
            if self._wrong:
                self._trouble(self._wrong)
                self._wrong = ""

    def _copy(self, item: Item, read: Callable[[str, int], Iterator[Any]]) -> str:
        try:
            return patiently(self._sleep, self._note)(self._once, item, read)
        except (SurefootError, _Cancelled):
            raise
        except Exception as error:  # the edge to the storage: each backend has errors of its own
            kind = NodeError if is_full(error) or is_passing(error) else DataError
            raise kind(f"{self._url}: {item.path} could not be copied to {self._into.parent}: {told(error)}") from error

    def _once(self, item: Item, read: Callable[[str, int], Iterator[Any]]) -> str:
        target, found, count = self._into / item.path, xxhash.xxh3_128(), 0
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with open(target, "wb", buffering=0) as file:
                for chunk in read("" if self._listing.is_file else item.path, item.bytes):
                    if self._cancelled.is_set():
                        raise _Cancelled
                    found.update(chunk)
                    _write(file.fileno(), chunk)
                    count += len(chunk)
                    self._count(len(chunk))
            if count != item.bytes:
                raise DataError(
                    f"{self._url}: {item.path} has {count} bytes, of {item.bytes} that were listed: it changed meanwhile"
                )
        except BaseException:
            self._count(-count)
            raise
        target.chmod(0o400)
        return found.hexdigest()

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes += num_bytes

    def _sleep(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise _Cancelled

    def _note(self, trouble: str) -> None:
        self._wrong = trouble


def _write(handle: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _protect(folder: Path) -> None:
    """Nobody is to write into what others read: it would be other data on this node than on the next."""
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o500)


def _make_durable(folder: Path) -> None:
    """All at once: file by file takes some milliseconds each, of which there may be millions."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def _reader(url: str) -> Callable[[str, int], Iterator[bytes]]:
    """Return what reads a file below a URL ("": the one that it is), of this size, in chunks."""
    if is_local(url):
        return lambda path, _: _read_local(os.path.join(local_path(url), path) if path else local_path(url))
    system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    place = str(root).rstrip("/")

    def read(path: str, size: int) -> Iterator[bytes]:
        for at in range(0, size, _CHUNK_BYTES):
            yield system.cat_file(f"{place}/{path}" if path else place, start=at, end=min(at + _CHUNK_BYTES, size))

    return read


def _read_local(file: str) -> Iterator[bytes]:
    with open(file, "rb", buffering=0) as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            yield chunk
