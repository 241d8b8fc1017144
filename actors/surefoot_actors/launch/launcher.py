"""The entrypoint of an attempt's Ray job: trades the claim code for the attempt, makes its supervisor, and ends.

Environment: SUREFOOT_URL, SUREFOOT_ATTEMPT, SUREFOOT_CLAIM. It never has the user's code: the job is submitted without.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import httpx
import ray
from ray.actor import ActorHandle
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_random_exponential

from surefoot._network import direct_client
from surefoot.errors import SurefootError
from surefoot.events import ClaimRequest
from surefoot.logs import LOGS_TYPE
from surefoot.names import SUPERVISOR, name_within
from surefoot.views import Claimed
from surefoot_actors.cluster.ray.names import KEEPER, NAMESPACE, find_actor
from surefoot_actors.cluster.ray.trainer_actor import DEFAULT_SERVICE
from surefoot_actors.launch.package_pin import PackagePin
from surefoot_actors.launch.supervisor_actor import SupervisorActor, SupervisorSetup
from surefoot_actors.logs.own_output import OwnOutput, own_output

__all__ = ["launch", "main"]

# The control plane may be restarting; and a supervisor starts within seconds, where it starts.
CLAIM_S = 60.0
RUNNING_S = 120.0
_CLAIMED_BEFORE = 409
# of the answer to a claim: a job's spec is a tenth of it, where its settings are not far from the defaults
MOST_BYTES = 16 * 1024 * 1024
# Supervisor and keeper live on the head, as Ray Serve's controller does: whoever restarts them, and the journal, are there too, and
# a node that dies with trainers on it does not take their supervisor along.
_HEAD, _HEAD_SHARE = "node:__internal_head__", 0.001


class LaunchError(SurefootError):
    """The attempt could not be launched."""


def claim(url: str, attempt: str, code: str) -> Claimed | None:
    """Trade the claim code. None: it was traded before, by an earlier run of this job perhaps."""
    retrying = Retrying(
        retry=retry_if_exception_type(httpx.TransportError) | retry_if_result(lambda answer: answer.status_code >= 500),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        wait=wait_random_exponential(multiplier=0.2, max=2.0),
        stop=stop_after_delay(CLAIM_S),
        reraise=True,
    )
    body = ClaimRequest(code=code).model_dump()
    try:
        with direct_client(url, timeout=10.0, most_bytes=MOST_BYTES) as client:
            response = retrying(client.post, f"{url.rstrip('/')}/v1/attempts/{attempt}/claim", json=body)
    except httpx.TransportError as error:
        raise LaunchError(f"the control plane at {url} could not be reached from the cluster: {error}") from error
    if response.status_code == _CLAIMED_BEFORE:
        return None
    if not response.is_success:
        raise LaunchError(f"the control plane refuses attempt {attempt}: {response.status_code} {response.text[:1000]}")
    return Claimed.model_validate_json(response.content)


def launch(setup: SupervisorSetup) -> ActorHandle[Any]:
    """Make the keeper and the supervisor, unless they are there. Returns the supervisor."""
    package = {"working_dir": setup.package_uri} if setup.package_uri else {}
    shared = {
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "resources": {_HEAD: _HEAD_SHARE},
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    ray.remote(PackagePin).options(name=name_within(setup.attempt, KEEPER), runtime_env=package, **shared).remote()
    supervisor = ray.remote(SupervisorActor).options(name=name_within(setup.attempt, SUPERVISOR), **shared)
    made: ActorHandle[Any] = supervisor.remote(setup)  # type: ignore[assignment]
    return made


def main(service: str = DEFAULT_SERVICE) -> None:
    """Launch the attempt that the environment names; returns when its supervisor runs."""
    url, attempt = os.environ["SUREFOOT_URL"], os.environ["SUREFOOT_ATTEMPT"]
    claimed = claim(url, attempt, os.environ["SUREFOOT_CLAIM"])
    with own_output() as output:
        try:
            _start(url, attempt, claimed, service)
        finally:
            if claimed is not None:
                _ship(output, url, attempt, claimed.token)


def _ship(output: OwnOutput, url: str, attempt: str, token: str) -> None:
    """Send what was printed, if the control plane takes it now: it is in Ray's log of this job as well."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": LOGS_TYPE}
    try:
        with direct_client(url, timeout=10.0, most_bytes=MOST_BYTES) as client:
            body = output.body("launcher")
            client.post(f"{url.rstrip('/')}/v1/attempts/{attempt}/logs", content=body, headers=headers)
    except httpx.TransportError as error:
        print(f"these lines were not sent to the control plane: {error}", file=sys.stderr)  # noqa: T201


def _start(url: str, attempt: str, claimed: Claimed | None, service: str) -> None:
    """Make the attempt's supervisor, unless it is there, and return when it runs."""
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False)
    if claimed is None:
        supervisor = find_actor(attempt, SUPERVISOR)
        if supervisor is None:
            raise LaunchError(
                f"the claim code of attempt {attempt} was used before, and it has no supervisor here: "
                "the launch that used it failed, or the attempt is over"
            )
    else:
        supervisor = launch(
            SupervisorSetup(
                url=url,
                attempt=attempt,
                token=claimed.token,
                spec=claimed.spec,
                package_uri=claimed.package_uri or None,
                checkpoints=claimed.checkpoints,
                max_output_bytes=claimed.max_output_bytes,
                service=service,
                node_groups=claimed.node_groups,
                node_wait_s=claimed.node_wait_s,
            )
        )
    ray.get(supervisor.running.remote(), timeout=RUNNING_S)


if __name__ == "__main__":
    try:
        main()
    except SurefootError as error:
        sys.exit(f"surefoot launcher: {error}")
