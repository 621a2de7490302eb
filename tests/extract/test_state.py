"""What is kept is kept whole; what the disk or another hand does to it is told."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from whet.errors import InputError
from whet.extract.bound import open_state
from whet.extract.found import Found
from whet.extract.state import FILE, Outcome, Part, State
from whet.records import Value


def part(number: int, text: str = "text") -> Part:
    return Part(f"c{number}", 1, 1, 10 * number, 10 * number + len(text), text)


def statuses(state: State) -> dict[str, str]:
    return dict(state.rows("SELECT id, status FROM chunks"))


def test_what_was_not_committed_is_gone_after_a_kill_and_the_rest_is_whole(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.keep(part(1), Outcome("done", (Found({"name": Value("蹇義")}),)), 1)
    state.commit()
    state.keep(part(2), Outcome("done"), 1)
    state._db.close()  # as a kill does: nothing more is written
    with closing(State(tmp_path)) as again:
        assert statuses(again) == {"c1": "done"}


def test_halves_take_the_place_of_a_chunk_all_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(State(tmp_path)) as state:
        state.keep(part(1), Outcome("failed"), 1)
        kept = state.keep

        def interrupted(one: Part, outcome: Outcome, number: int) -> None:
            if one.id == "c3":
                raise KeyboardInterrupt
            kept(one, outcome, number)

        monkeypatch.setattr(state, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            state.halve(part(1), [part(2), part(3)], 1)
        assert statuses(state) == {"c1": "failed"}
        monkeypatch.undo()
        state.halve(part(1), [part(2), part(3)], 1)
        assert statuses(state) == {"c1": "halved", "c2": "waiting", "c3": "waiting"}


def test_it_commits_by_number_and_by_time_and_seldom_where_that_is_slow(tmp_path: Path) -> None:
    with closing(State(tmp_path)) as state, closing(sqlite3.connect(tmp_path / FILE)) as other:

        def seen() -> int:
            return int(other.execute("SELECT COUNT(*) FROM chunks").fetchone()[0])

        for number in range(64):
            state._last += 100  # no time goes by
            state.keep(part(number), Outcome("done"), 1)
            state.commit_if_due()
            assert seen() == (64 if number == 63 else 0)
        state.keep(part(100), Outcome("done"), 1)
        state._last -= 1.1
        state.commit_if_due()
        assert seen() == 65
        state._cost = 0.01
        state.keep(part(101), Outcome("done"), 1)
        state._last -= 0.3
        state.commit_if_due()
        assert seen() == 65
        state._last -= 0.3
        state.commit_if_due()
        assert seen() == 66


def test_a_state_of_another_version_or_with_other_settings_is_refused_until_anew(tmp_path: Path) -> None:
    decisive = {"task": {"fields": [{"name": "a"}], "max_tokens": 8}, "adapter": "x" * 64}
    open_state(tmp_path, decisive, is_anew=False).close()
    open_state(tmp_path, decisive, is_anew=False).close()
    other = {"task": {"fields": [{"name": "b"}], "max_tokens": 9}, "adapter": None}
    with pytest.raises(
        InputError, match=r"adapter is nothing, it was xxx.*task\.fields\.0\.name is b, it was a; task\.max_tokens is 9"
    ):
        open_state(tmp_path, other, is_anew=False)
    open_state(tmp_path, other | {"code": {"text": "1", "tasks": "1"}}, is_anew=True).close()
    with pytest.raises(InputError, match=r"whet's own code has changed \(tasks\)"):
        open_state(tmp_path, other | {"code": {"text": "1", "tasks": "2"}}, is_anew=False)
    with closing(State(tmp_path)) as state:
        state.set_fact("schema", 99)
    with pytest.raises(InputError, match="another version of whet"):
        open_state(tmp_path, other, is_anew=False)
