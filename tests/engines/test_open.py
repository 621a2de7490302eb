"""The engine of a recipe: the base on this machine, or a server."""

from pathlib import Path
from typing import Any

import pytest

from whet.engines.http import HttpEngine, HttpSettings
from whet.engines.open import LocalSettings, open_engine
from whet.engines.scripted import ScriptedEngine
from whet.errors import SettingsError
from whet.recipe import recipe_from

RAW = {
    "name": "a",
    "task": {"kind": "extraction", "fields": [{"name": "name"}]},
    "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
}


def recipe(*overrides: str, **more: Any) -> Any:
    return recipe_from(RAW | more, list(overrides), "test", Path())


def test_the_base_on_this_machine_answers_unless_a_server_is_named() -> None:
    local: Any = ScriptedEngine("base", lambda _: "[]")
    assert recipe().engine == LocalSettings()
    assert open_engine(recipe().engine, lambda: local) is local


def test_a_server_is_named_on_the_command_line_or_in_the_file() -> None:
    for found in (
        recipe("engine.kind=http", "engine.url=http://127.0.0.1:1"),
        recipe(engine={"kind": "http", "url": "http://127.0.0.1:1"}),
    ):
        assert found.engine == HttpSettings(url="http://127.0.0.1:1")
        engine = open_engine(found.engine, lambda: pytest.fail("opened the base"))
        assert isinstance(engine, HttpEngine)
        engine.close()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["engine.url=http://a"], "engine.kind is missing"),
        (["engine.kind=grpc"], "unknown kind grpc"),
        (["engine.kind=http"], "engine.url is missing"),
        (["engine.kind=http", "engine.url=http://a", "engine.modell=x"], "did you mean model"),
        (["engine.kind=local", "engine.url=http://a"], "unknown setting engine.url"),
    ],
)
def test_what_is_no_engine_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        recipe(*overrides)


def test_a_recipe_with_a_server_survives_json() -> None:
    found = recipe("engine.kind=http", "engine.url=http://a", "engine.leave_out=[seed]", "engine.extra={reasoning_effort: low}")
    assert type(found).model_validate_json(found.model_dump_json(), strict=True) == found
