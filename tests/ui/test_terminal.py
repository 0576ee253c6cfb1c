import base64
import io
import os
import re
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from assistant.errors import AssistantError, InputError
from assistant.events import Answer, Failed, Finished, Notice, Started, Token, Usage
from assistant.images import Picture
from prompts import ImagePart, Message, TextPart, user_message, with_markers
from ui.terminal.inline import drawing, iterm, kitty, protocol, sixel
from ui.terminal.lines import PipedLines, PromptLines, completer, goes_on
from ui.terminal.screen import Screen, stopped_by_ctrl_c
from ui.terminal.typed import picture_sources, split_words, typed_pictures

# Typed


@pytest.mark.parametrize(
    ("line", "sources"),
    [
        ("a.png", ["a.png"]),
        ("a.png b.png", ["a.png", "b.png"]),
        ("'my photo.png' \"it's.png\"", ["my photo.png", "it's.png"]),
        (r"/home/me/my\ photo\ \(1\).png ", ["/home/me/my photo (1).png"]),  # as iTerm and macOS drop it
        (r"'/home/me/it'\''s.png' ", ["/home/me/it's.png"]),  # as GNOME's terminal drops it
        ("file:///home/me/my%20photo.png", ["/home/me/my photo.png"]),  # as kitty drops it
        ("FILE://localhost/home/me/a%23b.png", ["/home/me/a#b.png"]),
        ("http://example.org/a%20b.png", ["http://example.org/a%20b.png"]),
        ("~/a.png", ["~/a.png"]),
    ],
)
def test_pictures_as_they_are_written_and_dropped(line, sources):
    assert picture_sources(line) == sources


def test_a_plain_path_is_taken_whole_if_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my photo.png", "it's.png", "a\\ b.png"):
        (tmp_path / name).touch()
        assert picture_sources(f"{name} ") == [name]


@pytest.mark.parametrize("line", ["it's.png", "file://elsewhere/a.png"])
def test_what_names_no_picture_is_said(line):
    with pytest.raises(InputError, match=r"quot|elsewhere"):
        picture_sources(line)


def test_a_line_of_pictures_alone_is_told_from_a_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "my photo.png", "word"):
        (tmp_path / name).touch()
    folder = str(tmp_path)
    assert typed_pictures("a.png") == ["a.png"]
    assert typed_pictures(f"'{folder}/my photo.png' a.png") == [f"{folder}/my photo.png", "a.png"]
    assert typed_pictures("https://example.org/a.png") == ["https://example.org/a.png"]
    for message in (
        "word",  # there is such a file, and nobody means it
        "What is in a.png?",
        "a.png missing.png",
        "missing.png",
        "don't",
        folder,
        "see https://example.org/a.png",
        "x" * 100_000,
        "\0.png",
        "~nobody-of-this-name/a.png",
        "",
    ):
        assert typed_pictures(message) == []


parts = st.lists(st.one_of(st.text("ab \n\\'", min_size=1).map(TextPart), st.integers(0, 9).map(ImagePart)), min_size=1)


@given(parts)
def test_what_was_sent_can_be_typed_again(parts):
    message = Message("user", tuple(parts))
    joined = [(part.text if isinstance(part, TextPart) else part) for part in parts]
    if "".join(part for part in joined if isinstance(part, str)).strip() or message.images:
        again = user_message(with_markers(message), message.images)
        assert (again.text, again.images) == (message.text, message.images)
        assert spoken(again) == spoken(message)


def spoken(message):
    """Pictures and what stands between them."""
    found = [""]
    for part in message.parts:
        found = [*found, part.image, ""] if isinstance(part, ImagePart) else [*found[:-1], found[-1] + part.text]
    return found


@pytest.mark.parametrize(("text", "words"), [("a 'b c' d\\ e \"f'g\"", ["a", "b c", "d e", "f'g"]), ("", [])])
def test_words(text, words):
    assert split_words(text) == words


# Lines


def test_piped_lines_and_those_that_go_on():
    lines = PipedLines(io.BytesIO("\ufeffone\r\ntwo\\\nthree\\\\\n\nlast\\\nend".encode()))
    assert [lines.read() for _ in range(5)] == ["one", "two\nthree\\\\", "", "last\nend", None]


def test_a_piped_line_that_is_no_text_is_said_and_the_next_is_read():
    lines = PipedLines(io.BytesIO(b"\xff\xfe\ngood\n"))
    with pytest.raises(InputError, match="UTF-8"):
        lines.read()
    assert lines.read() == "good"


def test_goes_on():
    assert [goes_on(line) for line in ("a", "a\\", "a\\\\", "\\", "")] == [False, True, False, True, False]


@pytest.fixture
def typing():
    """Lines of a prompt, and what types into it."""
    with create_pipe_input() as keyboard:

        def made(keys, history=None, commands=()):
            keyboard.send_text(keys)
            return PromptLines(history, commands, input=keyboard, output=DummyOutput())

        yield made


ALT_ENTER = "\x1b\r"


def test_several_lines_are_one_message(typing):
    lines = typing(f"one\\\rtwo{ALT_ENTER}three\rnext\r")
    assert [lines.read(), lines.read()] == ["one\ntwo\nthree", "next"]


def test_ctrl_c_clears_the_line_and_ctrl_d_ends(typing):
    lines = typing("wrong\x03right\r\x04")
    assert [lines.read(), lines.read()] == ["right", None]


def test_a_line_begins_with_its_default(typing):
    assert typing(" more\r").read(default="some") == "some more"


def test_what_is_pasted_keeps_its_lines(typing):
    assert typing("\x1b[200~one\ntwo\x1b[201~\r").read() == "one\ntwo"


def test_history_is_kept_for_its_owner_alone(typing, tmp_path):
    history = tmp_path / "home" / "history"
    typing("first\r", history).read()
    assert "first" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    assert typing("\x1b[A\r", history).read() == "first"


def test_a_history_that_cannot_be_written_is_said(typing, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AssistantError, match="--no-store keeps no history"):
        typing("", tmp_path / "file" / "history")


def test_commands_and_paths_are_completed(tmp_path):
    (tmp_path / "photo.png").touch()

    def completed(text):
        found = completer(["image", "help"]).get_completions(Document(text), CompleteEvent())
        return [text[: len(text) + one.start_position] + one.text for one in found]

    assert completed("/he") == ["/help"]
    assert completed(f"/image {tmp_path}/pho") == [f"/image {tmp_path}/photo.png"]
    assert completed(f"{tmp_path}/pho") == [f"{tmp_path}/photo.png"]
    assert completed("What is pho") == []


# Pictures


@pytest.mark.parametrize(
    ("environ", "draws"),
    [
        ({"TERM": "xterm-kitty"}, kitty),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, kitty),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, iterm),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, iterm),
        ({"TERM": "foot"}, sixel),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "screen-256color", "TMUX": "/tmp/tmux", "KITTY_WINDOW_ID": "1"}, None),
        ({}, None),
    ],
)
def test_terminals_that_show_pictures(environ, draws):
    assert protocol(environ) is draws


@pytest.mark.parametrize(
    ("attributes", "draws"),
    [("\x1b[?62;4;22c", sixel), ("\x1b[?64;1;2;14c", None), ("\x1b[?4c", None), ("", None), ("4", None)],
)
def test_a_terminal_may_say_that_it_knows_sixels(attributes, draws):
    assert protocol({"TERM": "xterm"}, lambda: attributes) is draws


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_kitty_gets_the_picture_in_pieces():
    image = noise(300, 100)
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(image))
    assert len(commands) > 1 and all(len(data) <= 4096 for _, data in commands)
    assert commands[0][0] == "a=T,f=100,q=2,r=5,m=1"
    assert [keys for keys, _ in commands[1:]] == ["m=1"] * (len(commands) - 2) + ["m=0"]
    assert_same(base64.b64decode("".join(data for _, data in commands)), image)


def test_iterm_gets_the_picture_at_once():
    image = noise(30, 20)
    fields, data = re.fullmatch(r"\x1b\]1337;File=(.*):([^:]*)\a", iterm(image)).groups()
    data = base64.b64decode(data)
    assert fields == f"inline=1;size={len(data)};height=1;preserveAspectRatio=1"
    assert_same(data, image)


def assert_same(png, image):
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), np.asarray(image))


def test_sixels_are_the_pixels():
    pixels = np.random.default_rng(1).choice([0, 51, 255], (20, 37, 3)).astype(np.uint8)
    pixels[:, 10:30] = 255  # runs
    assert np.abs(unsixel(sixel(Image.fromarray(pixels))) - pixels.astype(int)).max() <= 2  # colours are in percent


def unsixel(text):
    """What a terminal draws: VT330/VT340 Programmer Reference, chapter 14."""
    width, height, body = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text).groups()
    drawn = np.full((int(height), int(width), 3), -1)
    palette, colour, x, y = {}, 0, 0, 0
    for token in re.findall(r"#\d+;2;\d+;\d+;\d+|#\d+|![0-9]+.|.", body):
        if token[0] == "#" and ";" in token:
            number, _, *values = map(int, token[1:].split(";"))
            palette[number] = [value * 2.55 for value in values]
        elif token[0] == "#":
            colour = int(token[1:])
        elif token == "$":
            x = 0
        elif token == "-":
            x, y = 0, y + 6
        else:
            count = int(token[1:-1]) if token[0] == "!" else 1
            for bit in range(6):
                if ord(token[-1]) - 63 >> bit & 1:
                    drawn[y + bit, x : x + count] = palette[colour]
            x += count
    return drawn


def test_a_large_picture_is_drawn_small():
    seen = []
    assert drawing(noise(1200, 400), lambda image: seen.append(image) or "drawn") == "drawn\n"
    assert seen[0].size == (480, 160)


# What is seen

ANSWER = Answer("a cat", Usage(20, 3, 15), {"load": 1.0, "first_token": 0.5, "total": 1.0}, "tiny", "stop")


def test_an_answer_through_a_pipe_is_whole_and_plain(capsys):
    Screen(live=False).answer([Notice("left out"), Started(20), Token("a "), Token("cat\x1b[2J"), Finished(ANSWER)])
    assert capsys.readouterr() == ("a cat\n", "note: left out\n")


def test_a_terminal_sees_speed_and_no_control_characters(capsys):
    Screen(live=True).answer([Started(20), Token(" a "), Token("cat\x1b[2J"), Finished(ANSWER)])
    out, err = capsys.readouterr()
    assert out == "a cat\N{REPLACEMENT CHARACTER}[2J\n"
    assert err == "3 tokens, 4.0 a second, the first after 0.50 s; prompt of 20, 15 cached\n"


def test_a_failure_is_one_line_behind_what_was_said(capsys):
    screen = Screen(live=False)
    screen.answer([Started(20), Token("a "), Failed("no\nmemory", 1)])
    screen.error("later", 2)
    assert capsys.readouterr() == ("a \n", "error: no memory\nerror: later\n")
    assert screen.exit_code == 1


def test_a_picture_is_shown_or_named(capsys):
    picture = Picture(noise(30, 20), "a\x1b.png", ("first frame",))
    Screen(live=True, draw=lambda: kitty).picture("[img1]", picture)
    out, err = capsys.readouterr()
    assert out == drawing(picture.image, kitty)
    assert err == "[img1] a\N{REPLACEMENT CHARACTER}.png, 30 x 20\nnote: a\N{REPLACEMENT CHARACTER}.png: first frame\n"
    Screen(live=False, draw=lambda: kitty).picture("[img\udcff]", picture)
    assert capsys.readouterr().out == ""


def test_the_first_ctrl_c_stops_and_the_second_interrupts():
    stopped, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stopped_by_ctrl_c(lambda: stopped.append(1)):
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped == [1]
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped == [1]
    assert signal.getsignal(signal.SIGINT) is before
