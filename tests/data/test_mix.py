"""The mix of sources: exact shares, caps kept, every example in its turn."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from whet.data.mix import GeneralSettings, MixSettings, Quotas, mix, quotas, sources_of
from whet.errors import InputError, SettingsError

counts = st.dictionaries(st.sampled_from("abcd"), st.integers(5, 60), min_size=2)
seeds = st.integers(0, 2**63 - 1)


@st.composite
def mixes(draw: st.DrawFn) -> tuple[dict[str, int], MixSettings]:
    held = draw(counts)
    weights = {name: draw(st.integers(3, 9)) / 10 for name in held} if draw(st.booleans()) else {}
    caps = {name: draw(st.integers(8, 70)) for name in held if draw(st.booleans())}
    general = GeneralSettings(source=min(held), share=0.3) if draw(st.booleans()) else None
    size = draw(st.sampled_from([None, 40, 111]))
    return held, MixSettings(
        weights=weights, caps=caps, epoch_size=size, max_repeats=draw(st.integers(2, 4)), general=general
    )  # fmt: skip


def wanted_shares(held: dict[str, int], chosen: MixSettings) -> dict[str, Fraction]:
    """Another way to the shares: in tenths for weights, by examples without."""
    weights = {
        name: Fraction(round(10 * chosen.weights[name]))
        if chosen.weights
        else Fraction(min(held[name], chosen.caps.get(name, 999)))
        for name in held
    }
    total = sum(weights.values())
    shares = {name: weight / total for name, weight in weights.items()}
    if chosen.general and shares[chosen.general.source] < Fraction(3, 10):
        rest = total - weights[chosen.general.source]
        shares = {name: Fraction(7, 10) * weight / rest for name, weight in weights.items()}
        shares[chosen.general.source] = Fraction(3, 10)
    return shares


@given(case=mixes(), seed=seeds, epoch=st.integers(0, 5))
def test_an_epoch_keeps_shares_caps_and_repeats(case: tuple[dict[str, int], MixSettings], seed: int, epoch: int) -> None:
    held, chosen = case
    found = mix(held, chosen, seed, epoch)
    assert found == mix(dict(reversed(held.items())), chosen, seed, epoch)
    by_source = Counter(name for name, _ in found)
    for name, share in wanted_shares(held, chosen).items():
        assert abs(by_source[name] - share * len(found)) < (len(held) if chosen.general else 1)
        assert by_source[name] <= chosen.caps.get(name, 10**9)
    if chosen.general:
        assert 10 * by_source[chosen.general.source] >= 3 * len(found)
    times = Counter(found)
    assert max(times.values()) <= chosen.max_repeats
    for (name, number), seen in times.items():
        assert 0 <= number < held[name]
        assert seen in (by_source[name] // held[name], -(-by_source[name] // held[name]))
    told = quotas(held, chosen)
    assert told.rows == by_source
    if not told.limit:
        assert len(found) == (chosen.epoch_size or sum(min(held[name], chosen.caps.get(name, 999)) for name in held))


@given(case=mixes(), seed=seeds)
@settings(max_examples=30)
def test_over_epochs_every_example_has_its_turn(case: tuple[dict[str, int], MixSettings], seed: int) -> None:
    held, chosen = case
    seen: Counter[tuple[str, int]] = Counter()
    for epoch in range(4):
        seen.update(mix(held, chosen, seed, epoch))
        for name, count in held.items():
            times = [seen[name, number] for number in range(count)]
            assert max(times) - min(times) <= 1


def test_an_example_comes_again_after_all_others_of_its_source() -> None:
    found = mix({"a": 10, "b": 100}, MixSettings(weights={"a": 1, "b": 2}, epoch_size=75), 3, 2)
    from_a = [number for name, number in found if name == "a"]
    assert len(from_a) == 25
    assert sorted(from_a[:10]) == sorted(from_a[10:20]) == list(range(10))
    assert from_a[:10] != from_a[10:20]
    assert len(set(from_a[20:])) == 5


def test_largest_remainder_by_hand() -> None:
    # 10 rows at 0.44, 0.36, 0.2: 4.4, 3.6, 2 give 4, 3, 2, and the row that is left goes to the largest remainder.
    chosen = MixSettings(weights={"x": 0.44, "y": 0.36, "z": 0.2}, epoch_size=10)
    assert quotas({"x": 50, "y": 50, "z": 50}, chosen).rows == {"x": 4, "y": 4, "z": 2}
    assert quotas({"x": 50, "y": 50, "z": 2}, MixSettings()).rows == {"x": 50, "y": 50, "z": 2}


def test_decimal_weights_are_exact() -> None:
    # As binary numbers 0.1 and 0.9 ask for a little more than 10 rows of a in 100, which a has not.
    chosen = MixSettings(weights={"a": 0.1, "b": 0.9}, max_repeats=1, epoch_size=100)
    assert quotas({"a": 10, "b": 1000}, chosen) == Quotas({"a": 10, "b": 90}, "")


def test_the_general_source_has_its_floor() -> None:
    chosen = MixSettings(weights={"a": 6, "b": 3, "chat": 1}, epoch_size=101, general=GeneralSettings(source="chat", share=0.25))
    # A quarter of 101 is 25.25, rounded up; the other 75 go 2 to 1.
    assert quotas({"a": 99, "b": 99, "chat": 99}, chosen).rows == {"a": 50, "b": 25, "chat": 26}
    more = chosen.model_copy(update={"general": GeneralSettings(source="a", share=0.25)})
    assert quotas({"a": 99, "b": 99, "chat": 99}, more).rows == {"a": 61, "b": 30, "chat": 10}  # it has more anyway


def test_a_scarce_source_makes_the_epoch_smaller_and_it_is_said() -> None:
    found = quotas({"a": 10, "b": 1000}, MixSettings(weights={"a": 1, "b": 1}, max_repeats=3))
    assert found.rows == {"a": 30, "b": 30}
    assert (
        found.limit
        == "60 rows an epoch, not 1010: a with a share of 0.5 has 10 examples, each seen 3 times at most (max_repeats)"
    )
    capped = quotas({"a": 10, "b": 1000}, MixSettings(weights={"a": 1, "b": 1}, caps={"b": 8}))
    assert capped.rows == {"a": 8, "b": 8}
    assert capped.limit.endswith("b with a share of 0.5 has a cap of 8")
    assert quotas({"a": 10, "b": 1000}, MixSettings(caps={"b": 8})).rows == {"a": 10, "b": 8}


def test_all_faults_are_named_together() -> None:
    chosen = MixSettings(weights={"anals": 1, "empty": 1}, caps={"x": 3}, general=GeneralSettings(source="y"))
    with pytest.raises(SettingsError) as told:
        mix({"annals": 5, "empty": 0}, chosen, 0, 0)
    said = str(told.value)
    assert said.startswith("train.mix: 5 faults")
    for words in (
        "weights: no source of training examples is named anals; did you mean annals?",
        "weights: the source empty holds no training examples",
        "caps: no source of training examples is named x; known: annals",
        "general.source: no source of training examples is named y",
        "weights: the source annals has none; weigh every source",
    ):
        assert words in said
    with pytest.raises(SettingsError, match=r"b: its share of 0.001 gives no row \(an epoch has 20 rows\)"):
        mix({"a": 100, "b": 100}, MixSettings(weights={"a": 0.999, "b": 0.001}, epoch_size=20), 0, 0)
    with pytest.raises(SettingsError, match=r"gives no row .*40 rows an epoch, not 210: a with a share"):
        mix({"a": 10, "b": 200}, MixSettings(weights={"a": 0.999, "b": 0.001}), 0, 0)


def test_weights_and_caps_that_are_not_positive_are_refused() -> None:
    for said in ({"weights": {"a": 0}}, {"weights": {"a": -1}}, {"caps": {"a": 0}}, {"max_repeats": 0}, {"epoch_size": 0},
                 {"general": {"source": "a", "share": 1}}):  # fmt: skip
        with pytest.raises(ValidationError):
            MixSettings.model_validate(said)


def test_epochs_and_seeds_differ_and_sources_are_interleaved() -> None:
    held, chosen = {"a": 400, "b": 400}, MixSettings()
    orders = [mix(held, chosen, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    changes = [sum(left[0] != right[0] for left, right in pairwise(order)) for order in orders]
    # 799 neighbours, half of them unlike; the deviation of their number is 14.
    assert all(330 < number < 470 for number in changes)
    places = [order.index(("a", 7)) for order in orders]
    assert max(places) - min(places) > 100


def test_the_source_of_an_example_is_told_by_its_file() -> None:
    sources = [
        {"name": "annals", "files": {"ming/a.csv": "0", "ming/b.csv": "1"}},
        {"name": "chat", "files": {"chat.jsonl": "2", "both.jsonl": "3"}},
        {"name": "other", "files": {"both.jsonl": "3"}},
        {"name": "chat", "files": {"chat.jsonl": "2"}},
    ]
    assert sources_of(["ming/b.csv:3", "chat.jsonl:12 row 3", "ming/a.csv:1"], sources) == ["annals", "chat", "annals"]
    with pytest.raises(InputError, match=r"both.jsonl:1: its file is read by the sources chat, other"):
        sources_of(["both.jsonl:1"], sources)
    with pytest.raises(InputError, match=r"gone.jsonl:1.*no source of this data folder"):
        sources_of(["gone.jsonl:1"], sources)
