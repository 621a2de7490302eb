"""A server in the base's place: data, answers, violations, cost and report, without a base on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, Reply, Seen, chat

from whet.config import explain
from whet.errors import InputError
from whet.pipeline.ask import ask_run
from whet.pipeline.bench import Silent
from whet.pipeline.run import evaluate_folder, run, saved_recipe
from whet.recipe import recipe_from
from whet.storage import read_json, read_jsonl

pytestmark = pytest.mark.end_to_end
KEY = "sk-0123456789-of-a-server"
TEXTS = {
    "少師<P>蹇義</P>卒。": '[{"name":"蹇義"}]',
    "太保<P>楊榮</P>致仕。": '```json\n[{"name":"楊榮"}]\n```',
    "尚書<P>胡濙</P>請老。": '[{"name":"胡瀅"}]',
    "是日大雨雹。": "[]",
}


class Log(Silent):
    """A watch that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[str, bool]] = []

    def begin(self, step: str, is_skipped: bool) -> None:
        self.steps.append((step, is_skipped))

    def say(self, words: str) -> None:
        self.said.append(words)


def reply(seen: Seen) -> Any:
    for tagged, said in TEXTS.items():
        if tagged.replace("<P>", "").replace("</P>", "") in seen.text:
            return chat(said, counts=(100, 10))
    return Reply({"error": "who?"}, 400)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(reply) as server:
        yield server


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "test.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    # Far longer than the base holds: a server is asked all the same.
    (folder / "train.txt").write_text("尚書<P>夏原吉</P>" + "卒。" * 3000, encoding="utf-8")
    (folder / "valid.txt").write_text("太師<P>張輔</P>薨。", encoding="utf-8")
    return folder


def recipe(corpus: Path, url: str, *overrides: str) -> Any:
    raw = {
        "name": "served",
        "task": {"kind": "extraction", "fields": [{"name": "name"}]},
        "data": {
            "sources": [
                {"reader": "inline", "path": f"{split}.txt", "split": split, "tags": {"name": {"tag": "P"}}}
                for split in ("train", "valid", "test")
            ]
        },
        "train": None,
        "evaluate": {"baselines": ["dictionary"], "resamples": 99},
    }
    given = ["engine.kind=http", f"engine.url={url}", "engine.model=m", "engine.dialect=openai", "engine.backoff_s=0.001"]
    return recipe_from(raw, [*given, *overrides], "test", corpus)


def test_a_server_is_evaluated_on_the_terms_of_a_specialist(
    server: FakeServer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    monkeypatch.setattr("whet.backends.open.open_backend", lambda *_: pytest.fail("opened the base"))
    folder, log = tmp_path / "run", Log()
    settings = recipe(corpus, server.url, "engine.api_key_env=THE_KEY", "engine.prompt_price=1", "engine.completion_price=10")
    report = run(settings, folder, log)
    assert report
    assert [system.name for system in report.systems] == ["server", "dictionary"]
    rates = report.systems[0].rates
    # A fence and a name that is not in the text: both break what was asked for; the fence can't be read either.
    assert rates == {"unread": 0.25, "violated": 0.5, "truncated": 0.0, "ungrounded": 0.5, "error": 0.0}
    rows = {
        row["text"]: row["violation"].partition(":")[0] for row in read_jsonl(folder / "evaluate" / "server" / "answers.jsonl")
    }
    assert list(rows.values()) == ["", "fence", "ungrounded", ""]
    assert "```" in list(rows)[1]
    usage = read_json(folder / "evaluate" / "server" / "usage.json")
    assert (usage["requests"], usage["prompt_tokens"], usage["cost"]) == (4, 400, pytest.approx(400e-6 + 400e-6))
    assert any(words.startswith("server: 4 requests, 400 + 40 tokens, cost 0.0008") for words in log.said)
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 8
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert not [row for row in explain(settings) if KEY in str(row)]
    assert ("server", f"m at {server.url}") in report.provenance
    assert sum(1 for _ in read_jsonl(folder / "data" / "train.jsonl")) == 1

    # What was asked is not asked again; what changes no answer changes nothing.
    again = recipe(corpus, server.url, "engine.concurrency=2", "engine.api_key_env=THE_KEY")
    log = Log()
    assert run(again, folder, log)
    assert log.steps == [("data", True), ("evaluate", True), ("report", False)]
    assert evaluate_folder(folder, Log()).systems
    assert len(server.seen) == 4
    assert run(recipe(corpus, server.url, "engine.temperature=1.0"), folder, Log())
    assert len(server.seen) == 8


def test_a_server_that_fails_too_often_has_no_score(server: FakeServer, corpus: Path, tmp_path: Path) -> None:
    (corpus / "test.txt").write_text("\n".join([*TEXTS, "右都御史<P>顧佐</P>至。"]), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"20% of the requests to server failed, so there is no score; the first: status 400: who\?"
    ):
        run(recipe(corpus, server.url), tmp_path / "run", Log())
    report = run(recipe(corpus, server.url, "evaluate.max_error_rate=0.5"), tmp_path / "run", Log())
    assert report
    assert report.systems[0].rates["error"] == pytest.approx(0.2)


def test_a_server_that_is_not_there_is_one_message(corpus: Path, tmp_path: Path) -> None:
    with FakeServer(reply) as gone:
        url = gone.url
    with pytest.raises(InputError, match="is the server up"):
        run(recipe(corpus, url, "engine.dialect=auto", "engine.retries=0"), tmp_path / "run", Log())


def test_the_command_line_asks_a_server(server: FakeServer, corpus: Path, tmp_path: Path) -> None:
    """And opens neither torch nor transformers for it."""
    path = corpus / "recipe.json"
    plain = recipe(corpus, server.url).model_dump(mode="json")
    plain["engine"] = {"kind": "local"}
    path.write_text(json.dumps(plain), encoding="utf-8")
    code = (
        "import sys; from whet.cli.main import main\n"
        "try: main()\n"
        "finally: print('HEAVY', sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    more = ["engine.kind=http", f"engine.url={server.url}", "engine.model=m", "engine.dialect=openai"]
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", str(path), *more, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "server" in done.stdout
    assert "HEAVY []" in done.stdout
    asked = ask_run(tmp_path / "run", "少師蹇義卒。")
    assert [record["name"].text for record in asked.records if record["name"]] == ["蹇義"]
    assert saved_recipe(tmp_path / "run").engine.kind == "http"
