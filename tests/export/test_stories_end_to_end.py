"""Real weights all the way: stories260K is fine-tuned, fused, exported, and told as a story by llama.cpp."""

import json
from pathlib import Path
from typing import Any

import pytest
from stories import stories_folder
from typer.testing import CliRunner

from whet.cli.main import app
from whet.export.gguf_write import write_gguf
from whet.models.base_model import open_base
from whet.records import Message
from whet.text.chat import Chat

HEROES = ("dog", "cat", "bird", "fish", "girl", "boy", "bear", "mouse", "frog", "duck", "cow", "pig")
DOINGS = ("run in the park", "sleep on the bed", "fly in the sky", "swim in the sea", "play with her toys", "eat red apples",
          "look at the moon", "hide in a box", "jump over a log", "sing a song", "walk up the hill", "roll in the mud")  # fmt: skip


def row(number: int) -> dict[str, Any]:
    hero, doing = HEROES[number], DOINGS[number]
    told = f"Once upon a time, there was a {hero}. The {hero} liked to {doing}."
    return {"messages": [{"role": "user", "content": f"Tell me about a {hero}."}, {"role": "assistant", "content": told}]}


@pytest.fixture(scope="module")
def base(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (shared_data / "stories260K").is_dir():
        pytest.skip(f"stories260K is not at {shared_data}")
    return stories_folder(shared_data / "stories260K", tmp_path_factory.mktemp("stories") / "stories260K")


def test_the_base_tells_the_story_that_it_tells_everywhere(base: Path, tmp_path: Path, llama: Any) -> None:
    """The weights are read rightly: the model's own greedy story is English, and the same by llama.cpp and transformers."""
    from whet.backends.on_torch.judge import TransformersJudge

    model, chat = open_base(base), Chat(base)
    llama.open(write_gguf(model, tmp_path / "m.gguf", "f32").path, num_context=256)
    prompt = chat.tokenizer.encode("<s>Once upon a time")
    told = llama.continue_ids(prompt, 100, [1, 2])
    assert told == TransformersJudge(model).continue_ids(prompt, 100, [1, 2])
    story = chat.tokenizer.decode([*prompt, *told])
    assert story.startswith("Once upon a time, there was a")
    assert "Lily" in story or "Tim" in story


@pytest.mark.end_to_end
def test_a_fine_tuned_story_comes_out_of_llama_cpp(base: Path, tmp_path: Path, llama: Any) -> None:
    for split, numbers in (("train", range(8)), ("valid", range(8, 10)), ("test", range(10, 12))):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in numbers))
    recipe = f"""
name: teller
base: {base}
task: {{kind: free_qa, metric: f1, max_tokens: 160}}
data:
  sources:
    - {{reader: examples, path: train.jsonl, split: train}}
    - {{reader: examples, path: valid.jsonl, split: valid, as_published: true}}
    - {{reader: examples, path: test.jsonl, split: test, as_published: true}}
  clean: {{near_duplicates: keep}}
  split: {{leaks: move}}
train: {{epochs: 40, examples_per_step: 4, learning_rate: 5.0e-3, max_length: 256, lora: {{rank: 8, alpha: 16}}}}
"""
    (tmp_path / "recipe.yaml").write_text(recipe)
    run = tmp_path / "run"

    def whet(*words: str) -> str:
        found = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.output

    whet("train", str(tmp_path / "recipe.yaml"), "-o", str(run))
    out = whet("export", "gguf", str(run), "--type", "f32", "-o", str(tmp_path / "teller.gguf"))
    plain = json.loads((tmp_path / "teller.certificate.json").read_text())
    assert plain["status"] == "passed", out
    assert {form["name"] for form in plain["forms"]} == {"fused", "gguf"}
    assert all(form["found"]["num_greedy"] == form["found"]["num_prompts"] for form in plain["forms"])
    # It was changed by its training, and tells the new story to the end.
    chat = Chat(base)
    prompt = chat.prompt_ids([Message("user", row(0)["messages"][0]["content"])])
    llama.open(tmp_path / "teller.gguf", num_context=256)
    told = llama.continue_ids(prompt, 160, [chat.end_id])
    llama.open(write_gguf(open_base(base), tmp_path / "base.gguf", "f32").path, num_context=256)
    assert told != llama.continue_ids(prompt, 160, [chat.end_id])
    story = chat.tokenizer.decode(told).strip()
    assert story.startswith("Once upon a time, there was a"), story
    assert told[-1] == chat.end_id, story
