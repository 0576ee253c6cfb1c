import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from assistant import Answer, Finished, Options, Started, Token, Usage
from assistant.images import load_picture
from assistant.parts import PARTS, part_state
from ui.cli import cli
from ui.commands.ask import show

ANSWER = Answer(
    text="a cat",
    usage=Usage(prompt_tokens=20, completion_tokens=3, cached_tokens=0),
    seconds={"load": 1.23456, "first_token": 0.2, "total": 0.5},
    model="default",
    finish_reason="stop",
)
EVENTS = [Started(20), Token("a "), Token("cat"), Finished(ANSWER)]


class Scripted:
    """Stands for `assistant.Assistant`: keeps what it was asked and answers always the same."""

    def __init__(self):
        self.loaded, self.asked = [], []

    def from_pretrained(self, name, *, progress, **options):
        progress("language", "download", 1, 2)
        self.loaded.append((name, {key: value for key, value in options.items() if value}))
        return self

    def stream(self, question, **options):
        self.asked.append((question, options))
        yield from EVENTS

    def prompt(self, *arguments):
        self.looked = arguments
        return arguments

    def look(self, prompt, answer):
        assert (prompt, answer) == (self.looked, ANSWER.text)
        spread = np.zeros((24, 32), np.float32)
        spread[:, 16:] = 1
        return SimpleNamespace(picture=prompt[1][-1], map=lambda: spread)


@pytest.fixture
def scripted(monkeypatch):
    fake = Scripted()
    monkeypatch.setattr("ui.commands.ask.quiet_libraries", lambda: None)  # it is meant for the rest of a process
    monkeypatch.setattr("assistant.Assistant", fake)
    return fake


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (32, 24), "red").save(path)
    return str(path)


def ask(*arguments, stdin=None):
    return CliRunner().invoke(cli, ["ask", *arguments], input=stdin)


def test_prints_the_answer_and_nothing_else(scripted, photo):
    result = ask(photo, "-q", "What is this?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "a cat\n", "language: downloading\n")


def test_is_greedy_unless_told_otherwise(scripted, photo):
    ask(photo, "-q", "What is this?")
    question, options = scripted.asked[0]
    assert question == "What is this?"
    assert (options["temperature"], options["max_new_tokens"], options["seed"]) == (0.0, 64, None)
    assert scripted.loaded == [("default", {})]


def test_options_reach_the_assistant(scripted, photo):
    result = ask(
        *(photo, "-q", "What?", "--model", "some/model", "--device", "cpu", "--dtype", "bfloat16"),
        *("--quantize", "nf4", "--attn", "eager", "--compile", "--max-new-tokens", "5", "--temperature", "0.7"),
        *("--top-p", "0.9", "--top-k", "8", "--min-p", "0.1", "--repetition-penalty", "1.2", "--seed", "3"),
        *("--stop", "a", "--stop", "b", "--time-limit", "2.5"),
    )
    assert result.exit_code == 0, result.stderr
    loading = {"device": "cpu", "dtype": "bfloat16", "quantize": "nf4", "attn_implementation": "eager", "compile": True}
    assert scripted.loaded == [("some/model", loading)]
    options = {key: value for key, value in scripted.asked[0][1].items() if key not in ("images", "demos")}
    expected = Options(
        max_new_tokens=5,
        temperature=0.7,
        top_p=0.9,
        top_k=8,
        min_p=0.1,
        repetition_penalty=1.2,
        stop=("a", "b"),
        seed=3,
        time_limit=2.5,
    )
    assert options == vars(expected)


def test_json_has_exactly_the_documented_keys(scripted, photo):
    found = json.loads(ask(photo, "-q", "What is this?", "--json").stdout)
    assert found == {
        "text": "a cat",
        "model": "default",
        "images": [photo],
        "prompt_tokens": 20,
        "completion_tokens": 3,
        "finish_reason": "stop",
        "seconds": {"load": 1.235, "first_token": 0.2, "total": 0.5},
    }


def test_pictures_and_demonstrations_arrive_in_order(scripted, tmp_path):
    names = []
    for colour in ("red", "green", "blue", "white"):
        names.append(str(tmp_path / f"{colour}.png"))
        Image.new("RGB", (8, 8), colour).save(names[-1])
    result = ask(
        *(names[0], names[1], "-q", "[img1] and [img2]: what is in the first?"),
        *("--demo", names[2], "What is this?", "a dax", "--demo", names[3], "And this?", "a wug"),
    )
    assert result.exit_code == 0, result.stderr
    question, options = scripted.asked[0]
    assert question == "[img1] and [img2]: what is in the first?"
    assert [picture.name for picture in options["images"]] == names[:2]
    demos = [(picture.name, asked, answer) for picture, asked, answer in options["demos"]]
    assert demos == [(names[2], "What is this?", "a dax"), (names[3], "And this?", "a wug")]


def test_without_a_picture_the_question_goes_alone(scripted):
    assert ask("-q", "What is the capital of France?").exit_code == 0
    assert scripted.asked[0][1]["images"] == []


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_heat_map_is_written_over_the_picture(scripted, photo, tmp_path, more):
    path = tmp_path / "map.png"
    result = ask(photo, "-q", "What is this?", "--demo", photo, "And this?", "a dog", "--attention", str(path), *more)
    assert result.exit_code == 0, result.stderr
    assert "a cat" in result.stdout and result.stdout.count("\n") == 1
    question, pictures, demos = scripted.looked
    assert (question, [p.name for p in pictures], demos[0][1:]) == ("What is this?", [photo], ("And this?", "a dog"))
    with Image.open(path) as shown:
        assert shown.size == (32, 24)
        dark, bright = shown.getpixel((4, 12)), shown.getpixel((28, 12))
    assert sum(dark) < 150 and sum(bright) > 400


def test_nothing_is_loaded_for_a_heat_map_that_cannot_be(scripted, photo, tmp_path):
    asking = [photo, "-q", "What is this?", "--attention"]
    for arguments, says in (
        (["-q", "What is this?", "--attention", str(tmp_path / "map.png")], "no picture"),
        ([*asking, str(tmp_path / "map")], ".png"),
        ([*asking, str(tmp_path / "none" / "map.png")], "cannot be written"),
        ([*asking, str(tmp_path)], "is a directory"),
    ):
        result = ask(*arguments)
        assert (result.exit_code, says in result.stderr) == (2, True), result.stderr
    assert scripted.loaded == []


@pytest.mark.parametrize("arguments", [[], ["-q", "-"]])
def test_a_pipe_brings_the_question(scripted, photo, arguments):
    assert ask(photo, *arguments, stdin="What is\nthis?\n").exit_code == 0
    assert scripted.asked[0][0] == "What is\nthis?"


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (["-q", ""], None, "no question"),
        (["-q", " \n"], "unused", "no question"),
        ([], "", "no question"),
        ([], b"\xff\xfe\x00", "UTF-8"),
        (["-q", "what \udcff"], None, "UTF-8"),
        (["-q", "Compare [img1] with [img2]."], None, "[img2]"),
        (["-q", "x", "--demo", "PHOTO", "What?", " "], None, "demonstration 1"),
        (["-q", "x", "--temperature", "nan"], None, "temperature must be 0"),
        (["-q", "x", "--max-new-tokens", "0"], None, "max_new_tokens must be at least 1, got 0"),
        (["-q", "x", "--top-p", "-1"], None, "top_p must be above 0"),
        (["-q", "x", "--beams", "2", "--temperature", "1"], None, "do not sample"),
        (["-q", "x", "--stop", ""], None, "stop must be strings"),
        (["-q", "x", "--quantize", "nf8"], None, "nf4"),
    ],
)
def test_a_wrong_call_ends_before_anything_is_loaded(scripted, photo, arguments, stdin, says):
    result = ask(photo, *[photo if word == "PHOTO" else word for word in arguments], stdin=stdin)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert scripted.loaded == []


def test_notes_about_pictures_go_to_stderr(scripted, tmp_path):
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    result = ask(str(path), "-q", "What is this?", "--json")
    assert json.loads(result.stdout)["text"] == "a cat"
    assert result.stderr.splitlines()[0] == f"note: {path}: {load_picture(path).notes[0]}"


def test_a_terminal_sees_the_answer_grow(monkeypatch, capsys):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", screen)
    seen = []

    def events():
        for event in EVENTS:
            seen.append(screen.getvalue())
            yield event

    show(events())
    assert seen[2:] == ["a ", "a cat"]
    assert screen.getvalue() == "a cat\n"


CALL = """
import sys
from assistant.images import load_picture
from assistant.parts import PARTS, part_state
from ui.cli import cli
try:
    cli.main(sys.argv[1:])
finally:
    print("torch" in sys.modules)
"""


def test_a_bad_picture_ends_before_torch_is_even_imported(tmp_path):
    text = tmp_path / "letter.jpg"
    text.write_text("Dear reader")
    done = subprocess.run(
        [sys.executable, "-c", CALL, "ask", str(text), "-q", "What is this?"],
        env={**os.environ, "ASSISTANT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == "False\n"
    assert done.stderr.startswith("error: ")
    assert str(text) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_the_default_answers_with_examples_and_says_nothing_else(photo):
    if any(part_state(name) != "ready" for name in PARTS):
        pytest.skip("needs the frozen parts: assistant models fetch")
    command = ["ask", photo, "-q", "[img1] What is this?", "--demo", photo, "What is this?", "a dax"]
    done = subprocess.run(
        [sys.executable, "-c", "from ui.cli import main; main()", *command, "--json", "--max-new-tokens", "4"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["text"]
    assert found["images"] == [photo]
    assert 0 < found["completion_tokens"] <= 4
    assert 0 < found["seconds"]["first_token"] <= found["seconds"]["total"]
