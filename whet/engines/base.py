"""Whatever answers is an Engine: messages in, text out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from whet.records import Completion, Request


class Engine(Protocol):
    """Answers requests. A failure is a Completion whose `finish` is "error", never an exception that loses the others."""

    name: str

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order."""
        ...

    def answer_each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        """Number and completion of each request, as they get ready. Requests are taken as there is room for them."""
        ...

    def rank(self, request: Request) -> list[float]:
        """For each of the request's choices the log-likelihood of that reply, in nats, its end of turn left out."""
        ...
