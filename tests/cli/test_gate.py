"""`whet gate` in a shell: one line in words, JSON for machines, and an exit code that tells a verdict from a fault."""

import json
import sys

import pytest
from judged_results import on_disk, result, rights

from whet.cli import main as cli
from whet.config import read_yaml
from whet.evaluate.policy import read_policy


@pytest.fixture
def gate(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = [at % 2 for at in range(200)]
    on_disk(tmp_path / "live", result("live", {"exam": rights(before)}))
    on_disk(tmp_path / "good", result("good", {"exam": rights([1 if at < 120 else right for at, right in enumerate(before)])}))
    on_disk(tmp_path / "bad", result("bad", {"exam": rights([0 if at < 120 else right for at, right in enumerate(before)])}))
    on_disk(tmp_path / "few", result("few", {"exam": rights([1] * 2 + before[2:])}))
    (tmp_path / "gate.yaml").write_text("resamples: 999\n")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["whet", "gate", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return stop.value.code or 0, said.out, said.err

    return call


@pytest.mark.parametrize(
    ("candidate", "code", "verdict"), [("good", 0, "promote"), ("bad", 1, "refuse"), ("few", 2, "can't tell")]
)
def test_the_exit_code_is_the_verdict(gate, candidate, code, verdict):
    found, out, _ = gate(candidate, "--against", "live", "--policy", "gate.yaml")
    assert found == code
    assert out.splitlines()[-1].startswith(f"{verdict}: ")
    found, out, _ = gate(candidate, "--against", "live", "--policy", "gate.yaml", "--json")
    row = json.loads(out)
    assert (found, row["verdict"], row["exit_code"], row["error"]) == (code, verdict, code, None)
    assert all({"name", "outcome", "figure", "limit", "words"} <= check.keys() for check in row["checks"])


def test_without_a_policy_the_built_in_one_is_shown(gate):
    code, out, _ = gate("good", "--against", "live")
    assert code == 0
    assert out.startswith("The built-in policy: improvement.part: null, ")
    assert "not asked for by the policy: latency, size, memory" in out
    assert "exam: wrong to right 60, right to wrong 0" in out


def test_groups_are_said_where_examples_share_them(gate, tmp_path):
    groups = {f"e{at}": f"d{at // 4}" for at in range(200)}
    for name, outcomes in (("live", [at % 2 for at in range(200)]), ("good", [1] * 200)):
        on_disk(tmp_path / name, result(name, {"exam": rights(outcomes)}), groups)
    _, out, _ = gate("good", "--against", "live", "--policy", "gate.yaml")
    assert "200 examples in 50 groups; " in out


def test_a_fault_is_told_apart_from_a_verdict(gate):
    code, out, err = gate("nowhere", "--against", "live", "--json")
    row = json.loads(out)
    assert (code, row["verdict"], row["exit_code"]) == (2, None, 2)
    assert row["error"]["place"] == "nowhere"
    assert row["error"]["what"].startswith("is neither")
    assert err == ""  # said once
    code, out, err = gate("good", "--against", "live", "--policy", "nowhere.yaml")
    assert (code, out) == (2, "")
    assert "no such file" in err


def test_the_policy_of_the_recipes_is_one(gate):
    from pathlib import Path

    path = Path(cli.__file__).parents[2] / "recipes" / "gates" / "improve.yaml"
    found = read_policy(path)
    assert set(read_yaml(path)[0]) <= set(type(found).model_fields)
    assert found.limits.p95_ratio == 1.5
