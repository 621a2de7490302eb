"""Connections for the tests: quick to try again, and a way to send several requests at a time."""

import asyncio
import random
from typing import Any

from whet.engines.wire import Wire, WireSettings

KEY = "sk-very/secret+key=0123456789"
FAST = {"backoff_s": 0.002, "timeout_s": 2.0}


def wire(url: str, **more: Any) -> Wire:
    return Wire(WireSettings(url=url, **(FAST | more)), random.Random(0))


def send(to: Wire, *paths: str, body: Any = None, num_tokens: int = 0) -> list[Any]:
    """What each request gives, an exception included; all at a time."""

    async def go() -> list[Any]:
        try:
            sent = (to.send(path, {"messages": []} if body is None else body, num_tokens) for path in paths)
            return await asyncio.gather(*sent, return_exceptions=True)
        finally:
            await to.close()

    return asyncio.run(go())
