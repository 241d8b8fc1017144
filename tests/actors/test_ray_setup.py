"""Whose fault it is that a node could not be set up, by what Ray and pip say of it."""

from __future__ import annotations

import pickle

import pytest

from surefoot_actors.cluster.ports import SetupFailedError
from surefoot_actors.cluster.ray.setup import node_of, refused_requirements, why_not_set_up

HEAD = """Failed to set up runtime environment.
Could not create the actor because its associated runtime env failed to be created.
[Node 10.0.0.7] Traceback (most recent call last):
  File "runtime_env/pip.py", line 252, in _install_pip_packages
ray._private.runtime_env.utils.SubprocessCalledProcessError: Run cmd[9] failed with the following details.
Command '['python', '-m', 'pip', 'install']' returned non-zero exit status 1.
Last 50 lines of stdout:
"""
NONE = """    ERROR: Could not find a version that satisfies the requirement nowhere==1.0 (from versions: none)
    ERROR: No matching distribution found for nowhere==1.0
"""
AWAY = """    WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError(...)': /simple/nowhere/
"""
FULL = """    ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device
"""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            NONE,
            "ERROR: Could not find a version that satisfies the requirement nowhere==1.0 (from versions: none)\n"
            "ERROR: No matching distribution found for nowhere==1.0",
        ),
        ("    ERROR: Invalid requirement: '=='\n", "ERROR: Invalid requirement: '=='"),
        (AWAY + NONE, ""),
        (FULL, ""),
        ("    Collecting nowhere\n", ""),
    ],
)
def test_only_what_pip_says_of_the_requirements_is_the_users_mistake(said: str, told: str) -> None:
    assert refused_requirements(HEAD + said) == told


def test_what_was_wrong_with_a_node_is_told_in_a_line() -> None:
    assert "No space left on device" in why_not_set_up(HEAD + FULL)
    assert "Retrying (Retry(total=0" in why_not_set_up(HEAD + AWAY + NONE)
    assert why_not_set_up("one\nOSError: the last line\n\n") == "OSError: the last line"
    assert refused_requirements("Failed\nworking_dir: ERROR: it is not pip that says this") == ""
    assert node_of(HEAD) == "10.0.0.7"
    assert node_of("nothing") == ""


def test_it_travels() -> None:
    error = pickle.loads(pickle.dumps(SetupFailedError("why", "ERROR: no", "10.0.0.7")))
    assert (error.reason, error.requirements, error.node) == ("why", "ERROR: no", "10.0.0.7")
