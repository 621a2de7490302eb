"""Settings files: every fault is told at once, with its line and the nearest name, and nothing is guessed at."""

import time
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from whet.config import MAX_BYTES, Settings, apply_overrides, explain, load, read_yaml
from whet.errors import InputError, SettingsError
from whet.recipe import Recipe

RECIPE = """\
name: officials
task:
  kind: extraction
  fields:
    - name: name
    - name: office
      nullable: true
data:
  sources:
    - reader: inline
      path: a.txt
      tags: {name: {tag: P}}
    - reader: columns
      path: b.tsv
train:
  epochs: 2
  optimizer:
    beta1: 0.9
"""


class Inner(Settings):
    """Some settings."""

    size: int = Field(default=1, ge=1)
    """How large."""
    mode: Literal["left", "right"] = "left"
    """Which way."""


class Outer(Settings):
    """Settings that hold settings."""

    title: str
    """What it is called."""
    rate: float = 0.5
    """How fast, a second."""
    inner: Inner = Inner()
    """The inside."""
    many: tuple[Inner, ...] = ()
    """More of them."""
    named: dict[str, Inner] = Field(default_factory=dict)
    """Some by name."""
    places: tuple[str, ...] | Literal["all"] = "all"
    """Where."""


def faults_of(text: str, tmp_path: Path, *overrides: str, kind: type[Settings] = Outer) -> tuple[str, ...]:
    """The faults that loading a file gives, their places without the folder."""
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    raw, places = read_yaml(path)
    with pytest.raises(SettingsError) as caught:
        apply_overrides(raw, places, overrides)
        load(kind, raw, places, str(path))
    return tuple(fault.replace(f"{tmp_path}/", "") for fault in caught.value.faults)


def loaded(text: str, tmp_path: Path, *overrides: str) -> Outer:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    raw, places = read_yaml(path)
    apply_overrides(raw, places, overrides)
    return load(Outer, raw, places, str(path))


@pytest.mark.parametrize(
    ("found", "put", "line", "near"),
    [
        ("epochs:", "epoch:", 16, "unknown setting train.epoch; did you mean epochs?"),
        ("beta1:", "beta_1:", 18, "unknown setting train.optimizer.beta_1; did you mean beta1?"),
        ("nullable:", "nulable:", 7, "unknown setting task.fields.1.nulable; did you mean nullable?"),
        ("      nullable: true", "      choice: [a]", 7, "unknown setting task.fields.1.choice; did you mean choices?"),
        ("tags: {", "tag: {", 12, "unknown setting data.sources.0.tag; did you mean tags?"),
        ("{tag: P}", "{tga: P, tag: P}", 12, "unknown setting data.sources.0.tags.name.tga; did you mean tag?"),
        ("path: b.tsv", "path: b.tsv\n      pth: c", 15, "unknown setting data.sources.1.pth; did you mean path?"),
        ("name: officials", "name: officials\ntrian: 1", 2, "unknown setting trian; did you mean train?"),
    ],
)
def test_a_misspelt_setting_is_named_at_every_depth(found: str, put: str, line: int, near: str, tmp_path: Path) -> None:
    assert RECIPE.count(found) == 1
    faults = faults_of(RECIPE.replace(found, put), tmp_path, kind=Recipe)
    assert f"r.yaml:{line}: {near}" in faults
    assert not any("at least 1 item" in fault for fault in faults)  # the faulty item is there


def test_a_name_that_is_spelt_like_a_value_is_still_unknown(tmp_path: Path) -> None:
    (fault,) = faults_of("title: a\ninner: {left: 1}\n", tmp_path)
    assert fault == "r.yaml:2: unknown setting inner.left; known here: mode, size"


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = "rate: fast\ninner:\n  size: 0\n  sise: 3\nmany:\n  - {size: 1}\n  - {mode: up}\nnamed:\n  x: {size: 1.5}\n"
    assert sorted(faults_of(text, tmp_path)) == [
        "r.yaml:1: rate: Input should be a valid number (it is 'fast')",
        "r.yaml:3: inner.size: Input should be greater than or equal to 1 (it is 0)",
        "r.yaml:4: unknown setting inner.sise; did you mean size?",
        "r.yaml:7: many.1.mode: Input should be 'left' or 'right' (it is 'up')",
        "r.yaml:9: named.x.size: Input should be a valid integer (it is 1.5)",
        "title is missing",
    ]


def test_a_union_of_plain_values_is_named_by_the_setting_alone(tmp_path: Path) -> None:
    for fault in faults_of("title: a\nplaces: 3\n", tmp_path):
        assert fault.startswith("r.yaml:2: places: ")


@pytest.mark.parametrize(
    "line",
    ['rate: "3"', "rate: true", "inner: {size: '3'}", "inner: {size: 2.5}", "inner: {size: true}", "title: 3", "title: yes",
     "title: null", "rate: .nan", "rate: .inf", "many: {size: 1}", "inner: []"],
)  # fmt: skip
def test_nothing_is_guessed_at(line: str, tmp_path: Path) -> None:
    text = line if line.startswith("title") else f"title: a\n{line}"
    (fault,) = faults_of(text + "\n", tmp_path)
    assert fault.startswith(f"r.yaml:{1 if line.startswith('title') else 2}: ")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("5E+2", 500.0), ("1.5e3", 1500.0), (".5e1", 5.0), ("-2.e0", -2.0), ("2", 2.0)]
)
def test_numbers_are_read_as_people_write_them(text: str, value: float, tmp_path: Path) -> None:
    assert loaded(f"title: a\nrate: {text}\n", tmp_path).rate == value
    assert loaded("title: a\n", tmp_path, f"rate={text}").rate == value


@pytest.mark.parametrize("text", ["2024-1-1", "2024-13-45", "e5", "1e", "0x", "1_0e"])
def test_text_that_looks_like_something_else_stays_as_it_was_written(text: str, tmp_path: Path) -> None:
    assert loaded(f"title: {text}\n", tmp_path).title == text
    assert loaded("title: a\n", tmp_path, f"title={text}").title == text


@pytest.mark.parametrize(
    ("content", "words", "line"),
    [
        (b"title: a\ninner:\n  size: 1\n  size: 2\n", "inner.size is given twice", 4),
        (b"title: a\nmany:\n  - mode: left\n    mode: left\n", "many.0.mode is given twice", 4),
        (b"title: a\ntitle: a\n", "title is given twice", 2),
        (b"title: a\ninner: &x {size: 1}\nmany: [*x]\n", "alias", 0),
        (b"title: [a\n", "not YAML", 2),
        (b"title: a\n  rate: b\n", "not YAML", 2),
        (b"title: !!python/object/apply:os.system [ls]\n", "not YAML", 1),
        (b"a: 1\n---\nb: 2\n", "not YAML", 2),
        (b"title: \xff\xfe\n", "not UTF-8 (byte 7)", 0),
        (b"title: a\x00\n", "not YAML", 0),
        (b"", "holds nothing", 0),
        (b"# only words\n", "holds nothing", 0),
        (b"- a\n- b\n", "holds list", 0),
        (b"words\n", "holds str", 0),
        (b"x" * (MAX_BYTES + 1), "larger than 1 MB", 0),
        (b"a: " + b"[" * 500 + b"]" * 500, "nested more than 64 levels", 1),
    ],
)  # fmt: skip
def test_a_file_that_is_no_settings_is_one_error(content: bytes, words: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert words in caught.value.what
    assert caught.value.place == (f"{path}:{line}" if line else str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder"):
        read_yaml(tmp_path)


def test_a_name_that_is_no_text_is_an_unknown_setting_not_a_crash(tmp_path: Path) -> None:
    assert any("2020-01-01" in fault for fault in faults_of("title: a\n2020-01-01: 3\n", tmp_path))
    assert any("unknown setting 7" in fault for fault in faults_of("title: a\n7: 3\n", tmp_path))
    assert faults_of("title: a\n!!binary aGk=: 3\n", tmp_path)


def test_overrides_reach_every_depth(tmp_path: Path) -> None:
    text = "title: a\nmany:\n  - {size: 1}\n  - {size: 2}\n"
    found = loaded(
        text, tmp_path, "many.1.size=7", "inner.mode=right", "named.x.size=3", "places=[a, b]", "rate=0.25", "title=b=c"
    )
    assert [inner.size for inner in found.many] == [1, 7]
    assert found.inner == Inner(mode="right")
    assert found.named == {"x": Inner(size=3)}
    assert found.places == ("a", "b")
    assert (found.rate, found.title) == (0.25, "b=c")


def test_the_last_override_counts(tmp_path: Path) -> None:
    assert loaded("title: a\n", tmp_path, "rate=1", "rate=2").rate == 2.0


@pytest.mark.parametrize(
    "override", ["rate", "=3", "", "many.2.size=3", "many.x.size=3", "many.-1.size=1", "title.x=3", "many.²=3", "rate.1=3"]
)
def test_an_override_that_sets_nothing_is_refused(override: str, tmp_path: Path) -> None:
    (fault,) = faults_of("title: a\nrate: 1\nmany:\n  - {size: 1}\n", tmp_path, override)
    assert repr(override) in fault


def test_bad_overrides_are_told_together_and_a_bad_value_with_its_override(tmp_path: Path) -> None:
    assert len(faults_of("title: a\n", tmp_path, "rate", "title.x=1", "=2")) == 3
    assert faults_of("title: a\n", tmp_path, "inner.size=0") == (
        "'inner.size=0': inner.size: Input should be greater than or equal to 1 (it is 0)",
    )
    assert faults_of("title: a\n", tmp_path, "inner.sise=2") == (
        "'inner.sise=2': unknown setting inner.sise; did you mean size?",
    )


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(raw=st.dictionaries(st.sampled_from(["title", "rate", "inner", "many", "named", "places", "x"]), values, max_size=5))
def test_any_mapping_gives_settings_or_a_settings_error(raw: dict[str, Any]) -> None:
    try:
        found = load(Outer, raw, {}, "here")
    except SettingsError as error:
        assert error.faults
    else:
        assert set(raw) <= set(Outer.model_fields)
        assert found.title == raw["title"]


@given(text=st.text(max_size=20))
def test_any_override_is_taken_or_refused(text: str) -> None:
    raw: dict[str, Any] = {"title": "a", "many": [{"size": 1}]}
    try:
        apply_overrides(raw, {}, [text])
    except SettingsError as error:
        assert len(error.faults) == 1
    else:
        assert "=" in text


def test_explain_tells_every_setting_and_whether_it_was_set() -> None:
    rows = list(explain(Outer(title="a", inner=Inner(size=3), many=(Inner(),))))
    assert rows == [
        ("title", '"a"', False, "What it is called."),
        ("rate", "0.5", True, "How fast, a second."),
        ("inner.size", "3", False, "How large."),
        ("inner.mode", '"left"', True, "Which way."),
        ("many.0.size", "1", True, "How large."),
        ("many.0.mode", '"left"', True, "Which way."),
        ("named", "{}", True, "Some by name."),
        ("places", '"all"', True, "Where."),
    ]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().size = 3  # type: ignore[misc]


def test_deep_nesting_is_refused_before_it_costs_time(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 400_000)
    began = time.process_time()
    with pytest.raises(InputError, match=r"deep\.yaml:1: is nested more than 64 levels deep"):
        read_yaml(tmp_path / "deep.yaml")
    assert time.process_time() - began < 5
