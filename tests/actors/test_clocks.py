"""The clocks of the membership machine's timers."""

from __future__ import annotations

import asyncio

from surefoot_actors.protocol.membership.machine import Timer, TimerFired
from surefoot_actors.supervisor.clocks import Clocks


async def next_of(queue: asyncio.Queue[TimerFired]) -> TimerFired:
    async with asyncio.timeout(60):
        return await queue.get()


async def test_a_timer_fires_once() -> None:
    fired: asyncio.Queue[TimerFired] = asyncio.Queue()
    clocks = Clocks(fired.put_nowait)
    clocks.set(Timer.PATIENCE, 0.0)
    event = await next_of(fired)
    assert event == TimerFired(Timer.PATIENCE)
    assert clocks.takes(event)
    assert not clocks.takes(event)


async def test_what_is_cancelled_or_set_anew_before_it_is_handled_has_not_fired() -> None:
    fired: asyncio.Queue[TimerFired] = asyncio.Queue()
    clocks = Clocks(fired.put_nowait)
    clocks.set(Timer.PATIENCE, 0.0)
    event = await next_of(fired)
    clocks.cancel(Timer.PATIENCE)
    assert not clocks.takes(event)
    clocks.set(Timer.PATIENCE, 0.0)
    event = await next_of(fired)
    clocks.set(Timer.PATIENCE, 3600.0)
    assert not clocks.takes(event)
    clocks.close()


async def test_one_timer_does_not_stand_for_another() -> None:
    fired: asyncio.Queue[TimerFired] = asyncio.Queue()
    clocks = Clocks(fired.put_nowait)
    clocks.set(Timer.START_GRACE, 3600.0)
    clocks.set(Timer.PATIENCE, 0.0)
    assert await next_of(fired) == TimerFired(Timer.PATIENCE)
    assert not clocks.takes(TimerFired(Timer.START_GRACE))
    clocks.close()
