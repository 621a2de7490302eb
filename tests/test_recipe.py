"""Recipes: defaults, where paths start, every setting explained, and the recipes that come with the project."""

import importlib.resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from whet.config import explain
from whet.errors import SettingsError
from whet.recipe import Recipe, read_recipe, recipe_from

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))


def raw() -> dict[str, Any]:
    return {
        "name": "a",
        "task": {"kind": "extraction", "fields": [{"name": "name"}]},
        "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
    }


@pytest.mark.parametrize(
    ("root", "overrides", "wanted"),
    [
        (None, [], "corpus"),
        ("sub", [], "corpus/sub"),
        ("/abs", [], "/abs"),
        (None, ["data.root=here"], "here"),
        ("sub", ["data.root=/abs"], "/abs"),
        ("sub", ["data.root=null"], "corpus"),
    ],
)
def test_paths_start_where_they_were_written(root: str | None, overrides: list[str], wanted: str) -> None:
    recipe = raw()
    if root is not None:
        recipe["data"]["root"] = root
    assert recipe_from(recipe, overrides, "test", Path("corpus")).data.root == Path(wanted)


def test_a_root_that_is_no_path_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"data\.root"):
        recipe_from(raw(), ["data.root=3"], "test", Path())


def test_a_file_and_the_same_in_memory_are_one(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(raw()))
    assert read_recipe(path, ["train.epochs=2"]) == recipe_from(raw(), ["train.epochs=2"], "test", tmp_path)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-flag", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="name"):
        recipe_from(raw() | {"name": name}, [], "test", Path())


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"name": "x", "kind": "choice"}, "choices belong"),
        ({"name": "x", "choices": ["a"]}, "choices belong"),
        ({"name": "x", "kind": "choice", "choices": ["a", "a"]}, "named twice"),
    ],
)
def test_fields_that_contradict_themselves_are_refused(field: dict[str, Any], words: str) -> None:
    recipe = raw()
    recipe["task"]["fields"].append(field)
    with pytest.raises(SettingsError, match=words):
        recipe_from(recipe, [], "test", Path())


def test_two_fields_of_one_name_are_refused() -> None:
    recipe = raw()
    recipe["task"]["fields"] *= 2
    with pytest.raises(SettingsError, match="same name"):
        recipe_from(recipe, [], "test", Path())


def test_the_recipe_survives_json() -> None:
    recipe = recipe_from(raw(), ["train.lora.targets=[q_proj]"], "test", Path("corpus"))
    assert Recipe.model_validate_json(recipe.model_dump_json(), strict=True) == recipe


def test_every_setting_says_what_it_means() -> None:
    silent = [name for name, _, _, meaning in explain(recipe_from(raw(), [], "test", Path())) if not meaning]
    assert silent == []


def test_seeds_that_the_generators_can_not_take_are_refused() -> None:
    for override in ("train.seed=-1", f"train.seed={2**63}", "evaluate.seed=-1"):
        with pytest.raises(SettingsError, match="seed"):
            recipe_from(raw(), [override], "test", Path())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_project_are_right(path: Path) -> None:
    assert read_recipe(path, []).data.sources


def test_the_recipe_of_the_demo_is_right() -> None:
    demo = yaml.safe_load(importlib.resources.files("whet.cli").joinpath("demo.yaml").read_text("utf-8"))
    assert set(demo.pop("corpus")) == {"train", "valid", "test"}
    assert recipe_from(demo, [], "demo", Path()).base == "embedded"
