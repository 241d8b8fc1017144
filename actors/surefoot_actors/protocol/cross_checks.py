"""Which sub-tasks two members compute, so that all show that they compute the same: who has joined, and now and then everybody. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from surefoot_actors.protocol.messages import Generation
from surefoot_actors.protocol.spans import owned

__all__ = ["CrossCheck", "cross_checks", "is_due"]

# Everybody is checked after at most so many steps.
_EVERY = 256


class CrossCheck(NamedTuple):
    """A sub-task of the rank `subject`, which the rank `witness` computes besides its own."""

    subject: int
    witness: int
    sub_task: int


def cross_checks(
    generation: Generation, round_number: int, num_sub_tasks: int, unchecked: Collection[int]
) -> tuple[CrossCheck, ...]:
    """Return how the `unchecked` ranks are checked in a round: the lowest sub-task of each that owns one.

    Nobody is witness to more than one. Those who are checked already come first; where there are more subjects than that, they are
    witnesses to each other. Where nobody is checked, the first one counts as if it were: a run that begins has no other truth.
    """
    first, *others = [k for k in range(len(generation.members)) if k not in unchecked] or [min(unchecked, default=0)]
    subjects = sorted(set(unchecked) - {first})
    witnesses = (first, *others, *subjects)
    owns = {k: owned(generation, k, round_number, num_sub_tasks) for k in subjects}
    return tuple(
        CrossCheck(subject, witness, (own & -own).bit_length() - 1)
        for subject, witness in zip(subjects, witnesses, strict=False)
        if (own := owns[subject])
    )


def is_due(step: int, num_steps: int | None) -> bool:
    """Whether all members are checked in this step: 2, 4, 8, ..., 256, each 256th from there on, and the last one, if it is known.

    What parts late most often does so after few steps (a warm-up has ended, an epoch). In the second step, 1, the engine's own rules still
    look, and can tell more.
    """
    if step < 2:
        return False
    return step % _EVERY == 0 or (step < _EVERY and step & (step - 1) == 0) or step + 1 == num_steps
