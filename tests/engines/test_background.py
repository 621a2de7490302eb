"""Work in the background: it is done, it is ended where it waits, and the thread goes with it."""

import asyncio
import gc
import threading
import time

import pytest

from whet.engines.background import Background, end


def threads() -> int:
    return sum(thread.name == "whet-requests" for thread in threading.enumerate())


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_work_is_done_and_its_faults_are_raised() -> None:
    background = Background()
    assert background.do(double(3)) == 6

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        background.do(fail())
    background.close()
    background.close()
    assert threads() == 0


def test_cancelled_work_ends_where_it_waits() -> None:
    background, ended = Background(), []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    futures = [background.start(wait()) for _ in range(3)]
    time.sleep(0.02)
    end(*futures)
    background.do(double(1))
    assert ended == [1, 1, 1]
    background.start(wait())
    background.do(double(1))
    background.close()
    assert len(ended) == 4


def test_the_thread_goes_with_its_owner() -> None:
    background = Background()
    assert threads() == 1
    del background
    gc.collect()
    assert threads() == 0
