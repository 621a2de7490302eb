"""Who answers an extraction: chosen by the recipe, refused where nobody can."""

from pathlib import Path

import pytest

from whet.engines.http import HttpEngine
from whet.errors import InputError
from whet.pipeline.answering import choose_answering
from whet.pipeline.bench import Bench, Silent
from whet.recipe import recipe_from
from whet.records import Message, Request

SERVER = ("engine.kind=http", "engine.url=http://127.0.0.1:9", "engine.dialect=openai", "engine.model=m")


def bench(folder: Path, *overrides: str) -> Bench:
    raw = {
        "name": "marked",
        "task": {"kind": "extraction", "fields": [{"name": "name"}]},
        "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
    }
    return Bench(recipe_from(raw, list(overrides), "test", folder), folder, Silent())


def test_a_server_answers_where_the_recipe_names_one_and_is_closed_at_the_end(tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    served = bench(tmp_path, *SERVER)
    who = choose_answering(served, bench(tmp_path), is_base=False)
    assert who.adapter is None
    assert who.identity["server"]["model"] == "m"
    with who.open() as engine:
        assert isinstance(engine, HttpEngine)
        assert engine.close.alive
    assert not engine.close.alive
    with pytest.raises(InputError, match="the recipe names a server"):
        choose_answering(served, served, is_base=True)


def test_a_run_without_an_adapter_answers_with_its_base_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no adapter folder"):
        choose_answering(bench(tmp_path), bench(tmp_path), is_base=False)
    untrained = bench(tmp_path, "train=null")
    with pytest.raises(InputError, match=r"was not trained.*--base"):
        choose_answering(untrained, untrained, is_base=False)
    who = choose_answering(untrained, untrained, is_base=True)
    assert (who.adapter, who.identity["adapter"]) == (None, None)
    assert who.identity["base"] == untrained.base.fingerprint


def test_a_chunk_fits_where_the_base_holds_prompt_and_reply(tmp_path: Path) -> None:
    who = choose_answering(bench(tmp_path), bench(tmp_path), is_base=True)
    most = bench(tmp_path).base.max_length
    assert who.fits(Request((Message("user", "卒" * 50),), 64))
    assert not who.fits(Request((Message("user", "卒" * 50),), most))
    assert not who.fits(Request((Message("user", "卒" * most),), 64))
