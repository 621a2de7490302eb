"""The gate's settings: strict, all faults at once, and never more doubt spent than there is."""

import pytest
from scipy import stats

from whet.config import explain
from whet.errors import SettingsError
from whet.evaluate.policy import GatePolicy, ImprovementPolicy, read_policy


def test_all_faults_are_told_at_once_with_place_and_the_nearest_name(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text("improvment: {}\nlooks: 0\nforgetting:\n  tolerence: 0.1\nallow_changes: [promts]\noverlap: nothing\n")
    with pytest.raises(SettingsError) as caught:
        read_policy(path)
    said = str(caught.value)
    assert len(caught.value.faults) == 5
    assert "gate.yaml:1: unknown setting improvment; did you mean improvement?" in said
    assert "gate.yaml:4: unknown setting forgetting.tolerence; did you mean tolerance?" in said
    assert "allow_changes.0" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("improvement: {at_least: 0.1, effect: 0.1}", "effect must be above at_least"),
        ("improvement: {at_least: 0}", "effect must be given"),
        ("categories: {by_name: {law: 1.5}}", "by_name.law must lie between 0 and 1"),
        ("forgetting: {by_part: {mmlu: 0}}", "by_part.mmlu must lie between 0 and 1"),
        ("alpha: 0.6", "less than 0.5"),
    ],
)
def test_a_policy_that_can_not_be_kept_is_refused(tmp_path, text, words):
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(SettingsError, match=words):
        read_policy(tmp_path / "gate.yaml")


def test_overrides_and_defaults(tmp_path):
    (tmp_path / "gate.yaml").write_text("forgetting: null\n")
    found = read_policy(tmp_path / "gate.yaml", ["improvement.at_least=0.1", "looks=3"])
    assert (found.forgetting, found.looks, found.improvement.planned) == (None, 3, 0.2)
    assert {row[0] for row in explain(GatePolicy())} >= {"improvement.at_least", "categories.tolerance", "alpha"}
    assert all(row[3] for row in explain(GatePolicy()))


@pytest.mark.parametrize("spending", ["even", "late"])
@pytest.mark.parametrize("looks", [1, 2, 5])
def test_the_looks_together_spend_alpha_and_no_more(spending, looks):
    policy = GatePolicy(looks=looks, spending=spending)
    parts = [policy.alpha_at(look) for look in range(1, looks + 1)]
    assert sum(parts) == pytest.approx(0.05)
    assert all(part > 0 for part in parts)
    with pytest.raises(ValueError, match="look"):
        policy.alpha_at(looks + 1)


def test_late_spending_is_that_of_lan_and_demets():
    policy = GatePolicy(looks=2, spending="late")
    assert policy.alpha_at(1) == pytest.approx(2 * stats.norm.sf(stats.norm.isf(0.025) / 0.5**0.5))
    assert policy.alpha_at(1) < policy.alpha_at(2)


def test_the_default_level_is_that_of_an_ordinary_interval():
    assert GatePolicy().alpha_at(1) == 0.025


def test_the_plan_holds_what_may_not_change_after_the_first_look():
    plan = GatePolicy().plan()
    assert GatePolicy(resamples=999).plan() == plan
    assert GatePolicy(looks=3).plan() != plan
    assert GatePolicy(improvement=ImprovementPolicy(at_least=0.01)).plan() != plan
