"""An engine that answers from a script: the double for tests, and for trying a pipeline without a model."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from whet.records import Completion, Request


class ScriptedEngine:
    """Answers with what a function says of a request, a text or a whole completion; one that raises gives an error completion."""

    def __init__(self, name: str, reply: Callable[[Request], str | Completion]) -> None:
        self.name = name
        self._reply = reply

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._complete(request) for request in requests]

    def answer_each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        for number, request in enumerate(requests):
            yield number, self._complete(request)

    def rank(self, request: Request) -> list[float]:
        said = self._reply(request)
        text = said if isinstance(said, str) else said.text
        return [0.0 if choice == text else -1.0 for choice in request.choices]

    def _complete(self, request: Request) -> Completion:
        try:
            said = self._reply(request)
        except Exception as error:  # the script stands for any provider, and any of its faults is an error
            return Completion("", "error", error=f"{type(error).__name__}: {error}")
        return said if isinstance(said, Completion) else Completion(said, "stop", num_tokens=len(said))
