"""The ends of a Ray Data pipeline: the feed that it reads batches of requests from, and the actors that answer them."""

import asyncio
import copy
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import ray
import ray.exceptions
from ray.data import Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

REQUESTS, ANSWERS, NUMBER = "requests", "answers", "number"
SECONDS_TO_ANSWER = 60.0  # for the feed, which only ever waits
LOST = (ray.exceptions.RayError, ConnectionError)  # what calls raise where Ray or a part of it is gone
MAX_DEATHS = 3
"""Actors that a request may cost, its first batch's included; then it is an error."""
Answer = Callable[[str], str]
"""A batch of requests as JSON to their completions as JSON."""


class Feed:
    """Batches by their numbers, each kept until it is answered: whoever reads again, reads the same.

    It also knows what was begun and not ended, so that what kills its actor is not tried for ever: Ray starts it anew each time.
    """

    def __init__(self, num_actors: int) -> None:
        self._most_unopened = num_actors + MAX_DEATHS - 1
        self._num_unopened = 0
        self._batches: dict[int, str] = {}
        self._num: int | None = None
        self._actors: list[Any] = []
        self._is_ended = False
        self._begun: Counter[tuple[int, ...]] = Counter()
        self._parts: dict[tuple[int, int], str] = {}
        self._news = asyncio.Condition()

    async def outlive(self) -> None:
        """Never answered: whoever asks hears of the feed's death."""
        await asyncio.Event().wait()

    async def put(self, number: int, batch: str) -> None:
        async with self._news:
            self._batches[number] = batch
            self._news.notify_all()

    async def forget(self, number: int) -> None:
        """A batch is answered: a source that is started anew need not hand it out again."""
        self._batches[number] = ""
        self._begun = Counter({key: times for key, times in self._begun.items() if key[0] != number})
        self._parts = {key: answer for key, answer in self._parts.items() if key[0] != number}

    async def open(self, actor: Any) -> bool:
        """An actor is about to open its engine; gives whether it shall, or too many before it died in doing so."""
        if self._is_ended:
            raise RuntimeError("the pipeline has ended")  # in the actor's constructor: the actor ends with it
        self._actors.append(actor)
        self._num_unopened += 1
        return self._num_unopened <= self._most_unopened

    async def opened(self) -> None:
        """An actor has opened its engine."""
        self._num_unopened = 0

    async def begin(self, number: int) -> int:
        """An actor begins with a batch; gives how often that was done."""
        self._begun[number,] += 1
        return self._begun[number,]

    async def begin_part(self, number: int, at: int) -> tuple[int, str]:
        """An actor begins with one request of a batch; gives how often that was done, and the answer if there is one."""
        if (number, at) not in self._parts:
            self._begun[number, at] += 1
        return self._begun[number, at], self._parts.get((number, at), "")

    async def end_part(self, number: int, at: int, answer: str) -> None:
        """One request of a batch is answered."""
        self._parts[number, at] = answer

    async def close(self, num: int) -> None:
        """There are so many batches and no more."""
        async with self._news:
            self._num = num
            self._news.notify_all()

    async def get(self, number: int) -> str | None:
        """A batch, once it is there; empty if it is answered, None behind the last."""
        async with self._news:
            await self._news.wait_for(lambda: number in self._batches or (self._num is not None and number >= self._num))
            return self._batches.get(number)

    async def end(self) -> list[Any]:
        """Nobody is let in from now on; gives whoever was."""
        self._is_ended = True
        return self._actors


def open_feed(num_actors: int) -> Any:
    """A feed in a process of its own, so that every machine can ask it."""
    return ray.remote(num_cpus=0)(Feed).remote(num_actors)


def close_feed(feed: Any) -> list[Any]:
    """End the feed, and with it the pipeline that reads it. Gives the actors that the pipeline has, for end_actors."""
    actors: list[Any] = []
    with suppress(*LOST):  # it died on its own, or all of Ray did
        actors = list(ray.get(feed.end.remote(), timeout=SECONDS_TO_ANSWER))
    end_actors([feed])
    return actors


def end_actors(actors: list[Any]) -> None:
    """End what an ended pipeline leaves. Ray waits until nothing refers to them, and no other pipeline has their CPUs before."""
    for actor in actors:
        with suppress(*LOST):
            ray.kill(actor)


class FeedSource(Datasource):  # type: ignore[misc]
    """One read task that hands out batches as they come. Run again, it gives the same blocks in the same order."""

    def __init__(self, feed: Any) -> None:
        super().__init__()
        self._feed = feed

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        feed = self._feed

        def read() -> Iterator[pa.Table]:
            number = 0
            while (batch := ray.get(feed.get.remote(number))) is not None:
                yield pa.table({NUMBER: [number], REQUESTS: [batch]})
                number += 1

        return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]


class Answerer:
    """An actor: opens its engine once and answers batches. What it can't do is an answer too, so that nobody has to guess."""

    def __init__(self, feed: Any, open_answer: Callable[[Any], Answer], opener: Any) -> None:
        self._feed = feed
        self._answer: Answer | None = None
        self._fault = ""
        if not ray.get(feed.open.remote(ray.get_runtime_context().current_actor)):
            self._fault = "actor after actor died in doing so; they may lack memory"
            return
        threading.Thread(target=self._end_with_the_feed, daemon=True).start()
        try:
            self._answer = open_answer(opener)
            ray.get(feed.opened.remote())
        except Exception as error:  # any fault of opening: the driver says it and ends
            self._fault = str(error) or type(error).__name__

    def _end_with_the_feed(self) -> None:
        """Without its feed nobody knows of this actor, and it would keep its CPUs. What Ray starts in its place finds no feed."""
        with suppress(*LOST):
            ray.get(self._feed.outlive.remote())
        os._exit(1)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        numbers = [int(number) for number in rows[NUMBER]]
        return {NUMBER: numbers, ANSWERS: list(map(self._answer_batch, numbers, rows[REQUESTS]))}

    def _answer_batch(self, number: int, batch: str) -> str:
        """The answers to a batch. One over which an actor died is answered one by one, so that no other request is lost."""
        if not self._answer or not batch:
            return json.dumps({"fault": self._fault})
        if ray.get(self._feed.begin.remote(number)) == 1:
            return self._answer(batch)
        answers = []
        for at, request in enumerate(json.loads(batch)):
            times, answer = ray.get(self._feed.begin_part.remote(number, at))
            if not answer and times >= MAX_DEATHS:
                answer = json.dumps([[request[0], {"text": "", "finish": "error", "error": f"{times} actors died over it"}]])
            elif not answer:
                answer = self._answer(json.dumps([request]))
                ray.get(self._feed.end_part.remote(number, at, answer))
            answers += json.loads(answer)
        return json.dumps(answers)


def open_pipeline(
    feed: Any, open_answer: Callable[[Any], Answer], opener: Any, num_actors: int, each: dict[str, float]
) -> Dataset:
    """Batches of the feed through actors, one batch a block, so that each goes on as soon as it is there.

    open_answer, opener: what an actor calls once, and with what. each: CPUs and GPUs of an actor. An actor that dies is started
    again, and what it had on hand is handed out again.
    """
    context = copy.deepcopy(ray.data.DataContext.get_current())
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a slow engine is no fault of the pipeline
    with ray.data.DataContext.current(context):
        read = ray.data.read_datasource(FeedSource(feed), override_num_blocks=1, num_cpus=0)
        return read.map_batches(
            Answerer,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=num_actors, max_tasks_in_flight_per_actor=2),
            fn_constructor_args=(feed, open_answer, opener),
            **each,
        )
