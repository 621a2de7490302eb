"""Attention over a tree against a softmax with a dense mask in double precision: values, and gradients of all that goes in."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.backends.base import Pack, Segment
from whet.backends.on_torch.attention import PrefixKeys, Sight, attend_packed
from whet.backends.on_torch.rows import packed_row

CPU = torch.device("cpu")
NUM_HEADS, NUM_KEY_HEADS, WIDTH = 4, 2, 8
LAYER = SimpleNamespace(layer_idx=3)


@st.composite
def trees(draw: st.DrawFn) -> Pack:
    """A random tree in preorder; ids do not matter here."""
    segments: list[Segment] = []

    def grow(parent: int, depth: int) -> None:
        for _ in range(draw(st.integers(1, 4 if depth == 0 else 3))):
            segments.append(Segment(tuple(range(draw(st.integers(1, 40)))), 0, parent))
            if depth < 3 and draw(st.integers(0, 3)) == 0:
                grow(len(segments) - 1, depth + 1)

    grow(-1, 0)
    return Pack(tuple(range(draw(st.integers(0, 30)))), tuple(segments))


def who_sees_whom(pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, K) booleans and (K,) positions by brute force: a token sees itself and those that stand before it in some row.

    K tokens: those of the prefix, then those of all segments.
    """
    first = [len(pack.prefix)]
    for segment in pack.segments:
        first.append(first[-1] + len(segment.ids))
    sees_KK = torch.zeros(first[-1], first[-1], dtype=torch.bool)
    positions_K = torch.full((first[-1],), -1)
    for leaf in range(len(pack.segments)):
        path, at = [], leaf
        while at >= 0:
            path.append(range(first[at], first[at + 1]))
            at = pack.segments[at].parent
        columns = [*range(len(pack.prefix)), *(column for piece in reversed(path) for column in piece)]
        for position, column in enumerate(columns):
            positions_K[column] = position
            sees_KK[column, columns[: position + 1]] = True
    return sees_KK, positions_K


def dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sees: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    """Softmax attention as it is written in books; (1, T, H, D) of (1, H, T, D) and (1, G, K, D)."""
    key, value = (t.repeat_interleave(NUM_HEADS // NUM_KEY_HEADS, dim=1) for t in (key, value))
    scores = torch.einsum("bhtd,bhkd->bhtk", query, key) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    shares = scores.masked_fill(~sees, -torch.inf).softmax(-1)
    return torch.einsum("bhtk,bhkd->bthd", shares, value)


@settings(max_examples=25)
@given(
    pack=trees(),
    is_prefix_apart=st.booleans(),
    window=st.none() | st.integers(1, 60),
    softcap=st.none() | st.just(1.5),
    scale=st.none() | st.just(0.4),
    seed=st.integers(0, 1000),
)
def test_attention_is_a_masked_softmax(
    pack: Pack, is_prefix_apart: bool, window: int | None, softcap: float | None, scale: float | None, seed: int
) -> None:
    is_apart = is_prefix_apart and len(pack.prefix) > 0
    sees_KK, positions_K = who_sees_whom(pack)
    if window is not None:
        sees_KK &= positions_K[:, None] - positions_K[None, :] < window
    num_keys, num_before = len(positions_K), len(pack.prefix) if is_apart else 0
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, tokens: int) -> torch.Tensor:
        return torch.randn(1, heads, tokens, WIDTH, generator=generator, dtype=torch.float64)

    query, key, value = (draw(heads, num_keys) for heads in (NUM_HEADS, NUM_KEY_HEADS, NUM_KEY_HEADS))
    grad_out = torch.randn(1, num_keys - num_before, NUM_HEADS, WIDTH, generator=generator, dtype=torch.float64)

    wanted_in = [t.clone().requires_grad_() for t in (query, key, value)]
    wanted = dense(*wanted_in, sees_KK, scale or WIDTH**-0.5, softcap)[:, num_before:]
    wanted.backward(grad_out)

    inputs = [t[:, :, num_before:].float().requires_grad_() for t in (query, key, value)]
    prefix = PrefixKeys()
    before = [t[:, :, :num_before].float().requires_grad_() for t in (key, value)]
    if is_apart:
        prefix.keep(LAYER.layer_idx, *(t * 1 for t in before))
    rows = packed_row(pack, CPU, is_prefix_apart=is_apart)
    assert rows.positions_BT[0].tolist() == positions_K[num_before:].tolist()
    sight = Sight(rows.tree, rows.positions_BT[0], rows.longest, prefix if is_apart else None)
    got, _ = attend_packed(LAYER, *inputs, None, scaling=scale, sliding_window=window, softcap=softcap, whet_sight=sight)
    got.backward(grad_out.float())
    prefix.backward()

    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
    gradients = [t.grad for t in inputs]
    if is_apart:
        gradients[1:] = [torch.cat(pair, 2) for pair in zip((t.grad for t in before), gradients[1:], strict=True)]
    for number, (gradient, whole) in enumerate(zip(gradients, wanted_in, strict=True)):
        reference = whole.grad[:, :, num_before:] if number == 0 else whole.grad
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=2e-5)


@settings(max_examples=20)
@given(pack=trees())
def test_a_token_is_seen_up_to_the_end_of_its_subtree(pack: Pack) -> None:
    sees_KK, _ = who_sees_whom(pack)
    wanted = [max(row.nonzero()[:, 0].tolist()) + 1 for row in sees_KK.T]
    assert packed_row(pack, CPU).tree.ends(CPU).tolist() == wanted
    columns = torch.arange(len(wanted))
    ends = torch.tensor(wanted)
    # A subtree is one run of columns, so that an end says all.
    assert torch.equal(sees_KK, (columns[None] <= columns[:, None]) & (columns[:, None] < ends[None]))


def test_gradients_of_packs_behind_one_prefix_are_gathered() -> None:
    """Two packs attend to one prefix: what reaches it is the sum, sent through it once."""
    generator = torch.Generator().manual_seed(0)
    prefix_in = [torch.randn(1, NUM_KEY_HEADS, 5, WIDTH, generator=generator).requires_grad_() for _ in range(2)]
    packs = [Pack(tuple(range(5)), (Segment(tuple(range(num)), 0),)) for num in (3, 20)]
    inputs = [
        [
            torch.randn(1, heads, pack.num_tokens - 5, WIDTH, generator=generator)
            for heads in (NUM_HEADS, NUM_KEY_HEADS, NUM_KEY_HEADS)
        ]
        for pack in packs
    ]
    prefix, num_sent = PrefixKeys(), []
    kept = [t * 1 for t in prefix_in]
    kept[0].register_hook(lambda _: num_sent.append(1))
    prefix.keep(LAYER.layer_idx, *kept)
    prefix.keep(LAYER.layer_idx, *(torch.zeros_like(t) for t in kept))  # a layer that is computed again changes nothing
    wanted = [torch.zeros_like(t) for t in prefix_in]
    for pack, tensors in zip(packs, inputs, strict=True):
        rows = packed_row(pack, CPU, is_prefix_apart=True)
        sight = Sight(rows.tree, rows.positions_BT[0], rows.longest, prefix)
        attend_packed(LAYER, *tensors, None, whet_sight=sight)[0].square().sum().backward()
        alone = [t.detach().clone().requires_grad_() for t in prefix_in]
        sees, _ = who_sees_whom(pack)
        key, value = (torch.cat(pair, 2) for pair in zip(alone, tensors[1:], strict=True))
        dense(tensors[0], key, value, sees[5:], WIDTH**-0.5, None).square().sum().backward()
        wanted = [total + t.grad for total, t in zip(wanted, alone, strict=True)]
    assert num_sent == []
    prefix.backward()
    assert num_sent == [1]
    for t, reference in zip(prefix_in, wanted, strict=True):
        torch.testing.assert_close(t.grad, reference, rtol=1e-4, atol=1e-5)


def test_a_prefix_that_needs_no_gradient_gets_none() -> None:
    prefix = PrefixKeys()
    prefix.keep(LAYER.layer_idx, torch.zeros(1, 2, 3, WIDTH), torch.zeros(1, 2, 3, WIDTH))
    rows = packed_row(Pack((1, 2, 3), (Segment((4, 5), 1),)), CPU, is_prefix_apart=True)
    query = torch.randn(1, 4, 2, WIDTH, requires_grad=True)
    key, value = torch.randn(1, 2, 2, WIDTH), torch.randn(1, 2, 2, WIDTH)
    sight = Sight(rows.tree, rows.positions_BT[0], rows.longest, prefix)
    attend_packed(LAYER, query, key, value, None, whet_sight=sight)[0].sum().backward()
    assert prefix.seen[LAYER.layer_idx][0].grad is None
    prefix.backward()
    assert query.grad is not None


def test_a_packed_pass_without_a_tree_is_refused() -> None:
    t = torch.zeros(1, 2, 3, WIDTH)
    with pytest.raises(AssertionError, match="who sees whom"):
        attend_packed(LAYER, t, t, t, None)
