"""The environment variables of a trainer: so that its sums depend on the job alone."""

from __future__ import annotations

from surefoot.spec import JobSpec

__all__ = ["trainer_env"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


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
