"""The environment variables of a trainer: so that its sums depend on the job alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping

from surefoot._loopback import keep_loopback_direct
from surefoot.spec import JobSpec

__all__ = ["KIND_LABELS", "node_kind", "tell_node_kind", "trainer_env", "without_secrets"]

# What Ray's labels of a node say of its kind. KubeRay and Ray itself set the first and the last, the chart the second.
KIND_LABELS = {
    "group": "ray.io/node-group",
    "market": "ray.io/market-type",
    "device": "ray.io/accelerator-type",
}
_KIND = "SUREFOOT_NODE_KIND"

# What a node's environment may have that is no business of training code: of Ray, whose processes have read it by then; of the
# launcher; and of a control plane that runs on the same machine.
_SECRET = (
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "SUREFOOT_CLAIM",
    "SUREFOOT_DATA",
    "SUREFOOT_DATABASE_URL",
    "SUREFOOT_RAY_AUTH_TOKEN",
    "SUREFOOT_SECRETS_KEY",
    "SUREFOOT_TOKEN",
    "PGPASSWORD",
)

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def without_secrets(env: MutableMapping[str, str]) -> None:
    """Make an actor's environment fit for code that is not ours: no secrets, and no proxy between it and its own machine."""
    for name in _SECRET:
        env.pop(name, None)
    keep_loopback_direct(env)


def trainer_env(spec: JobSpec) -> dict[str, str]:
    """The job's own variables, and over them those that the promise rests on."""
    return {
        **spec.env,
        **dict.fromkeys(_THREADS, str(spec.threads)),
        "PYTHONHASHSEED": "0",
        # a script that submits itself at its top level is imported here, and must not do so again (surefoot.submission)
        "SUREFOOT_TRAINER": "1",
        # without it cuBLAS is not deterministic
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def tell_node_kind(env: MutableMapping[str, str], labels: Mapping[str, str]) -> None:
    """Let the trainer's service know of which kind its node is, by the labels that Ray has of it."""
    env[_KIND] = json.dumps({name: labels[label] for name, label in KIND_LABELS.items() if labels.get(label)})


def node_kind(env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Of which kind this trainer's node is; nothing where nobody said so."""
    return tuple(json.loads(env.get(_KIND, "{}")).items())
