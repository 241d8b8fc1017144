"""The chart's pods as local processes: `helm test`, nodes taken back, heads killed, and the control plane replaced by another version."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import psycopg
import pytest

import surefoot
from surefoot import Client
from surefoot.client import Job
from surefoot.words import EventKind, UnknownWord

from ..domains.relay import Relay
from ..service.postgres import postgres_server
from .chart import ROOT
from .node import Running
from .release import LIMIT_S, Release, healthy, release, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.filterwarnings("default")]

VOLUME = "/var/lib/surefoot-checkpoints"


def sized(backend: str, workers: int, cpus: int) -> list[str]:
    """Options for small workers, and for where the head keeps its facts."""
    limits = {"limits": {"cpu": str(cpus), "memory": "2Gi"}, "requests": {}}
    return [
        *("--set", f"ray.faultTolerance.backend={backend}", "--set", f"ray.workerGroups.cpu.minReplicas={workers}"),
        *("--set", f"ray.workerGroups.cpu.maxReplicas={workers}"),
        *("--set-json", f"ray.workerGroups.cpu.resources={json.dumps(limits)}"),
    ]


# Each trainer notes what it computes, on the volume that all mount, and waits at gates there.
NOTES = """
import os, time, torch
import surefoot

def train(run):
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    data = torch.utils.data.TensorDataset(torch.arange(800.0).unsqueeze(1) / 800)
    for step in run.steps(run.config["steps"]):
        for [x] in step.batches(data):
            hold(run, step)
            path = f"{run.config['notes']}/computed-{os.getpid()}-{os.environ.get('HOSTNAME')}"
            # what is computed only to be compared is no sub-task done twice
            with open(os.devnull if run._loop.open.repeats else path, "a") as file:
                print(step.number, *x.flatten().tolist(), file=file)
            model(x).pow(2).mean().backward()
            time.sleep(run.config["slow_s"])
        optimizer.step()

def hold(run, step):
    gate = f"{run.config['notes']}/gate-{step.number}"
    while step.number in run.config["gates"] and not os.path.exists(gate):
        open(f"{run.config['notes']}/waits-{step.number}", "a").close()
        time.sleep(0.01)
"""
SPEC: dict[str, Any] = {"batch_size": 8, "sub_tasks": 4, "trainers": 2, "min_trainers": 1, "seed": 3}


def undisturbed(folder: Path, steps: int) -> list[bytes]:
    """The ledger of the same job on one trainer that nothing happens to."""
    scope: dict[str, Any] = {"__name__": "train"}
    exec(compile(NOTES, "train.py", "exec"), scope)  # noqa: S102  the test's own text
    config = {"steps": steps, "notes": str(folder), "gates": [], "slow_s": 0}
    options = {name: SPEC[name] for name in ("batch_size", "sub_tasks", "seed")}
    return [row.result.canonical() for row in surefoot.run_local(scope["train"], config=config, **options).rows]


class Watched:
    """A job on a release, its gates, and what its trainers noted."""

    def __init__(self, made: Release, client: Client, steps: int, gates: list[int]) -> None:
        (folder := made.made.folder / "code").mkdir()
        (folder / "train.py").write_text(NOTES)
        self._made, self._client, self._steps = made, client, steps
        config = {"steps": steps, "notes": VOLUME, "gates": gates, "slow_s": 0.05}
        self.job: Job = client.submit("train:train", folder=folder, config=config, **SPEC)

    def open(self, gate: int) -> None:
        (self._made.volume / f"gate-{gate}").touch()

    def notes(self) -> list[list[str]]:
        return [path.read_text().splitlines() for path in self._made.volume.glob("computed-*")]

    def waits(self, gate: int) -> bool:
        """Whether training has come to a gate, which needs nobody's word but the trainers'."""
        return (self._made.volume / f"waits-{gate}").exists()

    def told(self, step: int) -> bool:
        """Whether the control plane knows of a step."""
        return self._client.job(self.job.id).view.steps_done > step

    def on_both(self, step: int) -> None:
        """Wait until both trainers train, and this step is done."""
        for row in self.job.rows(follow=True):
            if row.circumstances.trainers == 2 and row.result.step >= step:
                return

    def succeeds_undisturbed(self, folder: Path) -> set[EventKind | UnknownWord]:
        """The same bits as alone, nothing computed twice, no trainer lost, one attempt. Returns what kinds of events there were."""
        view = self.job.wait(timeout=LIMIT_S)
        kinds = {event.kind for event in self.job.events()}
        assert (view.steps_done, view.attempts) == (self._steps, 1), kinds
        assert [row.result.canonical() for row in self.job.rows()] == undisturbed(folder, self._steps)
        assert EventKind.TRAINER_LOST not in kinds, kinds
        assert len(self.notes()) == 2
        # the first sub-task of a run is computed twice, to prove that it can be
        lines = [line for some in self.notes() for line in some if not line.startswith("0 ")]
        assert len(lines) == len(set(lines)) == (self._steps - 1) * SPEC["sub_tasks"]
        return kinds


def supervisors(job: Job) -> set[str]:
    """Those that have told of generations: another one after each head's death, as it dies with the head."""
    return {event.source for event in job.events() if event.kind is EventKind.GENERATION}


def test_helm_test_succeeds_the_head_is_killed_under_redis_and_a_worker_that_is_told_to_end_is_drained(
    tmp_path: Path,
) -> None:
    with release(tmp_path, sized("redis", workers=2, cpus=1), workers=2) as made:
        made.start_redis()
        head = made.start_head()
        nodes = made.start_workers()
        made.start_plane()
        for node, address in zip(nodes, made.workers, strict=True):
            until(lambda address=address: healthy(address, 52365, "/api/healthz"), node, head)  # type: ignore[misc]
        until(lambda: healthy(made.plane, 8470, "/v1/ready"))
        assert "succeeded: 60 steps, each once" in made.run_to_its_end("surefoot-test", "test")

        with Client(url=f"http://{made.plane}:8470", token=made.token) as client:
            watched = Watched(made, client, 40, [6, 16])
            watched.on_both(3)
            [before] = supervisors(watched.job)
            head.kill()
            watched.open(6)
            until(lambda: watched.waits(16), *nodes)
            made.start_head()
            until(lambda: supervisors(watched.job) - {before}, *nodes)
            watched.open(16)
            nodes[1].terminate()
            kinds = watched.succeeds_undisturbed(tmp_path)
            assert nodes[1].process.wait(LIMIT_S) is not None
            assert EventKind.TRAINER_LEFT in kinds, kinds


# ---- the control plane replaced


# Nullable, or with a default: what the version before neither reads nor writes.
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "next", "{newest}", None, None


def upgrade():
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("of_the_next_version", sa.Text(), nullable=True))
    op.create_table("next_things", sa.Column("id", sa.Integer(), primary_key=True))


def downgrade():
    raise NotImplementedError
"""


def make_next_version(folder: Path) -> None:
    """The service as its next version might be: another number, and a migration on top that takes nothing away."""
    shutil.copytree(ROOT / "service" / "surefoot_service", folder / "surefoot_service")
    (info := folder / "surefoot-99.0.0.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: surefoot\nVersion: 99.0.0\n")
    (info / "entry_points.txt").write_text(distribution("surefoot").read_text("entry_points.txt") or "")
    versions = folder / "surefoot_service" / "migrations" / "versions"
    newest = max(path.name.partition("_")[0] for path in versions.glob("[0-9]*.py"))
    (versions / "9999_next.py").write_text(MIGRATION.format(newest=newest))


NEXT = "/var/lib/surefoot-next"
AS_NEXT = [
    *("--set-json", f'controlPlane.extraEnv=[{{"name": "PYTHONPATH", "value": "{NEXT}"}}]'),
    *("--set-json", 'controlPlane.extraVolumes=[{"name": "next", "persistentVolumeClaim": {"claimName": "next"}}]'),
    *("--set-json", f'controlPlane.extraVolumeMounts=[{{"name": "next", "mountPath": "{NEXT}"}}]'),
]


def migrated(url: str) -> set[str]:
    """The revisions that the database is at."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return {row[0] for row in connection.execute("select version_num from alembic_version")}


def replaced(made: Release, old: Running, options: Sequence[str], *, hook: bool) -> tuple[Release, Running]:
    """The release with other values: the hook's Job first, as an upgrade has it, then another control plane in place of the old one."""
    after = replace(made, options=options)
    if hook:
        after.run_to_its_end("surefoot-migrate", "migrate")
    old.terminate()
    assert old.process.wait(LIMIT_S) == 0, old.said()[-3000:]
    return after, after.start_plane()


def test_training_goes_on_with_the_head_killed_under_rocksdb_and_the_control_plane_upgraded_and_rolled_back(
    tmp_path: Path,
) -> None:
    options = [*sized("rocksdb", workers=1, cpus=4), "--set", "database.existingSecret=surefoot-postgres"]
    with release(tmp_path, options, workers=1) as made, postgres_server() as postgres:
        database = postgres.make_database(f"test-{secrets.token_hex(6)}")
        with Relay(database, made.made.gateway) as relay:
            reached = database.replace(f"127.0.0.1:{postgres.port}", relay.url.removeprefix("http://"))
            made.made.secrets["surefoot-postgres"] = {"url": reached}
            make_next_version(made.claim("next"))
            made.run_to_its_end("surefoot-migrate", "migrate")
            before = migrated(database)
            head = made.start_head()
            [node] = made.start_workers()
            plane = made.start_plane()
            until(lambda: healthy(made.plane, 8470, "/v1/ready"), node, plane, head)
            with Client(url=f"http://{made.plane}:8470", token=made.token) as client:
                watched = Watched(made, client, 40, [6, 14, 24])
                watched.on_both(2)
                [first] = supervisors(watched.job)

                # nobody is there but trainers
                head.kill()
                watched.open(6)
                until(lambda: watched.waits(14), node, plane)
                made.start_head()
                until(lambda: supervisors(watched.job) - {first} and watched.told(13), node, plane)

                after, plane = replaced(made, plane, [*options, *AS_NEXT], hook=True)
                watched.open(14)
                assert (after.version, migrated(database)) == ("99.0.0", {"next"})
                assert "each once" in after.run_to_its_end("surefoot-test", "test")

                # helm rollback runs no hook: the database stays as the newer version has made it
                made, plane = replaced(after, plane, options, hook=False)
                watched.open(24)
                assert (made.version, migrated(database)) == (version("surefoot"), {"next"})
                assert before != {"next"}
                watched.succeeds_undisturbed(tmp_path)
                assert "each once" in made.run_to_its_end("surefoot-test", "test")
