"""The control plane under generated requests: `python tests/service/fire.py --minutes 60`.

Schemathesis makes requests from the OpenAPI document, valid ones and broken ones, and checks every answer: no server error, no status or
content that the document does not name, no request let in without its token. It asks a real process: as a stranger, as the user, and as
an attempt; with names made up, and with those of a job and an attempt that are there.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from surefoot_service.rest.app import open_service
from surefoot_service.settings import Settings
from surefoot_service.store import attempts

__all__ = ["IDENTITIES", "Plane", "Round", "control_plane", "fire"]

IDENTITIES = ("nobody", "user", "attempt")
SERVER = [
    sys.executable,
    "-m",
    "uvicorn",
    "--factory",
    "surefoot_service.rest.app:create_app",
    "--log-level",
    "warning",
]
HOOKS = Path(__file__).with_name("fire_hooks.py")
START_S = 180.0
# An answer takes milliseconds: what takes this long hangs.
ANSWER_S = 30.0

# Rules between a spec's fields are beyond the document; what they refuse is answered by 422. An attempt's fence is 410.
_CHECKS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "410", "413", "415", "422"]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "410", "413", "414", "415", "422", "429", "431"]
"""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A control plane that answers, with a job and an attempt of it."""

    url: str
    job: str
    attempt: str
    package: str
    # by identity
    tokens: dict[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One run of schemathesis."""

    identity: str
    # whether paths name what is there
    known: bool
    seed: int
    # it goes on for so long; None: until so many examples of each operation are tried, the same ones wherever it runs
    seconds: int | None
    examples: int


@contextmanager
def control_plane() -> Iterator[Plane]:
    """Serve a data folder of its own, on loopback, until the block ends."""
    data = Path(tempfile.mkdtemp(prefix="sf-fire-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([*SERVER, "--port", str(port)], env=_env() | {"SUREFOOT_DATA": str(data)})
    try:
        yield _furnished(f"http://127.0.0.1:{port}", data, process)
        assert process.poll() is None, "the control plane has ended"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(data)


def _furnished(url: str, data: Path, process: subprocess.Popen[bytes]) -> Plane:
    with httpx.Client(base_url=url, trust_env=False, timeout=ANSWER_S) as client:
        _await(client, process)
        user = (data / "token").read_text().strip()
        client.headers["Authorization"] = f"Bearer {user}"
        package = client.post("/v1/packages", content=_zip(), headers={"content-type": "application/zip"}).json()
        spec = {"entrypoint": "train:train", "package": package["package"], "batch_size": 64}
        job = client.post("/v1/jobs", json=spec).raise_for_status().json()["id"]
        attempt, code = asyncio.run(_made(data, job))
        claimed = client.post(f"/v1/attempts/{attempt}/claim", json={"code": code}).raise_for_status().json()
    tokens = {"user": user, "attempt": claimed["token"]}
    return Plane(url=url, job=job, attempt=attempt, package=package["package"], tokens=tokens)


def _await(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/v1/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the control plane does not answer")


def _env() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train.py", "def train(run):\n    pass\n")
    return buffer.getvalue()


async def _made(data: Path, job: str) -> tuple[str, str]:
    """Start the queued job in the store, as the reconciler would. Return the attempt and its claim code."""
    service = open_service(Settings(data=data))
    try:
        made = await service.database.write(
            attempts.make, job, keys=service.keys, session_name="s", reason="", now=service.now()
        )
        assert made is not None
        return made.id, service.keys.claim_code(made.id)
    finally:
        service.database.close()


def fire(plane: Plane, how: Round) -> subprocess.CompletedProcess[str]:
    """Run schemathesis once. Its exit status says whether it found something."""
    with tempfile.TemporaryDirectory(prefix="sf-fire-") as place:
        config = Path(place) / "schemathesis.toml"
        config.write_text(f"hooks = {json.dumps(str(HOOKS))}\n" + _CHECKS + _parameters(plane, known=how.known))
        command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
        command += [f"{plane.url}/openapi.json", "--checks", "all", "--continue-on-failure", "--no-color"]
        command += ["--seed", str(how.seed), "--max-examples", str(how.examples)]
        command += ["--max-time", str(how.seconds)] if how.seconds is not None else []
        command += ["--suppress-health-check", "all", "--generation-database", "none", "--no-shrink"]
        command += ["--request-timeout", str(ANSWER_S), "--warnings", "off"]
        if how.known or how.identity == "user":  # the stream of a job that is under way does not end
            command += ["--exclude-path", "/v1/jobs/{job}/stream", "--exclude-path", "/v1/jobs/{job}/logs/stream"]
        if how.identity in plane.tokens:
            command += ["--header", f"Authorization: Bearer {plane.tokens[how.identity]}"]
        # inherited stderr: schemathesis says there what it cannot do
        return subprocess.run(command, cwd=place, env=_env(), stdout=subprocess.PIPE, text=True, check=False)


def _parameters(plane: Plane, *, known: bool) -> str:
    fixed: dict[str, object] = {"query.wait_s": 0}
    if known:
        fixed |= {"path.job": plane.job, "path.attempt": plane.attempt, "path.sha256": plane.package}
    return "\n[parameters]\n" + "".join(f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in fixed.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="repeat a round by what it printed")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.minutes * 60
    findings = number = 0
    while time.monotonic() < end:
        for identity in IDENTITIES:
            seed = arguments.seed if arguments.seed is not None else secrets.randbelow(2**32)
            left = max(1, int(min(120.0, end - time.monotonic())))
            how = Round(identity=identity, known=bool(number % 2), seed=seed, seconds=left, examples=100)
            with control_plane() as plane:
                done = fire(plane, how)
            print(f"{how}: {'well' if done.returncode == 0 else 'FINDINGS'}", flush=True)
            if done.returncode:
                findings += 1
                print(done.stdout, flush=True)
        number += 1
    print(f"{number * len(IDENTITIES)} rounds, {findings} with findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
