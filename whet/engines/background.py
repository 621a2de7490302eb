"""A loop of asyncio in a thread of its own, so that plain code can keep many requests in flight."""

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
STOP_S = 5.0  # how long work that was cancelled may take to end


class Background:
    """Runs coroutines while the caller does something else; ends with the object, or with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="whet-requests", daemon=True)
        self._thread.start()
        self.close = weakref.finalize(self, _stop, self._loop, self._thread)
        """End all work and the thread; safe to call twice."""

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin some work; cancelling its future ends it where it waits."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work and wait for it; Ctrl-C ends it."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            end(future)
            raise


def end(*futures: concurrent.futures.Future[Any]) -> None:
    """Cancel work and wait until it is over."""
    for future in futures:
        future.cancel()
    concurrent.futures.wait(futures, STOP_S)


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    async def cancel_all() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    if loop.is_closed():
        return
    asyncio.run_coroutine_threadsafe(cancel_all(), loop).result(STOP_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(STOP_S)
    if not thread.is_alive():
        loop.close()
