"""trackio: a run a job in a project of its local store (TRACKIO_DIR), one record a step, which is stored once by its id."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from surefoot.errors import MissingExtraError, UserError
from surefoot.events import LedgerRow
from surefoot.spec import JobState
from surefoot.trackers.about import About
from surefoot.trackers.names import Names
from surefoot.words import UnknownWord

__all__ = ["Trackio"]

# What trackio's tables call their own columns, or keep for themselves.
_ALLOWED = re.compile(r"(?!__)(?!(project|run|run_id|timestamp|step|time|metrics)\Z).{1,250}")
_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


class Trackio:
    """A run. Written by way of trackio's store, not of its `log`, which gives up what it cannot store with a warning."""

    def __init__(self, project: str, job: About) -> None:
        if named := [name for name in _ELSEWHERE if os.environ.get(name)]:
            raise UserError(
                f"{named[0]} is set, and only trackio's local store is written: unset it, and use `trackio sync`"
            )
        try:
            from trackio.sqlite_storage import SQLiteStorage
        except ImportError as error:
            raise MissingExtraError(f"trackio is not installed: pip install 'surefoot[trackio]' ({error})") from error
        self._store: Any = SQLiteStorage
        self._project, self._job = project, job
        self._names = Names(_ALLOWED)
        self._waiting: list[LedgerRow] = []
        self._config: dict[str, Any] | None = job.document()
        try:
            SQLiteStorage.validate_project_name(project)
        except ValueError as error:
            raise UserError(f"trackio: {error}") from None
        last = SQLiteStorage.get_max_step_for_run(project, run=job.title, run_id=job.job)
        self._last = -1 if last is None else last
        self.where = f"trackio show --project {project}"

    @property
    def renamed(self) -> Mapping[str, str]:
        return self._names.changed

    def last_step(self) -> int:
        return self._last

    def write(self, row: LedgerRow) -> bool:
        self._waiting.append(row)
        self._last = row.result.step
        return True

    def flush(self) -> None:
        if not self._waiting:
            return
        rows, self._waiting = self._waiting, []
        self._store.bulk_log(
            self._project,
            self._job.title,
            [{self._names(name): value for name, value in row.result.values.items()} for row in rows],
            steps=[row.result.step for row in rows],
            timestamps=[datetime.fromtimestamp(row.circumstances.at, timezone.utc).isoformat() for row in rows],
            config=self._config,
            log_ids=[f"{self._job.job}-{row.result.step}" for row in rows],
            run_id=self._job.job,
        )
        self._config = None

    def close(self, outcome: JobState | UnknownWord | None = None) -> None:
        """Nothing is held open, and trackio's runs have no state."""
