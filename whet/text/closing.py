"""How a reply is closed in few ids, from whatever state it is in."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

from whet.text.shape import Branch, FreeText, Node, Shape, SpanText, State

LONGEST = 24  # bytes of the longest id that is tried
PLACES = 64  # places of the source that an unfinished piece is looked up at
TRIED = 256  # bytes of what would end it, from the nearest end on, that are looked up as ids


@dataclass(frozen=True, slots=True)
class Path:
    """Bytes to be written, and for each place in them, and their end, the fewest ids that write the rest."""

    text: bytes
    costs: list[int]

    @property
    def cost(self) -> int:
        return self.costs[0]


NOTHING = Path(b"", [0])


class Vocabulary:
    """The ids that write text, by their bytes. Every byte that text may hold has an id of its own."""

    def __init__(self, pieces: Sequence[bytes | None]) -> None:
        self.pieces = pieces
        self.ids: dict[bytes, int] = {}
        for number, piece in enumerate(pieces):
            if piece:
                self.ids.setdefault(piece, number)

    def before(self, head: bytes, path: Path) -> Path:
        """The path that writes `head` and then what another path writes; an id may reach from one into the other."""
        text = head + path.text
        costs = [0] * len(head) + path.costs
        for at in reversed(range(len(head))):
            ends = range(at + 1, min(at + LONGEST, len(text)) + 1)
            costs[at] = 1 + min(costs[end] for end in ends if text[at:end] in self.ids)
        return Path(text, costs)

    def write(self, path: Path) -> tuple[int, ...]:
        """The ids of a path, the longest first where several are equally good."""
        ids, at = [], 0
        while at < len(path.text):
            ends = range(min(at + LONGEST, len(path.text)), at, -1)
            end = next(end for end in ends if path.costs[end] == path.costs[at] - 1 and path.text[at:end] in self.ids)
            ids.append(self.ids[path.text[at:end]])
            at = end
        return tuple(ids)


class Closer:
    """Closes the replies of one shape: a value that may be null is null, any other the cheapest of those that are soon whole.

    The values are chosen one by one from the end; the text that they make is then written in the fewest ids.
    """

    def __init__(self, shape: Shape, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        end: State = (shape.end, shape.end.start)
        self._paths: dict[State, Path] = {end: NOTHING}
        self._sizes: dict[State, int | None] = {end: 0}

    def fits(self, state: State, left: int) -> bool:
        """Whether a reply in this state can be closed within so many ids, the end id included."""
        size = self._size(state)
        # Written byte by byte it mostly fits by far, and nothing need be looked up.
        return size is not None and (size < left or self._path(state).cost < left)

    def ids(self, state: State) -> tuple[int, ...]:
        """The ids that close a reply in this state, without the end id."""
        return self._vocabulary.write(self._path(state))

    def _ways(self, branch: Branch, done: bytes) -> list[tuple[bytes, Node]]:
        """The texts by which a branch may be left when closing, and what follows them."""
        if branch.preferred is not None and branch.preferred.startswith(done):
            return [(branch.preferred[len(done) :], branch.options[branch.preferred])]
        return branch.rests(done)

    def _size(self, state: State) -> int | None:
        """Bytes of a way to close, never fewer than the ids of the shortest; None where there is none."""
        node, inside = state
        if state in self._sizes:
            return self._sizes[state]
        if isinstance(node, Branch):
            sizes = [(len(rest), self._size((follower, follower.start))) for rest, follower in self._ways(node, inside)]
            self._sizes[state] = min((size + behind for size, behind in sizes if behind is not None), default=None)
            return self._sizes[state]
        size = 0 if node.is_closable(inside) else min(map(len, islice(node.completions(inside), PLACES)), default=None)
        behind = self._size((node.after, node.after.start))
        found = None if size is None or behind is None else size + behind
        if inside == node.start:
            self._sizes[state] = found
        return found

    def _path(self, state: State) -> Path:
        node, inside = state
        if state in self._paths:
            return self._paths[state]
        if isinstance(node, Branch):
            ways = [(rest, self._path((follower, follower.start))) for rest, follower in self._ways(node, inside)]
            path = min((self._vocabulary.before(*way) for way in ways), key=_effort)
        else:
            path = self._from_text(node, inside)
        if isinstance(node, Branch) or inside == node.start:
            self._paths[state] = path
        return path

    def _from_text(self, text: SpanText | FreeText, inside: Any) -> Path:
        behind = self._path((text.after, text.after.start))
        if text.is_closable(inside):
            return behind
        completions = sorted(set(islice(text.completions(inside), PLACES)), key=lambda rest: (len(rest), rest))
        num_tried = max(1, sum(size <= TRIED for size in accumulate(map(len, completions))))
        return min((self._vocabulary.before(rest, behind) for rest in completions[:num_tried]), key=_effort)


def _effort(path: Path) -> tuple[int, int]:
    return path.cost, len(path.text)
