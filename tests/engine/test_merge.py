"""The merge among real processes: the same bytes as alone, an error on every member, never a hang."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.engine.exchange.signals import Signals
from surefoot_actors.engine.types import StateTable

from .members import ELSE, SAME, Members, alone, told


@pytest.fixture(scope="module")
def everyone() -> Iterator[Members]:
    started = Members()
    yield started
    started.close()


@pytest.mark.parametrize("two_phases", [False, True], ids=["one-phase", "two-phases"])
@pytest.mark.parametrize(
    "owners",
    ["00001111", "00011122", "01230123", "0001111", "0011223", "0110100", "00002222"],
    ids=["aligned", "odd spans", "scattered", "seven", "seven on four", "several runs", "one without any"],
)
def test_same_bytes_as_alone(everyone: Members, owners: str, two_phases: bool) -> None:
    outcomes = everyone.merge(owners, rounds=3, two_phases=two_phases, several_messages=two_phases)
    for outcome in outcomes:
        assert outcome[0] == "returned", outcome
        for round, result in enumerate(outcome[1]):
            assert result["exchanged"] == 1
            assert result["unmodified"], "nodes are only read"
            assert not result["flag"]
            assert result.items() >= told(alone(len(owners), round=round)).items()


def test_packed_two_phases_give_the_same(everyone: Members) -> None:
    for outcome in everyone.merge("0011122", rounds=2, two_phases=True):
        assert outcome[1][1].items() >= told(alone(7, round=1)).items()


def test_a_new_layout_is_agreed_on_when_all_have_it(everyone: Members) -> None:
    for outcome in everyone.merge("0011", rounds=4, kinds=("plain", "tiny", "plain", "plain")):
        assert outcome[0] == "returned", outcome
        assert outcome[1][1].items() >= told(alone(4, "tiny", round=1)).items()
        assert outcome[1][3].items() >= told(alone(4, round=3)).items()


@pytest.mark.parametrize("first", [0, 1], ids=["at once", "later"])
def test_differing_layouts_raise_on_every_member(everyone: Members, first: int) -> None:
    kinds = [("plain",), ("plain",) * first + ("other",), ("plain",)]
    outcomes = everyone.merge("0112", rounds=2, kinds=kinds)
    assert len({outcome[2] for outcome in outcomes}) == 1
    for outcome in outcomes:
        assert outcome[:2] == ("raised", "ContractError")
        assert "sub-task 1 has 'log accuracy  # train.py:1', sub-task 0 has not" in outcome[2]


def test_differing_integer_buffers_raise_on_every_member(everyone: Members) -> None:
    for outcome in everyone.merge("0011", exact=[SAME, ELSE]):
        assert outcome[:2] == ("raised", "ContractError")
        assert "integer buffer" in outcome[2]


# what is compared, and what two members show of it: rank 0 as the one that owns the sub-task, rank 1 as the one that computes it besides
UNLIKE = [(b"a" * 16, bytes(16)), (bytes(16), b"b" * 16), (bytes(16), bytes(16))]


def test_a_sub_task_with_other_bits_raises_on_every_member_and_names_the_ranks(everyone: Members) -> None:
    for outcome in everyone.merge("0012", shown=UNLIKE):
        assert outcome[:2] == ("raised", "UnlikeSubTaskError")
        assert "sub-task 0 of step 0 was computed on two trainers (ranks 0 and 1 of 3)" in outcome[2]


@pytest.mark.parametrize("first", [UNLIKE[0][::-1], (b"b" * 16, b"c" * 16)], ids=["not shown", "the same"])
def test_what_is_shown_alike_or_by_one_alone_is_no_difference(everyone: Members, first: tuple[bytes, bytes]) -> None:
    for outcome in everyone.merge("0012", shown=[first, *UNLIKE[1:]]):
        assert outcome[0] == "returned", outcome


def test_members_that_log_other_names_are_told_which_though_a_sub_task_differs_too(everyone: Members) -> None:
    for outcome in everyone.merge("0112", kinds=[("plain",), ("other",), ("plain",)], shown=UNLIKE):
        assert outcome[:2] == ("raised", "ContractError")
        assert "'log accuracy  # train.py:1'" in outcome[2]


def test_drift_raises_on_every_member_and_names_the_ranks(everyone: Members) -> None:
    for outcome in everyone.merge("0012", drift=[bytes(16), b"x" * 16, bytes(16)]):
        assert outcome[:2] == ("raised", "DriftedRanksError")
        assert "rank 1 of 3" in outcome[2]


def test_drift_names_what_differs_on_every_member(everyone: Members) -> None:
    """A buffer may have been written by a sub-task meanwhile: it is named only if there is nothing else."""

    def table(weight: bytes, mean: bytes) -> StateTable:
        return StateTable(digests={"model.weight": weight, "model.bias": b"1"}, buffers={"model.mean": mean})

    drift = [bytes(16), bytes(16), b"x" * 16]
    for tables, named, others in [
        ([table(b"1", b"1"), table(b"1", b"2"), table(b"2", b"3")], "It is in: model.weight.", ["mean", "bias"]),
        ([table(b"1", b"1"), table(b"1", b"1"), table(b"1", b"2")], "It is in: model.mean.", ["weight", "bias"]),
    ]:
        for outcome in everyone.merge("0012", drift=drift, table=tables):
            assert outcome[:2] == ("raised", "DriftedRanksError")
            assert named in outcome[2]
            assert not any(other in outcome[2] for other in others)


def test_a_flag_of_one_is_seen_by_all_in_the_same_round(everyone: Members) -> None:
    for outcome in everyone.merge("0012", rounds=3, flags=[(), (1,), ()]):
        assert [result["flag"] for result in outcome[1]] == [False, True, False]


@pytest.mark.parametrize("two_phases", [False, True], ids=["one-phase", "two-phases"])
@pytest.mark.parametrize("point", ["exchange", "gather"])
def test_a_killed_peer_surfaces_in_every_survivor(
    everyone: Members, tmp_path: Path, point: str, two_phases: bool
) -> None:
    fired = tmp_path / "fired"
    fields = {
        "owners": "0012",
        "rounds": 3,
        "two_phases": two_phases,
        "faults": (f"KILL@{point}:t2:1",),
        "fired_file": str(fired),
    }
    survivors = everyone.start(["merge"] * 3, [fields] * 3)[:2]
    for survivor in survivors:
        assert survivor.hear()[:2] == ("raised", "GroupClosedError")
    assert fired.read_text().startswith(f"SIGKILL@{point}:t2:1 ")


def test_close_wakes_a_member_that_waits_for_a_stopped_peer(everyone: Members, tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    fields = {"owners": "0012", "rounds": 2, "faults": ("STOP@exchange:t1:1",), "fired_file": str(fired)}
    waiting, stopped, other = everyone.start(["merge"] * 3, [fields] * 3)
    pid = _pid_in(fired)
    try:
        waiting.close()
        kind, error, _, waking_s = waiting.hear()
        assert (kind, error) == ("raised", "GroupClosedError")
        assert waking_s < 5
        assert other.hear()[:2] == ("raised", "GroupClosedError"), "its peer left"
    finally:
        os.kill(pid, signal.SIGKILL)
    assert stopped.process.pid == pid


def test_close_wakes_a_member_that_waits_for_a_live_peer(everyone: Members) -> None:
    waiting, _ = everyone.start(["merge", "sit"], [{"owners": "01"}] * 2)
    waiting.hear(lambda heard: heard == ("said", "formed"))
    waiting.close()
    assert waiting.hear()[:2] == ("raised", "GroupClosedError")


def test_a_peer_that_leaves_surfaces_without_a_close_here(everyone: Members) -> None:
    waiting, leaver = everyone.start(["merge", "sit"], [{"owners": "01"}] * 2)
    leaver.hear(lambda heard: heard == ("said", "formed"))
    leaver.close()
    assert waiting.hear()[:2] == ("raised", "GroupClosedError")


def _pid_in(fired: Path) -> int:
    deadline = time.monotonic() + 90
    while not (fired.exists() and "pid=" in fired.read_text()):
        assert time.monotonic() < deadline, "the fault did not fire"
        time.sleep(0.01)
    return int(fired.read_text().rpartition("pid=")[2])


@given(one=st.lists(st.booleans(), min_size=3, max_size=3), other=st.lists(st.booleans(), min_size=3, max_size=3))
def test_signals_join_one_by_one_and_travel_as_a_byte(one: list[bool], other: list[bool]) -> None:
    joined = Signals(*one) | Signals(*other)
    assert joined == Signals(*(a or b for a, b in zip(one, other, strict=True)))
    assert Signals.unpack(bytes([joined.pack()])[0]) == joined
