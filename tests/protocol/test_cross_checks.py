"""Which sub-tasks two members compute: whoever is checked is compared, through others or at once, with somebody who was there before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.protocol.cross_checks import cross_checks, is_due
from surefoot_actors.protocol.messages import Generation, Member
from surefoot_actors.protocol.spans import owned

START = 5


@st.composite
def generations(draw: st.DrawFn) -> tuple[Generation, int, frozenset[int], int]:
    """A generation, whose first round may leave members without a sub-task; a round; who is not checked yet; how many sub-tasks."""
    size = draw(st.integers(1, 9))
    num = draw(st.integers(size, 20))
    owners = draw(st.lists(st.integers(0, size - 1), min_size=num, max_size=num))
    own = [sum(1 << v for v in range(num) if owners[v] == k) for k in range(size)]
    members = tuple(Member(trainer=f"t{k}", own=own[k], role="settled") for k in range(size))
    generation = Generation(number=3, nonce="n", start=START, members=members, store=("host", 1))
    return generation, draw(st.integers(START, START + 1)), draw(st.frozensets(st.integers(0, size - 1))), num


@given(generations())
def test_everybody_is_compared_with_who_was_there_before(case: tuple[Generation, int, frozenset[int], int]) -> None:
    generation, round_number, unchecked, num = case
    ranks = range(len(generation.members))
    checks = cross_checks(generation, round_number, num, unchecked)
    owns = {k: owned(generation, k, round_number, num) for k in ranks}
    trusted = set(ranks) - unchecked or {min(ranks)}
    assert {c.subject for c in checks} == {k for k in unchecked - trusted if owns[k]}
    witnesses = [c.witness for c in checks]
    assert len(witnesses) == len(set(witnesses)), "somebody computes more than one besides its own"
    for check in checks:
        assert check.witness != check.subject
        assert owns[check.subject] >> check.sub_task & 1
    before = {c.subject: c.witness for c in checks}
    # as many as can be by who was there before, the others by one another
    for k, subject in enumerate(sorted(unchecked - trusted)):
        if owns[subject]:
            assert (before[subject] in trusted) == (k < len(trusted))
    for subject in before:
        seen = {subject}
        at = before[subject]
        while at in before:
            assert at not in seen, "they are compared in a circle"
            seen.add(at)
            at = before[at]
        # who owns nothing of this round is checked in the next one
        assert at in trusted or not owns[at]


def test_where_all_are_checked_nothing_is_computed_twice() -> None:
    members = tuple(Member(trainer=f"t{k}", own=1 << k, role="settled") for k in range(3))
    generation = Generation(number=3, nonce="n", start=START, members=members, store=("host", 1))
    assert cross_checks(generation, START, 3, frozenset()) == ()


@given(st.integers(0, 10**9), st.integers(1, 10**9) | st.none())
def test_what_begins_in_some_step_is_compared_soon(begins: int, num_steps: int | None) -> None:
    """After at most as many steps as there were before it, at most 256, and always once more before the run ends."""
    latest = begins + max(2, min(begins, 256))
    last = latest if num_steps is None else max(begins, min(latest, num_steps - 1))
    due = [step for step in range(begins, last + 1) if is_due(step, num_steps)]
    assert due or last < 2 or (num_steps is not None and begins >= num_steps)


def test_few_steps_compare_everybody() -> None:
    assert [step for step in range(1024) if is_due(step, 1000)] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 999]
