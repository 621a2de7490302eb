"""Decodes many sequences at once: new tokens of all stand in one packed row over shared prefixes and caches of their own."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from whet.backends.base import Ask, Generated, Pack, Segment
from whet.backends.on_torch.attention import NAME, PrefixKeys, Sight
from whet.backends.on_torch.choices import Predicted, choose
from whet.backends.on_torch.decode_cache import OwnKeys, SharedPrefix
from whet.backends.on_torch.decode_row import DecodeRow, NewTokens, decode_row, length_class
from whet.backends.on_torch.drafts import Copier, Drafts
from whet.backends.on_torch.held import Held, Spans
from whet.backends.on_torch.passes import Passes
from whet.backends.on_torch.prefixes import num_common, shared_lengths
from whet.backends.on_torch.products import Products
from whet.backends.on_torch.rows import packed_row
from whet.backends.replies import Reply, unheld

MOST_AT_ONCE = {"cpu": 64, "cuda": 256}  # sequences in flight; more bring nothing on a CPU
CACHE_BYTES = {"cpu": 1 << 30, "cuda": 4 << 30}  # of the caches of live sequences, prefixes apart
FILL_TOKENS = 2048  # prompt tokens that one pass computes, unless one prompt alone has more
PATIENCE = 8  # one in so many places is free before prompts are taken in: a pass for few costs nearly that for many
MOST_PREFIXES = 8  # that are held though no live sequence has them


@dataclass(eq=False)
class Live:
    """A reply in flight."""

    reply: Reply
    prompt: tuple[int, ...]
    prefix: SharedPrefix | None
    num_own: int = 0
    """Tokens behind the prefix whose keys are held."""
    pending: list[int] = field(default_factory=list)
    """Ids that stand and whose keys are not held yet; the last one predicts what comes next."""
    copier: Copier | None = None

    @property
    def adapter(self) -> str | None:
        return self.reply.ask.adapter

    @property
    def num_prefix(self) -> int:
        return len(self.prefix.ids) if self.prefix else 0


class Decoder:
    """Continuous batching over a model's passes. Live sequences stand in the first slots of the cache, in the order of `live`."""

    def __init__(self, passes: Passes, held: Held | None = None) -> None:
        self.passes, self.device, self.held = passes, passes.device, held
        kind = self.device.type
        self.most = MOST_AT_ONCE.get(kind, 64)
        self.most_places = max(1, CACHE_BYTES.get(kind, 1 << 30) // _bytes_of_token(passes.model))
        self.last_layer = passes.model.config.get_text_config().num_hidden_layers - 1
        self.own = OwnKeys(self.most_places)
        self.prefixes: list[SharedPrefix] = []
        self.live: list[Live] = []
        self.products = Products(passes)
        self.drafts = Drafts(kind)

    @torch.no_grad()
    def generate(self, asks: Iterable[Ask], end_ids: Collection[int]) -> Iterator[tuple[int, Generated]]:
        """Continue each ask; gives number and reply as they get ready."""
        with self.products.at_work():
            yield from self._generate(asks, end_ids)

    def _generate(self, asks: Iterable[Ask], end_ids: Collection[int]) -> Iterator[tuple[int, Generated]]:
        source: Iterator[tuple[int, Ask | None]] = enumerate(asks)
        waiting: list[Reply] = []
        self.live, is_over = [], False
        while True:
            done: list[Reply] = []
            if not self.live or self.most - len(self.live) >= max(1, self.most // PATIENCE):
                while not is_over and len(waiting) + len(self.live) < self.most:
                    number, ask = next(source, (0, None))
                    is_over = ask is None
                    if ask is not None:
                        self._check_name(ask.adapter)
                        waiting.append(Reply(number, ask, end_ids))
                done += self._admit(waiting)
            if self.live:
                done += self._step()
            yield from ((reply.number, reply.result()) for reply in done)
            if is_over and not self.live and not waiting:
                return

    def _admit(self, waiting: list[Reply]) -> list[Reply]:
        """Take in as many as there is room for. Gives those that are done without the model."""
        done: list[Reply] = []
        fresh: list[Live] = []
        longest = max((live.num_own + len(live.pending) + live.reply.left for live in self.live), default=0)
        for reply in list(waiting):
            num = len(self.live) + len(fresh)
            if num == self.most:
                break
            ask, beside = reply.ask, (*self.live[:1], *fresh[:1])
            if beside and not self._can_mix and beside[0].adapter != ask.adapter:
                continue
            longest = max(longest, len(ask.ids) + ask.max_tokens)
            if num and (num + 1) * longest > self.most_places:
                break
            waiting.remove(reply)
            prompt = (*ask.ids, *reply.begin())
            if reply.is_done:
                done.append(reply)
            else:
                fresh.append(Live(reply, prompt, None))
        if fresh:
            for adapter in dict.fromkeys(live.adapter for live in fresh):
                self._share([live for live in fresh if live.adapter == adapter], adapter)
            self._forget_prefixes(fresh)
            self._fill(fresh)
        return done

    def _share(self, fresh: Sequence[Live], adapter: str | None) -> None:
        """Give each new sequence of an adapter the prefix that is worth sharing, computed now if it is new."""
        held = [prefix.ids for prefix in self.prefixes if prefix.adapter == adapter]
        lengths = shared_lengths([live.prompt for live in fresh], held)
        for live, length in zip(fresh, lengths, strict=True):
            if length:
                live.prefix = self._prefix(live.prompt[:length], adapter)

    def _forget_prefixes(self, fresh: Sequence[Live]) -> None:
        """Let go of those that were not used for longest, where too many are held."""
        used = {id(live.prefix) for live in (*self.live, *fresh)}
        idle = [prefix for prefix in self.prefixes if id(prefix) not in used]
        for prefix in idle[: max(0, len(self.prefixes) - MOST_PREFIXES)]:
            self.prefixes.remove(prefix)

    def _prefix(self, ids: tuple[int, ...], adapter: str | None) -> SharedPrefix:
        """The prefix of these ids; computed behind the longest one that is held."""
        like = [prefix for prefix in self.prefixes if prefix.adapter == adapter and prefix.ids == ids[: len(prefix.ids)]]
        held = max(like, key=lambda prefix: len(prefix.ids), default=None)
        if held is None or held.ids != ids:
            num_before = len(held.ids) if held else 0
            keys = self._compute(Pack(ids[:num_before], (Segment(ids[num_before:], 0),)), held, adapter)
            if held:
                pairs = [(layer, held.keys.seen[layer], pair) for layer, pair in keys.seen.items()]
                keys.seen = {layer: tuple(map(_joined, before, after)) for layer, before, after in pairs}
            held = SharedPrefix(ids, adapter, keys)
        else:
            self.prefixes.remove(held)
        self.prefixes.append(held)  # the last ones are those used last
        return held

    def _fill(self, fresh: Sequence[Live]) -> None:
        """Compute the new prompts behind their prefixes, all but the last token, which is the first one to predict."""
        first = len(self.live)
        self.live += fresh
        self.own.reserve(len(self.live), max(len(live.prompt) - live.num_prefix for live in fresh))
        slots = {id(live): slot for slot, live in enumerate(self.live[first:], first)}
        for _, group in groupby(sorted(fresh, key=_kind), key=_kind):
            packs: list[list[Live]] = [[]]
            num_tokens = 0
            for live in group:
                num_own = len(live.prompt) - live.num_prefix - 1
                if packs[-1] and num_tokens + num_own > FILL_TOKENS:
                    packs.append([])
                    num_tokens = 0
                packs[-1].append(live)
                num_tokens += num_own
            for pack in packs:
                self._fill_pack(pack, [slots[id(live)] for live in pack])

    def _fill_pack(self, pack: Sequence[Live], slots: Sequence[int]) -> None:
        prefix = pack[0].prefix
        segments, slot_T, place_T = [], [], []
        for live, slot in zip(pack, slots, strict=True):
            ids = live.prompt[live.num_prefix : -1]
            live.num_own, live.pending = len(ids), [live.prompt[-1]]
            if ids:
                segments.append(Segment(ids, 0))
                slot_T += [slot] * len(ids)
                place_T += range(len(ids))
        if not segments:
            return
        found = self._compute(Pack(prefix.ids if prefix else (), tuple(segments)), prefix, pack[0].adapter)
        at = torch.tensor(slot_T, device=self.device), torch.tensor(place_T, device=self.device)
        for layer, (key, value) in found.kept.items():
            self.own.write(layer, key, value, *at)

    def _compute(self, pack: Pack, prefix: SharedPrefix | None, adapter: str | None) -> PrefixKeys:
        """Keys and values of a pack's segments, whose prefix was computed before."""
        rows, keys = packed_row(pack, self.device, is_prefix_apart=True), PrefixKeys()
        wanted = rows.positions_BT.new_zeros(1) if self.passes.last is not None else None
        before = prefix.keys if prefix else None
        sight = Sight(rows.tree, rows.positions_BT[0], rows.longest, before, keys, wanted, self.last_layer)
        self._run(rows.ids_BT, rows.positions_BT, sight, [(adapter, None)])
        return keys

    def _step(self) -> list[Reply]:
        """Compute what stands, choose what comes next. Gives the replies that are done; their places are free."""
        self._arrange(self.live)
        drafts = self._guess()
        new = [
            NewTokens([*live.pending, *draft], live.num_own, live.prefix) for live, draft in zip(self.live, drafts, strict=True)
        ]
        self.own.reserve(len(new), max(entry.num_own + len(entry.ids) for entry in new))
        row = decode_row(new, self.own, self.device)
        columns, first_row = [], []
        for start, live, draft in zip(row.starts, self.live, drafts, strict=True):
            first_row.append(len(columns))
            last = start + len(live.pending) - 1
            columns += range(last, last + 1 + len(draft))
        self._choose(self._predict(row, columns), first_row, drafts)
        done = [live.reply for live in self.live if live.reply.is_done]
        if done:
            self._arrange([live for live in self.live if not live.reply.is_done])
        return done

    def _arrange(self, kept: Sequence[Live]) -> None:
        """Let only these live, those of like length in neighbouring slots, the longest first; most stay where they are."""
        classes = {id(live): length_class(live.num_own + len(live.pending)) for live in kept}
        wanted = sorted(classes.values(), reverse=True)
        slots: list[Live | None] = [None] * len(kept)
        others: dict[int, list[tuple[int, Live]]] = defaultdict(list)
        is_kept = classes.keys()
        for slot, live in enumerate(self.live):
            if id(live) in is_kept:
                if slot < len(slots) and wanted[slot] == classes[id(live)]:
                    slots[slot] = live
                else:
                    others[classes[id(live)]].append((slot, live))
        sources, targets = [], []
        for slot, there in enumerate(slots):
            if there is None:
                source, slots[slot] = others[wanted[slot]].pop()
                sources.append(source)
                targets.append(slot)
        if targets:
            self.own.move(sources, targets, max(slots[target].num_own for target in targets))
        self.live = slots

    def _guess(self) -> list[tuple[int, ...]]:
        """Ids that each sequence may well go on with; none where they are not worth trying."""
        num = len(self.live)
        guesses: list[tuple[int, ...]] = [()] * num
        if not self.drafts.is_worth_a_look(num):
            return guesses
        for slot, live in enumerate(self.live):
            if live.reply.ask.temperature == 0:
                live.copier = live.copier or Copier(live.reply.ask.draft)
                guesses[slot] = self.drafts.guess(live.copier, live.reply.ids, num, live.reply.left)
        return guesses

    def _choose(self, predicted: Predicted, first_row: Sequence[int], drafts: Sequence[tuple[int, ...]]) -> None:
        """Let every sequence choose its next id, and go on as long as what then stands is what was drafted."""
        at = dict.fromkeys(range(len(self.live)), 0)  # ids of its draft that each sequence has taken
        for live in self.live:
            live.num_own += len(live.pending)
            live.pending = []
        while at:
            replies = [self.live[number].reply for number in at]
            rows = [first_row[number] + taken for number, taken in at.items()]
            for number, token, log_prob in zip(list(at), *choose(predicted, rows, replies), strict=True):
                live = self.live[number]
                stands = live.reply.take(token, log_prob)
                same = num_common(stands, drafts[number][at[number] :])
                live.num_own += same
                live.pending = list(stands[same:])
                at[number] += same
                if live.pending or live.reply.is_done:
                    if drafts[number]:
                        self.drafts.learn(live.copier, len(drafts[number]), at[number])
                    del at[number]

    def _predict(self, row: DecodeRow, columns: Sequence[int]) -> Predicted:
        """What the model says behind the tokens in some columns."""
        columns_R, spans, head = torch.tensor(columns, device=self.device), self._spans(row), self.passes.head
        if head is None:
            made = self._run(row.ids_1T, row.positions_1T, row.sight, spans, is_whole=True, logits_to_keep=columns_R).logits[0]
            return Predicted(logits_RV=made if len(made) == len(columns) else made[columns_R])  # a few models give all columns
        hidden_TH = self._run(row.ids_1T, row.positions_1T, row.sight, spans).last_hidden_state[0]
        return Predicted(hidden_TH.index_select(0, columns_R), head, self.products.of_head)

    def _spans(self, row: DecodeRow) -> Spans:
        """Which tokens of a row are whose."""
        names = list(dict.fromkeys(live.adapter for live in self.live))
        if len(names) == 1:
            return [(names[0], None)]
        of_n = torch.tensor([names.index(live.adapter) for live in self.live], device=self.device)
        of_T = of_n[row.sight.slot_T]
        return [(name, (of_T == number).nonzero()[:, 0]) for number, name in enumerate(names)]

    def _run(
        self,
        ids_1T: torch.Tensor,
        positions_1T: torch.Tensor,
        sight: Any,
        spans: Spans,
        *,
        is_whole: bool = False,
        **more: Any,
    ) -> Any:
        self.passes.attend_by(NAME)
        if self.held is not None:
            self.held.mix(spans)
        model = self.passes.model if is_whole else self.passes.model.get_decoder()
        return model(input_ids=ids_1T, position_ids=positions_1T, use_cache=False, whet_sight=sight, **more)

    @property
    def _can_mix(self) -> bool:
        """Whether sequences of several adapters may stand in one row."""
        return self.held is not None and self.held.is_mixable

    def _check_name(self, adapter: str | None) -> None:
        if self.held is not None:
            self.held.check(adapter)
        elif adapter is not None:
            raise unheld(adapter, ())


def _kind(live: Live) -> tuple[int, str]:
    """What must be the same in sequences that are computed behind one prefix."""
    return id(live.prefix), live.adapter or ""


def _joined(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return torch.cat([before, after], 2)


def _bytes_of_token(model: Any) -> int:
    """Bytes that the keys and values of one token take in all layers."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * groups * width * model.dtype.itemsize)
