"""Constrained decoding: which ids may come next in a reply, which must, and how it is closed within its budget."""

import functools
import importlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError, MissingExtraError, counted
from whet.records import Constraint
from whet.text.chat import Chat
from whet.text.closing import Closer, Vocabulary
from whet.text.forcing import CONTEXTS, Forcer
from whet.text.shape import Shape, State
from whet.text.tokenizer import Tokenizer

Mask = NDArray[np.int32]


class Constrainer:
    """Makes guides for one tokenizer and its end-of-turn id. Built once: that takes a second for 150,000 ids.

    `lead` and `tail` are the white space that the chat template writes before a reply and between it and the end of turn.
    """

    def __init__(self, tokenizer: Tokenizer, end_id: int, lead: str = "", tail: str = "") -> None:
        try:
            importlib.import_module("regex")  # sources need it
            from llguidance import LLParserLimits, LLTokenizer
        except ImportError as error:
            raise MissingExtraError(str(error.name), "constrain", "keeping replies to a grammar") from None
        pieces = tokenizer.token_bytes()
        pieces[end_id] = None
        self.tokenizer, self.end_id, self.lead, self.tail = tokenizer, end_id, lead, tail
        self.vocabulary = Vocabulary(pieces)
        self.forcer = Forcer(tokenizer, self.vocabulary)
        self.num_words = -(-len(pieces) // 32)
        bytes_of_ids: Any = _Bytes(pieces, end_id)
        self.automata: Any = LLTokenizer(bytes_of_ids)
        # By default the library gives up on sources of a few thousand characters.
        self.limits: Any = LLParserLimits(
            initial_lexer_fuel=1_000_000_000,
            step_lexer_fuel=1_000_000_000,
            step_max_items=10_000_000,
            max_lexer_states=50_000_000,
            max_grammar_size=50_000_000,
        )

    @classmethod
    def of_chat(cls, chat: Chat) -> Self:
        """The constrainer of a model's chat format."""
        mark = next(name for name, number in chat.tokenizer.special_tokens().items() if number == chat.end_id)
        return cls(chat.tokenizer, chat.end_id, chat.lead, chat.end_of_turn.removesuffix(mark))

    def guide(self, constraint: Constraint) -> "ReplyGuide":
        """A guide at the start of a reply. InputError where a name or a choice can't be written, or the source is too long."""
        return ReplyGuide(self, Shape(constraint, self.lead, self.tail))


class _Bytes:
    """The vocabulary as llguidance takes it. The grammar forces nothing, so it is never asked to encode a text."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, pieces: Sequence[bytes | None], end_id: int) -> None:
        self.eos_token_id = end_id
        self.special_token_ids = [number for number, piece in enumerate(pieces) if piece is None]
        self.tokens = [f"<{number}>".encode() if piece is None else piece for number, piece in enumerate(pieces)]

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError


class ReplyGuide:
    """One reply as it is written (whet.backends.base.Guide says what each call means).

    The library's grammar is written out of the shape, so both allow the same. Should the library fail on a source all the
    same, the reply is closed at once and counts as cut.
    """

    def __init__(self, constrainer: Constrainer, shape: Shape) -> None:
        from llguidance import LLMatcher

        self.is_ended = False
        self.num_own: int | None = None
        self.num_words = constrainer.num_words
        self.matcher: Any = LLMatcher(constrainer.automata, shape.grammar(), log_level=0, limits=constrainer.limits)
        if self.matcher.is_error():
            what = self.matcher.get_error().splitlines()[0]
            raise InputError("", f"no grammar can be made of the source ({what})", "Take smaller chunks")
        self._shape, self._vocabulary, self._forcer = shape, constrainer.vocabulary, constrainer.forcer
        self._closer, self._end_id = Closer(shape, constrainer.vocabulary), constrainer.end_id
        self._state, self._ids = shape.start, list[int]()
        self._cuts: dict[tuple[bytes, State], tuple[int, ...]] = {}
        self._is_failed = False

    def begin(self, left: int) -> tuple[int, ...]:
        if not self._closer.fits(self._state, left):
            needed = len(self._closer.ids(self._state)) + 1
            what = f"a reply of {counted(left, 'token')} can't even hold an empty list, which takes {needed}"
            raise InputError("task.max_tokens", what, f"Set it to {needed} or more")
        return self._go_on((), self._state, left)

    def mask(self) -> Mask:
        row_W = np.zeros(self.num_words, np.int32)
        self.mask_into(row_W)
        return row_W

    def mask_into(self, row_W: Mask) -> None:
        """Write the mask into a contiguous row; words beyond the vocabulary's are set to 0."""
        if self.is_open:
            row_W[self.num_words :] = 0
            self.matcher.unsafe_compute_mask_ptr(row_W.ctypes.data, self.num_words * 4)
        self.mend(row_W)

    @property
    def is_open(self) -> bool:
        """Whether the library says what may come next."""
        return not (self.is_ended or self._is_failed)

    def mend(self, row_W: Mask) -> None:
        """Where the library failed, allow nothing but the id with which closing begins; where the reply is ended, nothing."""
        self._is_failed = self._is_failed or self.matcher.is_error()
        if self.is_ended or self._is_failed:
            row_W[:] = 0
        if self._is_failed and not self.is_ended:
            first = (*self._closer.ids(self._state), self._end_id)[0]
            row_W.view(np.uint32)[first // 32] = 1 << first % 32

    def take(self, token: int, left: int) -> tuple[int, ...]:
        piece = self._vocabulary.pieces[token]
        state = self._shape.step(self._state, piece) if piece else None
        if state is None and not self._is_failed:
            raise ValueError(f"id {token} may not come next")
        if state is None or self._is_failed or not self._closer.fits(state, left - 1):
            self.num_own, self.is_ended = len(self._ids), True
            return (*self._closer.ids(self._state), self._end_id)
        return self._go_on((token,), state, left)

    def _go_on(self, ids: tuple[int, ...], state: State, left: int) -> tuple[int, ...]:
        """Take ids that lead to a state, and those that must follow, where the reply can be closed behind them too."""
        text, behind = self._shape.forced(state)
        forced = self._forced(ids, text, behind) if text else ()
        if forced:
            reached = self._shape.step(state, b"".join(self._vocabulary.pieces[number] or b"" for number in forced))
            if reached is not None and self._closer.fits(reached, left - len(ids) - len(forced)):
                ids, state = (*ids, *forced), reached
        self._state = state
        self._ids += ids
        self._is_failed = self._is_failed or not self.matcher.consume_tokens(list(ids))
        self.is_ended = state[0] is self._shape.end
        return (*ids, self._end_id) if self.is_ended else ids

    def _forced(self, ids: tuple[int, ...], text: bytes, behind: State) -> tuple[int, ...]:
        """The first ids of a text that must follow these."""
        if (text, behind) not in self._cuts:
            cuts = self._forcer.cuts(text, lambda rest: self._shape.step(behind, rest) is not None)
            self._cuts[text, behind] = cuts
        return self._forcer.ids((*self._ids[-max(CONTEXTS) :], *ids), text, self._cuts[text, behind])


def fill_masks(guides: Sequence[ReplyGuide], out_BW: Mask) -> None:
    """Write each guide's mask into its row of `out_BW`: on several cores where the rows are as long as the masks."""
    words = out_BW.shape[1]
    is_plain = out_BW.flags.c_contiguous and all(guide.num_words == words for guide in guides)
    together = [(guide.matcher, row) for row, guide in enumerate(guides) if guide.is_open] if is_plain else []
    if together:
        _executor().unsafe_compute_mask_ptr(together, out_BW.ctypes.data, words * 4, len(out_BW))
    for guide, row_W in zip(guides, out_BW, strict=True):
        guide.mend(row_W) if is_plain else guide.mask_into(row_W)


@functools.cache
def _executor() -> Any:
    from llguidance import LLExecutor

    return LLExecutor()
