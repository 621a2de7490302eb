"""Rows of a data set of the Hugging Face Hub, written as lines that the example reader takes."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from whet.errors import InputError, MissingExtraError
from whet.storage import write_jsonl


def fetch_rows(dataset: str, subset: str | None, split: str, revision: str | None, rename: Mapping[str, str], to: Path) -> int:
    """Write a data set's rows to a JSONL file; gives how many. No code of the data set is run.

    InputError where there is no network and nothing cached, or no such data set.
    """
    if importlib.util.find_spec("datasets") is None:
        raise MissingExtraError("datasets", "hub", f"reading {dataset} from the Hugging Face Hub")
    import datasets

    try:
        found = datasets.load_dataset(
            dataset, subset, split=split, revision=revision, download_config=datasets.DownloadConfig(max_retries=1)
        )
        names = {name: rename.get(name, name) for name in found.column_names}
        return write_jsonl(to, ({names[name]: value for name, value in row.items()} for row in found))
    except InputError:
        raise
    except Exception as error:  # the Hub, its cache and its file formats can fail in any way
        lines = str(error).strip().splitlines()
        why = lines[0][:200] if lines else type(error).__name__
        raise InputError(
            f"{dataset} on the Hugging Face Hub", f"can't be read ({why})", "Go online, or give the questions as local files"
        ) from None
