"""What a person sees of a run: all figures at 80 columns in a terminal, plain lines in a pipe."""

import dataclasses
import io
import re
from types import SimpleNamespace

import pytest

from whet.cli.bars import fill
from whet.cli.watch import TerminalWatch, say_bytes, say_left, say_pace
from whet.train.course import Progress

STEP = Progress(
    step=40,
    num_steps=120,
    loss=0.8124,
    valid_loss=None,
    best_loss=0.7904,
    learning_rate=4e-4,
    gradient_norm=0.32,
    examples_per_s=8.31,
    tokens_per_s=5123.4,
    learnt_per_s=410.0,
    num_tokens=1000,
    num_computed=310,
    peak_memory=1288490189,
    seconds=100.0,
    seconds_left=200.0,
)


class Screen(io.StringIO):
    """A stream that says whether it is a terminal, and in which encoding."""

    def __init__(self, is_terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self.is_terminal, self.name_of_encoding = is_terminal, encoding

    def isatty(self) -> bool:
        return self.is_terminal

    @property
    def encoding(self) -> str:
        return self.name_of_encoding


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch):
    """A watch over a stream that stands for standard error, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def make(is_terminal: bool, encoding: str = "utf-8") -> tuple[TerminalWatch, Screen]:
        stream = Screen(is_terminal, encoding)
        monkeypatch.setattr("sys.stderr", stream)
        return TerminalWatch(), stream

    return make


def seen(stream: Screen) -> list[str]:
    """The lines of all that was written, without the codes that move the cursor or colour."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").split("\n")


def test_a_terminal_shows_all_figures_within_its_width(screen) -> None:
    watch, stream = screen(True)
    watch.trained(STEP)
    watch.close()
    lines = seen(stream)
    text = "\n".join(lines)
    assert all(len(line) <= 80 for line in lines)
    for figure in (
        "40/120",
        "loss 0.812",
        "best validation 0.790",
        "5,123 tokens/s",
        "8.31 examples/s",
        "prefix shared: computes 31 % of the tokens",
        "peak memory 1.2 GiB",
        "3 min 20 s left",
    ):
        assert figure in text


def test_a_pipe_gets_plain_lines_and_each_validation(screen) -> None:
    watch, stream = screen(False)
    watch.trained(STEP)
    watch.trained(dataclasses.replace(STEP, step=41))  # too soon after the last line
    watch.trained(dataclasses.replace(STEP, step=42, valid_loss=0.7904))
    watch.trained(dataclasses.replace(STEP, step=120, seconds_left=0.0))
    first, second, third, rest = stream.getvalue().split("\n")
    assert first.startswith("  training 40 of 120  loss 0.812, best validation 0.790,")
    assert first.endswith("prefix shared: computes 31 % of the tokens, peak memory 1.2 GiB, 3 min 20 s left")
    assert second.startswith("  training 42 of 120  validation 0.790, loss 0.812,")
    assert third.startswith("  training 120 of 120")
    assert "left" not in third
    assert rest == ""
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("num_computed", "words"),
    [
        (310, "prefix shared: computes 31 % of the tokens"),
        (1000, "nothing shared: computes 100 % of the tokens"),
        (1120, "padding: computes 112 % of the tokens"),
    ],
)
def test_what_sharing_saves_or_padding_costs_is_told(num_computed: int, words: str) -> None:
    assert words in say_pace(dataclasses.replace(STEP, num_computed=num_computed))


def test_what_is_not_known_yet_is_not_told() -> None:
    early = dataclasses.replace(STEP, num_tokens=0, peak_memory=0, seconds_left=float("inf"))
    assert say_pace(early) == ("8.31 examples/s", "5,123 tokens/s")
    assert say_left(early) == ""
    assert say_bytes(2**30) == "1.0 GiB"
    assert say_bytes(740 * 2**20) == "740 MiB"


def test_figures_are_never_broken_over_lines() -> None:
    words = ("loss 1", "a" * 12, "b c d", "e" * 40)
    assert fill(words, 22) == ["loss 1, aaaaaaaaaaaa,", "b c d,", "e" * 40]
    assert fill(words, 200) == [", ".join(words)]


CURVES = SimpleNamespace(train_curve=((1, 3.0), (2, 2.0), (3, 1.0)), valid_curve=((0, 3.0), (3, 1.5)), best_step=3)


def test_the_curve_is_drawn_in_a_terminal_and_not_in_a_pipe(screen) -> None:
    watch, stream = screen(True)
    watch.ended(CURVES)
    lines = seen(stream)
    assert "loss in nats a learnt token, by step" in lines[0]
    assert "◆ best: 1.5 at step 3" in "\n".join(lines)
    assert all(len(line) <= 80 for line in lines)
    watch, stream = screen(False)
    watch.ended(CURVES)
    assert stream.getvalue() == ""


def test_a_terminal_without_braille_gets_plain_characters(screen) -> None:
    watch, stream = screen(True, "ascii")
    watch.ended(CURVES)
    assert "* best: 1.5 at step 3" in stream.getvalue()
    assert stream.getvalue().isascii()


def test_words_between_steps_end_the_bar_and_a_new_one_begins(screen) -> None:
    watch, stream = screen(True)
    watch.trained(STEP)
    watch.say("wandb failed at step 41 [gone]")
    watch.trained(dataclasses.replace(STEP, step=42))
    watch.count("base", 1, 2)
    watch.close()
    text = "\n".join(seen(stream))
    assert text.index("40/120") < text.index("wandb failed at step 41 [gone]") < text.index("42/120") < text.index("1/2")
