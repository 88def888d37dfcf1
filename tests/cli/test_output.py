"""What is printed where: stdout for results, stderr for the rest, pictures only on a terminal that can."""

import io
import json
import warnings

import pytest
from PIL import Image

from opentar.commands.output import Output
from opentar.commands.terminal import half_blocks, show


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def halves() -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    image.paste((0, 0, 255), (0, 4, 8, 8))
    return image


@pytest.fixture
def truecolor(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    for name in ("NO_COLOR", "CI", "OPENTAR_TERMINAL_PICTURES"):
        monkeypatch.delenv(name, raising=False)


def test_half_blocks_carry_two_pixels_a_cell(halves):
    text = half_blocks(halves, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀\n"
    assert text.spans[0].style.color.triplet == (255, 0, 0)
    assert text.spans[-1].style.bgcolor.triplet == (0, 0, 255)


def test_a_picture_is_shown_on_a_terminal(halves, truecolor):
    stream = Terminal()
    assert show(halves, stream)
    assert "▀" in stream.getvalue()
    assert "38;2;255;0;0" in stream.getvalue()


@pytest.mark.parametrize(
    ("variable", "value"), [("NO_COLOR", "1"), ("OPENTAR_TERMINAL_PICTURES", "0"), ("TERM", "dumb")]
)
def test_or_not_where_it_is_not_wanted(halves, truecolor, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    stream = Terminal()
    assert not show(halves, stream)
    assert stream.getvalue() == ""


def test_never_in_a_pipe_or_without_the_character(halves, truecolor):
    assert not show(halves, io.StringIO())
    stream = Terminal()
    stream.encoding = "ascii"
    assert not show(halves, stream)


def test_prints_of_libraries_stay_off_stdout(capsys):
    output = Output(json=True)
    with output.working():
        print("a library's chatter")
        warnings.warn("somebody else's", UserWarning, stacklevel=1)
    output.line("for people")
    output.picture(Image.new("RGB", (8, 8)))
    output.result({"a": "苹果"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": "苹果"}
    assert captured.err == "a library's chatter\n"


def test_progress_is_one_line_a_stage_without_a_terminal(capsys):
    with Output().progress() as callback:
        for step in range(1, 4):
            callback("codes", step, 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("codes: 3 steps, ")
    assert captured.err.count("\n") == 1


def test_progress_is_a_bar_on_a_terminal(truecolor, monkeypatch, capsys):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with Output().progress() as callback:
        for step in range(1, 4):
            callback("codes", step, 3)
    assert "codes" in stream.getvalue()
    assert "3/3" in stream.getvalue()


def test_a_line_is_printed_without_the_bar_in_it(truecolor, monkeypatch, capsys):
    """Both go to the same terminal: the bar is taken off, the line printed, and the bar drawn again."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", terminal)
    output = Output()
    with output.progress() as callback:
        callback("codes", 1, 3)
        output.line("out-0.png")
        output.note("a remark")
        callback("codes", 2, 3)
    shown = terminal.getvalue()
    erased = "\x1b[2K"
    for text in ("out-0.png\n", "a remark\n"):
        before = shown[: shown.index(text)]
        # What was on the line of the bar is gone when the text begins, at its first column.
        assert before.endswith(erased), before[-40:]
    assert "2/3" in shown[shown.index("a remark") :]


def test_a_stream_that_ends_keeps_its_meaning(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Gone())
    with pytest.raises(BrokenPipeError):
        Output().line("text")
