from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.protocol.messages import Generation, Member
from surefoot_actors.protocol.spans import Holding, assign, covers, owned, spans
from surefoot_actors.protocol.tree import Range, mask


@given(num_trainers=st.integers(1, 12), num_sub_tasks=st.integers(1, 64))
def test_spans_cover_each_sub_task_once(num_trainers: int, num_sub_tasks: int) -> None:
    masks = spans(num_trainers, num_sub_tasks)
    assert sum(masks) == (1 << num_sub_tasks) - 1
    sizes = [m.bit_count() for m in masks]
    assert max(sizes) - min(sizes) <= 1


def test_spans_are_contiguous_and_in_rank_order() -> None:
    assert spans(3, 8) == (0b00000111, 0b00111000, 0b11000000)


GENERATION = Generation(
    number=3,
    nonce="n",
    start=5,
    members=(
        Member(trainer="t0", own=0b1001, role="settled"),
        Member(trainer="t1", own=0b0110, role="behind", source=0),
    ),
    store=("host", 1),
)


def test_the_first_round_is_as_assigned_and_the_next_by_span() -> None:
    assert owned(GENERATION, 0, 5, 4) == 0b1001
    assert owned(GENERATION, 0, 6, 4) == 0b0011


def test_covers_are_the_nodes_that_each_brings() -> None:
    assert covers(GENERATION, 5, 4) == ((Range(0, 1), Range(3, 4)), (Range(1, 2), Range(2, 3)))
    assert covers(GENERATION, 6, 4) == ((Range(0, 2),), (Range(2, 4),))


@st.composite
def partly_done(draw: st.DrawFn) -> tuple[dict[str, Holding], int]:
    """Members that own disjoint sub-tasks, and have computed some of them; owner 4 is lost."""
    num = draw(st.integers(1, 24))
    owners = draw(st.lists(st.integers(0, 4), min_size=num, max_size=num))
    done = draw(st.integers(0, (1 << num) - 1))
    holdings = {}
    for k in range(draw(st.integers(1, 4))):
        own = sum(1 << v for v in range(num) if owners[v] == k)
        pace = draw(st.sampled_from([0.0, 0.5, 1.0, 4.0]))
        holdings[f"t{k}"] = Holding(held=own & done, own=own, sub_task_s=pace)
    return holdings, num


@given(partly_done())
def test_what_is_computed_or_owned_stays_and_nothing_is_left_over(case: tuple[dict[str, Holding], int]) -> None:
    holdings, num = case
    own = assign(holdings, num)
    assert sum(own.values()) == (1 << num) - 1  # disjoint, since a doubled bit would carry
    assert all(own[name] & h.own == h.own and own[name] & h.held == h.held for name, h in holdings.items())


def test_the_lost_span_is_divided_in_runs() -> None:
    own = assign({"t0": Holding(own=0b11, held=0b01), "t1": Holding(own=0b1100, held=0b0000)}, 8)
    assert own == {"t0": 0b01110011, "t1": 0b10001100}


def test_the_slower_one_gets_less() -> None:
    own = assign({"t0": Holding(sub_task_s=1.0), "t1": Holding(sub_task_s=3.0)}, 8)
    assert own == {"t0": mask(Range(0, 6)), "t1": mask(Range(6, 8))}
