"""An engine that answers from a script: the double for tests, and for trying a pipeline without a model."""

from collections.abc import Callable, Sequence

from whet.records import Completion, Request


class ScriptedEngine:
    """Answers with what a function says of a request; a function that raises gives an error completion."""

    def __init__(self, name: str, reply: Callable[[Request], str]) -> None:
        self.name = name
        self._reply = reply

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        completions = []
        for request in requests:
            try:
                text = self._reply(request)
            except Exception as error:  # the script stands for any provider, and any of its faults is an error
                completions.append(Completion("", "error", error=f"{type(error).__name__}: {error}"))
                continue
            completions.append(Completion(text, "stop", num_tokens=len(text)))
        return completions

    def rank(self, request: Request) -> list[float]:
        said = self._reply(request)
        return [0.0 if choice == said else -1.0 for choice in request.choices]
