"""The pace of a connection: requests and tokens a minute, what was spent, and servers that are gone."""

import asyncio
import dataclasses
import time

import pytest
from fake_server import FakeServer, Reply, chat
from wires import send, wire

from whet.engines.wire import RefusedError


def test_requests_are_spread_over_the_minute() -> None:
    with FakeServer(lambda seen: chat("[]")) as server:
        to = wire(server.url, requests_per_minute=3000)
        began = time.monotonic()
        send(to, *["chat/completions"] * 6)
    assert time.monotonic() - began >= 5 * 0.02
    assert 0 < to.usage.waited_s < 0.02 * 15 + 0.1


def test_tokens_are_spread_over_the_minute_as_the_server_counts_them() -> None:
    to = wire("http://127.0.0.1:1", tokens_per_minute=60_000)
    to._tokens.take(0.0, 5000)
    to.count((100, 400), 5000)
    assert to._tokens.soonest(0.0) == pytest.approx(0.5)


def test_what_was_used_is_counted_and_priced() -> None:
    to = wire("http://127.0.0.1:1", prompt_price=2.0, completion_price=10.0)
    to.count((1000, 100), 0)
    to.count((500, 0), 0)
    to.count(None, 0)
    assert dataclasses.asdict(to.usage) | {"cost": 0.004} == dataclasses.asdict(to.usage)
    assert (to.usage.prompt_tokens, to.usage.completion_tokens, to.usage.uncounted) == (1500, 100, 1)
    assert to.usage.say() == "0 requests, 1500 + 100 tokens, 1 replies without counts, cost 0.004"


def test_nothing_is_sent_once_the_money_is_spent() -> None:
    with FakeServer(lambda seen: chat("[]")) as server:
        to = wire(server.url, prompt_price=1e6, max_cost=7.0)
        to.count((7, 0), 0)
        (error,) = send(to, "chat/completions")
    assert "not sent: 7 is spent, engine.max_cost is 7" in str(error)
    assert server.seen == []


def test_a_server_that_is_gone_is_not_asked_again_and_again() -> None:
    with FakeServer(lambda seen: Reply(b"", 500)) as server:
        to = wire(server.url, retries=3, concurrency=1)

        async def go() -> None:
            for _ in range(6):
                with pytest.raises(RefusedError):
                    await to.send("chat/completions", {})
            assert to.usage.requests == 4 + 4 + 1 * 4
            await to.close()

        asyncio.run(go())
