"""Looks for documents that were cut in overlapping pieces, some of which came to train and others to valid or test."""

from whet.doctor.finding import Context, Findings, share, warning
from whet.doctor.splits import Rows

WINDOW = 48  # characters; pipelines overlap their chunks by 100 and more
LONG = 200  # characters of a text that may be a chunk
MOST = 5000  # rows of train that are searched
COMMON = 2  # rows of train that a piece of a document may stand in: what stands in more of them is an instruction


def look_chunks(splits: list[Rows], _: Context) -> Findings:
    """Texts of valid or test whose beginning or end stands within a text of train that is not the same."""
    train = next((rows for rows in splits if rows.name == "train"), None)
    for rows in splits:
        if train is None or rows is train:
            continue
        known = set(train.keys)
        ends: dict[str, set[int]] = {}
        for number, key in enumerate(rows.keys):
            text = rows.texts[key]
            if len(text) >= LONG and key not in known:
                for window in (text[:WINDOW], text[-WINDOW:]):
                    ends.setdefault(window, set()).add(number)
        found = {number for window in _shared(train, ends) for number in ends[window]}
        if len(found) >= 3 and 20 * len(found) >= len(rows.keys):
            example = rows.examples[min(found)]
            yield warning(
                "one document in two splits",
                example.source,
                f"{share(len(found), len(rows.keys))} rows of {rows.name} begin or end with {WINDOW} characters of train",
                "Pieces of one document overlap: what is measured is partly memory.",
                f"Split by document, then cut; or group the pieces by their document; the first: {example.text[:50]!r}",
            )


def _shared(train: Rows, ends: dict[str, set[int]]) -> list[str]:
    """The windows that stand in one or two texts of train, and in as few texts here."""
    seen: dict[str, int] = {}
    wanted = {window for window, numbers in ends.items() if len(numbers) <= COMMON}
    for key in dict.fromkeys(train.keys[:MOST]) if wanted else ():
        text = train.texts[key]
        cuts = (text[at : at + WINDOW] for at in range(len(text) - WINDOW + 1))
        for window in {window for window in cuts if window in wanted}:
            seen[window] = seen.get(window, 0) + 1
    return [window for window, number in seen.items() if number <= COMMON]
