"""Packs as tensors: one packed row with an exact mask, or plain padded rows, and the log-probabilities of learnt ids."""

from dataclasses import dataclass

import torch

from whet.backends.base import Pack


@dataclass(frozen=True)
class Rows:
    """What a forward pass needs. B rows of T tokens; N learnt ids over all rows, in the order of the pack's segments."""

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask: torch.Tensor | None
    """(1, 1, T, T) booleans for a packed row, (B, T) for padded rows; true where a token may be seen."""
    row_N: torch.Tensor
    at_N: torch.Tensor
    """Row and column of the token that predicts each learnt id."""
    target_N: torch.Tensor
    segment_N: torch.Tensor
    """Number of the segment that each learnt id belongs to."""


def packed_row(pack: Pack, device: torch.device) -> Rows:
    """One row: the prefix once, then every segment. A segment sees the prefix and itself; positions go on after the prefix."""
    num_prefix = len(pack.prefix)
    ids, positions, owner = list(pack.prefix), list(range(num_prefix)), [-1] * num_prefix
    at, target, segment_of = [], [], []
    for number, segment in enumerate(pack.segments):
        start = len(ids)
        ids += segment.ids
        positions += range(num_prefix, num_prefix + len(segment.ids))
        owner += [number] * len(segment.ids)
        for offset in range(len(segment.ids) - segment.num_learnt, len(segment.ids)):
            # The first id of a segment is predicted by the prefix's last token.
            at.append(start + offset - 1 if offset else num_prefix - 1)
            target.append(segment.ids[offset])
            segment_of.append(number)
    owner_T = torch.tensor(owner, device=device)
    is_visible_TT = (owner_T[None, :] == -1) | (owner_T[None, :] == owner_T[:, None])
    mask_TT = is_visible_TT & torch.ones(len(ids), len(ids), dtype=torch.bool, device=device).tril()
    return Rows(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        mask_TT[None, None],
        torch.zeros(len(at), dtype=torch.long, device=device),
        torch.tensor(at, device=device),
        torch.tensor(target, device=device),
        torch.tensor(segment_of, device=device),
    )


def padded_rows(pack: Pack, device: torch.device, pad_id: int) -> Rows:
    """As many rows as segments, prefix and segment one after the other, padded on the right."""
    rows = [(*pack.prefix, *segment.ids) for segment in pack.segments]
    width = max(map(len, rows))
    ids = [[*row, *[pad_id] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    row_of, at, target = [], [], []
    for number, (row, segment) in enumerate(zip(rows, pack.segments, strict=True)):
        for offset in range(len(row) - segment.num_learnt, len(row)):
            row_of.append(number)
            at.append(offset - 1)
            target.append(row[offset])
    positions_BT = torch.arange(width, device=device)[None].expand(len(rows), -1)
    return Rows(
        torch.tensor(ids, device=device),
        positions_BT,
        torch.tensor(mask, device=device),
        torch.tensor(row_of, device=device),
        torch.tensor(at, device=device),
        torch.tensor(target, device=device),
        torch.tensor(row_of, device=device),
    )


def learnt_log_probabilities(model: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """(N,) log-probabilities of the learnt ids, in nats, computed in fp32. The head runs at learnt columns only."""
    columns_K, slot_N = torch.unique(rows.at_N, return_inverse=True)
    logits_BKV = model(
        input_ids=rows.ids_BT,
        position_ids=rows.positions_BT,
        attention_mask=rows.mask,
        use_cache=False,
        logits_to_keep=columns_K,
    ).logits
    # A few models take no notice of logits_to_keep and give every column.
    slot_N = slot_N if logits_BKV.shape[1] == len(columns_K) else rows.at_N
    logits_NV = logits_BKV[rows.row_N, slot_N].float()
    return -torch.nn.functional.cross_entropy(logits_NV, rows.target_N, reduction="none")
