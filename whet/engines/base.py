"""Whatever answers is an Engine: messages in, text out."""

from collections.abc import Sequence
from typing import Protocol

from whet.records import Completion, Request


class Engine(Protocol):
    """Answers requests. A failure is a Completion whose `finish` is "error", never an exception that loses the others."""

    name: str

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order."""
        ...

    def rank(self, request: Request) -> list[float]:
        """For each of the request's choices the log-likelihood of that reply, in nats, its end of turn left out."""
        ...
