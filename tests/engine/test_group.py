"""Groups close at any moment, wake who waits, leave nothing behind, and touch no connection but their own."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from surefoot_actors.engine.group.group import Group, GroupClosedError, RendezvousHost
from surefoot_actors.engine.group.wire import Message

_LIMIT_S = 180


@pytest.fixture
def host() -> Iterator[RendezvousHost]:
    opened = RendezvousHost()
    yield opened
    opened.close()


def _groups(host: RendezvousHost, name: str, size: int = 2) -> list[Group]:
    return [Group(store=host.address, name=name, rank=rank, size=size) for rank in range(size)]


class _Waiter(threading.Thread):
    """Forms a group, then waits for a message that does not come; keeps the error."""

    def __init__(self, group: Group) -> None:
        super().__init__(daemon=True)
        self.group, self.formed, self.error = group, threading.Event(), ""
        self.start()

    def run(self) -> None:
        try:
            self.group.form()
            posted = self.group.post([], [Message(torch.empty(8), 1 - self.group.rank, 0)])
            self.formed.set()
            posted.wait()
        except GroupClosedError as error:
            self.error = str(error)

    def ended(self) -> str:
        self.join(_LIMIT_S)
        assert not self.is_alive(), "a waiter hangs"
        return self.error


def _form(groups: list[Group]) -> None:
    threads = [threading.Thread(target=group.form) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LIMIT_S)


def _open() -> tuple[int, int]:
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def test_fifty_groups_with_blocked_waiters_leave_no_thread_and_no_file(host: RendezvousHost) -> None:
    before = _open()
    for i in range(50):
        waiters = [_Waiter(group) for group in _groups(host, f"g{i}")]
        assert all(waiter.formed.wait(_LIMIT_S) for waiter in waiters)
        for waiter in waiters:
            waiter.group.close()
        assert all(waiter.ended() for waiter in waiters)
    del waiters, waiter
    gc.collect()
    deadline = time.monotonic() + _LIMIT_S
    while _open() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _open() <= before


def test_close_wakes_a_member_whose_peers_have_not_come(host: RendezvousHost) -> None:
    waiter = _Waiter(Group(store=host.address, name="lonely", rank=0, size=2))
    waiter.group.close("the generation is over")
    assert waiter.ended() == "the generation is over"


def test_close_before_form_and_twice(host: RendezvousHost) -> None:
    group = Group(store=host.address, name="early", rank=0, size=2)
    group.close()
    group.close()
    with pytest.raises(GroupClosedError):
        group.form()
    with pytest.raises(GroupClosedError):
        group.post([], [])


def test_a_lost_store_ends_the_forming() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with pytest.raises(GroupClosedError, match="could not be formed"):
        Group(store=address, name="nobody", rank=0, size=2).form()


def test_closing_touches_no_connection_but_its_own(host: RendezvousHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        mine = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    first, second = _groups(host, "first"), _groups(host, "second")
    _form(first + second)
    for group in first:
        group.close()
    with mine, theirs:
        mine.sendall(b"alive")
        assert theirs.recv(5) == b"alive"
    got = torch.zeros(3)
    receiving = second[1].post([], [Message(got, 0, 7)])
    second[0].post([Message(torch.ones(3), 1, 7)], []).wait()
    receiving.wait()
    assert got.tolist() == [1, 1, 1]
    for group in second:
        group.close()


def test_waits_may_be_repeated(host: RendezvousHost) -> None:
    groups = _groups(host, "repeated")
    _form(groups)
    got = torch.zeros(3)
    receiving = groups[1].post([], [Message(got, 0, 1)])
    groups[0].post([Message(torch.ones(3), 1, 1)], []).wait()
    receiving.wait_received()
    receiving.wait()
    receiving.wait()
    for group in groups:
        group.close()


def test_scratch_is_kept_until_its_size_changes(host: RendezvousHost) -> None:
    group = Group(store=host.address, name="scratch", rank=0, size=1)
    first = group.scratch("a", 4, torch.float32)
    assert group.scratch("a", 4, torch.float32) is first
    assert group.scratch("a", 5, torch.float32).numel() == 5
