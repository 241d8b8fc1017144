"""MLflow: a run a job, found again by a tag. The server, or the file, is the one that MLflow's own settings name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from surefoot.errors import MissingExtraError, SurefootError
from surefoot.events import LedgerRow
from surefoot.spec import JobState
from surefoot.trackers.about import About, flat
from surefoot.trackers.names import Names
from surefoot.trackers.places import without_password
from surefoot.words import UnknownWord

__all__ = ["MLflow"]

_TAG = "surefoot.job"
# What MLflow's validation lets through: such names may become paths of files there, and must not mean others.
_ALLOWED = re.compile(r"(?!/|\.\.)(?!(.*/)?\.\.?(/|\Z))(?!.*//)[/\w.\- :]{1,250}(?<!/)")
# So many metrics, and so many params, does MLflow take at once.
_METRICS, _PARAMS = 1000, 100
_LONGEST_PARAM = 6000
_STATUS = {JobState.SUCCEEDED: "FINISHED", JobState.FAILED: "FAILED", JobState.CANCELLED: "KILLED"}


class MLflow:
    """A run of an experiment. Metrics are sent in batches, which MLflow's databases store whole or not at all.

    Where they do not (files), a step may be there with some of its values: it is written again, with those that are missing.
    """

    def __init__(self, experiment: str, job: About) -> None:
        try:
            from mlflow import entities
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingExtraError(f"MLflow is not installed: pip install 'surefoot[mlflow]' ({error})") from error
        self._entities, self._error = entities, MlflowException
        self._names, self._param_names = Names(_ALLOWED), Names(_ALLOWED)
        self._waiting: list[Any] = []
        with self._told():
            self._client = MlflowClient()
            self._run = self._found(experiment, job)
            self._write_params(job)
            metrics = self._client.get_run(self._run).data.to_proto().metrics
        # the last step of each metric
        self._steps: dict[str, int] = {metric.key: metric.step for metric in metrics}

    @property
    def renamed(self) -> Mapping[str, str]:
        return {**self._param_names.changed, **self._names.changed}

    def last_step(self) -> int:
        # the newest step may have been cut short
        return max(self._steps.values(), default=0) - 1

    def write(self, row: LedgerRow) -> bool:
        step, at = row.result.step, round(row.circumstances.at * 1000)
        named = {self._names(name): value for name, value in row.result.values.items()}
        new = {key: value for key, value in named.items() if self._steps.get(key, -1) < step}
        self._waiting += [self._entities.Metric(key, value, at, step) for key, value in new.items()]
        self._steps |= dict.fromkeys(new, step)
        if len(self._waiting) >= _METRICS:
            self.flush()
        return bool(new)

    def flush(self) -> None:
        waiting, self._waiting = iter(self._waiting), []
        with self._told():
            while batch := list(islice(waiting, _METRICS)):
                self._client.log_batch(self._run, metrics=batch)

    def close(self, outcome: JobState | UnknownWord | None = None) -> None:
        if isinstance(outcome, JobState) and outcome in _STATUS:
            with self._told():
                self._client.set_terminated(self._run, _STATUS[outcome])

    def _found(self, experiment: str, job: About) -> str:
        """The id of the job's run, which is made where there is none."""
        folder = self._experiment(experiment)
        self.where = self._place(folder)
        runs = self._client.search_runs(
            [folder], f"tags.`{_TAG}` = '{job.job}'", max_results=1, order_by=["attributes.start_time ASC"]
        )
        if not runs:
            tags = {f"surefoot.{name}": str(value) for name, value in job.facts.items()}
            runs = [self._client.create_run(folder, tags=tags, run_name=job.title)]
        run: str = runs[0].info.run_id
        self.where += f"/runs/{run}" if self.where.startswith("http") else f", run {run}"
        return run

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        folder: str = found.experiment_id if found else self._client.create_experiment(name)
        return folder

    def _place(self, folder: str) -> str:
        uri = without_password(self._client.tracking_uri)
        return f"{uri.rstrip('/')}/#/experiments/{folder}" if uri.startswith("http") else uri

    def _write_params(self, job: About) -> None:
        params = flat(job.config).items()
        made = iter([self._entities.Param(self._param_names(name), text[:_LONGEST_PARAM]) for name, text in params])
        while batch := list(islice(made, _PARAMS)):
            self._client.log_batch(self._run, params=batch)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise SurefootError(f"MLflow: {error}; the same command goes on where it was") from error
