"""TensorBoard: event files, as tensorboardX writes them. One record a step, so that a step is there whole or not at all."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from surefoot._paths import why_not
from surefoot.errors import MissingExtraError, UserError
from surefoot.events import LedgerRow
from surefoot.spec import JobState
from surefoot.trackers.about import About
from surefoot.words import UnknownWord

__all__ = ["TensorBoard", "records"]

_HEAD = struct.Struct("<QI")
_FOOT_BYTES = 4
# how a file's name ends: the job, and the number that puts files of one second in order
_END = re.compile(r"\.surefoot-(?P<job>\w+)-\d{6}\Z")


class TensorBoard:
    """A folder of event files. Each time it is opened it goes on in a file of its own, as TensorBoard reads them in order."""

    #: TensorBoard takes any name
    renamed: Mapping[str, str] = {}

    def __init__(self, folder: str | os.PathLike[str], job: About) -> None:
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        except ImportError as error:
            hint = "pip install 'surefoot[tensorboard]'"
            raise MissingExtraError(f"tensorboardX is not installed: {hint} ({error})") from error
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self.folder = Path(folder)
        self.where = f"tensorboard --logdir {folder}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check(job.job)
            self._last = self._look()
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(f"curves cannot be written to {folder}: {why_not(error)}; name another folder") from None
        number = len(list(self._files()))
        self._writer: Any = EventsWriter(str(self.folder / "events"), f".surefoot-{job.job}-{number:06d}")

    def last_step(self) -> int:
        return self._last

    def write(self, row: LedgerRow) -> bool:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in row.result.values.items()]
        at = row.circumstances.at
        self._writer.write_event(self._event(step=row.result.step, wall_time=at, summary=self._summary(value=values)))
        self._last = row.result.step
        return True

    def flush(self) -> None:
        self._writer.flush()

    def close(self, outcome: JobState | UnknownWord | None = None) -> None:
        self._writer.close()

    def _files(self) -> Iterator[Path]:
        return iter(sorted(self.folder.glob("events.out.tfevents.*")))

    def _check(self, job: str) -> None:
        """Two jobs in one folder would be one curve."""
        for file in self._files():
            if (end := _END.search(file.name)) and end["job"] != job:
                raise UserError(f"{self.folder} holds the curves of job {end['job']}: give job {job} another folder")

    def _look(self) -> int:
        """The last step that is whole. What a kill has cut short at the end of a file is cut off, as readers stop there."""
        last = -1
        for file in self._files():
            whole = 0
            for record, end in records(file.read_bytes()):
                event = self._event.FromString(record)
                last, whole = (max(last, event.step) if event.HasField("summary") else last), end
            if whole < file.stat().st_size:
                os.truncate(file, whole)
        return last


def records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the whole records of an event file, each with where it ends."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, _ = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length + _FOOT_BYTES
        if end > len(data):
            return
        yield data[at + _HEAD.size : end - _FOOT_BYTES], end
        at = end
