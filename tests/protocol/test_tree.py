from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.protocol.tree import Range, bits, cover, fold, mask, parent, sibling, split

NUM_SUB_TASKS = st.integers(1, 40)


def add(left: str, right: str) -> str:
    return f"({left}{right})"


def whole(num_sub_tasks: int) -> str:
    return fold({Range(v, v + 1): f"{v}," for v in range(num_sub_tasks)}, add, num_sub_tasks)


def test_the_tree_of_seven() -> None:
    assert whole(7) == "(((0,1,)(2,3,))((4,5,)6,))"


@given(st.data())
def test_the_bits_do_not_depend_on_who_folds_what(data: st.DataObject) -> None:
    num = data.draw(NUM_SUB_TASKS)
    owners = data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    nodes = {}
    for owner in set(owners):
        own = sum(1 << v for v in range(num) if owners[v] == owner)
        for node in cover(own, num):
            leaves = {Range(v, v + 1): f"{v}," for v in range(node.lo, node.hi)}
            nodes[node] = _subtree(node, leaves)
    assert fold(nodes, add, num) == whole(num)


def _subtree(node: Range, leaves: dict[Range, str]) -> str:
    if node in leaves:
        return leaves[node]
    left, right = split(node)
    return add(_subtree(left, leaves), _subtree(right, leaves))


@given(num=NUM_SUB_TASKS, sub_tasks=st.integers(0, 2**40 - 1))
def test_a_cover_is_the_set_and_as_small_as_can_be(num: int, sub_tasks: int) -> None:
    sub_tasks &= (1 << num) - 1
    nodes = cover(sub_tasks, num)
    assert sum(mask(node) for node in nodes) == sub_tasks
    assert not any(sibling(node, num) in nodes for node in nodes)


@given(num=st.integers(2, 40), v=st.integers(0, 39))
def test_parents_lead_to_the_root(num: int, v: int) -> None:
    node: Range | None = Range(v % num, v % num + 1)
    while node is not None and (above := parent(node, num)) is not None:
        assert node in split(above)
        assert sibling(node, num) in split(above)
        node = above
    assert node == Range(0, num)


def test_a_missing_sub_task_is_named() -> None:
    with pytest.raises(KeyError, match="lo=1, hi=2"):
        fold({Range(0, 1): "0,"}, add, 2)


def test_bits_and_mask() -> None:
    assert bits(0b101001) == (0, 3, 5)
    assert mask(Range(2, 5)) == 0b11100
