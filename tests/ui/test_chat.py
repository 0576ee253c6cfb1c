import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from assistant.chat import ChatSession
from assistant.errors import FetchError, ModelError
from assistant.home import home
from assistant.options import Options
from assistant.parts import PARTS, part_state
from assistant.scripted import ScriptedModel
from assistant.store import ConversationStore
from prompts import ImagePart
from ui.cli import cli
from ui.terminal.screen import Screen
from ui.terminal.talk import Talk


class Loading:
    """Stands for `assistant.Assistant`: loads scripted models, which answer with the number of the question."""

    def __init__(self):
        self.models, self.asked_for, self.fails = [], [], None
        self.replies, self.context = None, None

    def from_pretrained(self, name, *, progress, **options):
        self.asked_for.append((name, {key: value for key, value in options.items() if value}))
        if self.fails:
            raise self.fails
        replies = self.replies or (lambda messages: f"answer {len(self.prompts)}")
        model = ScriptedModel(replies, name=name, context=self.context)
        self.models.append(model)
        self.engine = model
        return self

    @property
    def prompts(self):
        return [prompt for model in self.models for prompt in model.prompts[:]]


@pytest.fixture
def loading(monkeypatch, tmp_path):
    fake = Loading()
    monkeypatch.setattr("ui.commands.chat.quiet_libraries", lambda: None)  # it is meant for the rest of a process
    monkeypatch.setattr("assistant.Assistant", fake)
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def photos(tmp_path):
    """Three pictures in the current folder."""
    names = ["red.png", "my photo.png", "it's.png"]
    for name, colour in zip(names, ("red", "green", "blue"), strict=True):
        Image.new("RGB", (32, 24), colour).save(tmp_path / name)
    return names


def chat(lines, *arguments):
    """What comes out of a pipe: exit code, answers, and what was said beside them."""
    done = CliRunner().invoke(cli, ["chat", *arguments], input="".join(f"{line}\n" for line in lines))
    assert "Traceback" not in done.output and "unexpected" not in done.output, done.output
    return done.exit_code, done.stdout.splitlines(), done.stderr.splitlines()


def seen(prompt):
    """A prompt as a list: (role, text and names of pictures)."""
    return [
        (
            message.role,
            [Path(part.image.name).name if isinstance(part, ImagePart) else part.text for part in message.parts],
        )
        for message in prompt
    ]


# Through a pipe


def test_every_line_gets_its_answer_and_nothing_else_on_stdout(loading):
    assert chat(["What?", "", "  ", "And \\", "then?"]) == (0, ["answer 1", "answer 2"], [])
    assert seen(loading.prompts[1]) == [
        ("user", ["What?"]),
        ("assistant", ["answer 1"]),
        ("user", ["And \nthen?"]),
    ]


def test_pictures_of_the_command_line_go_with_the_first_message(loading, photos):
    code, answers, said = chat(["[img2] or [img1]?", "Sure?"], *photos[:2])
    assert (code, answers) == (0, ["answer 1", "answer 2"])
    assert said == ["[img1] red.png, 32 x 24", "[img2] my photo.png, 32 x 24"]
    assert seen(loading.prompts[1]) == [
        ("user", ["my photo.png", " or ", "red.png", "?"]),
        ("assistant", ["answer 1"]),
        ("user", ["Sure?"]),
    ]


@pytest.mark.parametrize(
    "line", ["/image my photo.png", "/image 'my photo.png'", r"/image my\ photo.png", "/IMAGE FILE"]
)
def test_an_attached_picture_goes_with_the_next_message(loading, photos, tmp_path, line):
    address = f"file://{tmp_path}/my%20photo.png"
    code, answers, said = chat([line.replace("FILE", address), "What?", "Sure?"])
    assert (code, answers) == (0, ["answer 1", "answer 2"])
    assert said[0].startswith("[img1] ") and said[0].endswith("my photo.png, 32 x 24")
    assert seen(loading.prompts[0]) == [("user", ["my photo.png", "What?"])]


def test_a_path_alone_attaches_its_picture(loading, photos, tmp_path):
    code, answers, said = chat([f"{tmp_path}/red.png", "my photo.png", "What?"])
    assert (code, answers) == (0, ["answer 1"])
    assert said[1] == said[3] == "attached to the next message"
    assert seen(loading.prompts[0]) == [("user", ["red.png", "my photo.png", "What?"])]


def test_attached_pictures_are_listed_and_dropped(loading, photos):
    lines = ['/image red.png "it\'s.png"', "/image", "/image clear", "/image", "What?"]
    code, told, said = chat(lines)
    assert (code, told) == (0, ["[img1] red.png, 32 x 24", "[img2] it's.png, 32 x 24", "answer 1"])
    assert said[-2:] == ["no picture is attached"] * 2
    assert seen(loading.prompts[0]) == [("user", ["What?"])]


def test_examples_stand_before_everything(loading, photos):
    lines = [
        "/demo 'my photo.png' 'What is this?' 'a dax'",
        "One?",
        "/demos off 1",
        "Two?",
        "/demos on 1",
        "/demos clear",
        "Three?",
    ]
    code, told, _ = chat(lines, "--demo", "red.png", "And this?", "a wug")
    assert code == 0
    shown = "red.png, 32 x 24 | And this? | a wug"
    other = "2. my photo.png, 32 x 24 | What is this? | a dax"
    assert told == ["answer 1", f"1. {shown} (off)", other, "answer 2", f"1. {shown}", other, "answer 3"]
    first = [("user", ["red.png", "And this?"]), ("assistant", ["a wug"])]
    second = [("user", ["my photo.png", "What is this?"]), ("assistant", ["a dax"])]
    one, two, three = map(seen, loading.prompts)
    assert one == [*first, *second, ("user", ["One?"])]
    assert two[:3] == [*second, ("user", ["One?"])]
    assert three[0] == ("user", ["One?"])


def test_undo_retry_and_edit(loading, photos):
    code, told, said = chat(["/image red.png", "One?", "/retry", "/edit Two [img1]?", "Three?", "/undo", "Four?"])
    assert (code, told) == (0, [f"answer {n}" for n in (1, 2, 3, 4, 5)])
    assert said[-1] == "taken back: Three?"
    prompts = [seen(prompt) for prompt in loading.prompts]
    assert prompts[0] == prompts[1] == [("user", ["red.png", "One?"])]
    edited = ("user", ["Two ", "red.png", "?"])
    assert prompts[2] == [edited]
    assert prompts[4] == [edited, ("assistant", ["answer 3"]), ("user", ["Four?"])]


def test_a_greedy_answer_that_comes_again_is_said(loading):
    loading.replies = lambda messages: "as ever"
    assert chat(["One?", "/retry"])[2][0].startswith("the same as before")
    assert chat(["One?", "/retry"], "--temperature", "1")[2] == []


def test_an_edit_that_fails_keeps_the_pictures_that_wait(loading, photos):
    code, _, said = chat(["One?", "/image red.png", "/edit [img2]?", "/edit [img1]?"])
    assert (code, len(said)) == (2, 3)
    assert seen(loading.prompts[1]) == [("user", ["red.png", "?"])]


def test_an_edit_takes_pictures_that_were_attached_since(loading, photos):
    code, *_ = chat(["/image red.png", "One?", "/image 'my photo.png'", "/edit Two?", "Three?"])
    assert code == 0
    assert seen(loading.prompts[1]) == [("user", ["my photo.png", "Two?"])]
    assert seen(loading.prompts[2])[-1] == ("user", ["Three?"])


def test_the_system_prompt(loading):
    code, told, _ = chat(
        ["/system", "One?", "/system Be kind.", "Two?", "/system clear", "Three?"], "--system", "Rhyme."
    )
    assert (code, told) == (0, ["Rhyme.", "answer 1", "Be kind.", "answer 2", "answer 3"])
    assert [seen(prompt)[0] for prompt in loading.prompts] == [
        ("system", ["Rhyme."]),
        ("system", ["Be kind."]),
        ("user", ["One?"]),
    ]


def test_the_prompt_is_shown(loading, photos):
    code, told, said = chat(["/prompt", "/system Be kind.", "/image red.png", "What?", "/prompt"])
    assert code == 0
    assert said[0] == "nothing yet"
    assert told[-3:] == ["system: Be kind.", "user: [picture: red.png, 32 x 24] What?", "assistant: answer 1"]
    assert said[-1] == "6 tokens"


def test_another_model_goes_on(loading):
    code, told, _ = chat(["One?", "/model other", "Two?", "/model"], "--device", "cpu")
    assert (code, told) == (0, ["answer 1", "answer 2", "other"])
    assert loading.asked_for == [("default", {"device": "cpu"}), ("other", {"device": "cpu"})]
    assert seen(loading.models[1].prompts[0])[0] == ("user", ["One?"])


def test_a_model_that_cannot_be_loaded_changes_nothing(loading, monkeypatch):
    load = loading.from_pretrained

    def refuse(name, **options):
        if name == "nowhere":
            raise ModelError("there is no model 'nowhere' here")
        return load(name, **options)

    monkeypatch.setattr(loading, "from_pretrained", refuse)
    assert chat(["/model nowhere", "One?"]) == (1, ["answer 1"], ["error: there is no model 'nowhere' here"])


def test_a_chat_is_kept_and_goes_on(loading, photos):
    chat(["/image red.png", "What is the word?", "Sure?"], "--system", "Be kind.")
    chat(["Another?"])
    code, told, said = chat(["/load", "/load WORD", "/load 1", "And?", "/undo", "/load 7"])
    assert code == 2
    assert [re.sub(r"\d{4}-\S+ \S+,", "TIME,", line) for line in told] == [
        "1. TIME, 2 turns: Another?",
        "2. TIME, 4 turns: What is the word?",
        "1. TIME, 4 turns: What is the word?",
        "answer 4",
    ]
    assert said[0] == "4 turns: What is the word?"
    assert said[-1] == "error: there is no conversation 7; there is 1"
    # the conversation that changed last
    code, _, said = chat(["And now?"], "--continue")
    assert (code, said[0]) == (0, "4 turns: What is the word?")
    assert seen(loading.prompts[-1]) == [
        ("system", ["Be kind."]),
        ("user", ["red.png", "What is the word?"]),
        ("assistant", ["answer 1"]),
        ("user", ["Sure?"]),
        ("assistant", ["answer 2"]),
        ("user", ["And now?"]),
    ]


def test_a_first_chat_has_nothing_to_go_on_with(loading):
    assert chat(["One?"], "--continue") == (0, ["answer 1"], ["there is no conversation yet: this is a new one"])


def test_nothing_is_written_without_a_store(loading, photos, tmp_path):
    code, _, said = chat(["/image red.png", "One?", "/load", "/save 'a chat.json'"], "--no-store")
    assert code == 2
    assert said[2] == "error: no conversation is kept: this chat was started with --no-store"
    assert not home().exists()
    assert {path.name for path in tmp_path.iterdir()} == {*photos, "a chat.json"}


@pytest.mark.parametrize("name", ["chat.json", "chat.zip"])
def test_a_chat_is_saved_and_nothing_else_is_replaced(loading, photos, tmp_path, name):
    code, *_ = chat(["/image red.png", "One?", f"/save {name}", "Two?", f"/save {name}"])
    assert code == 0
    saved = ConversationStore(tmp_path / "other").import_(name)
    assert [turn.message.text for turn in saved.path()] == ["One?", "answer 1", "Two?", "answer 2"]
    assert saved.path()[0].message.images[0].image.getpixel((0, 0)) == (255, 0, 0)
    before = Path(name).read_bytes()
    code, _, said = chat(["Three?", f"/save {name}", "/save chat.txt", "/save", "/save nowhere/chat.json"])
    assert code == 2
    assert "exists already" in said[0] and ".json or .zip" in said[1] and "one file" in said[2]
    assert "cannot be written" in said[3]
    assert Path(name).read_bytes() == before


def test_a_new_conversation_keeps_system_prompt_and_examples(loading, photos):
    arguments = ["--system", "Be kind.", "--demo", "red.png", "What?", "a wug"]
    code, _, said = chat(["One?", "/new", "Two?"], *arguments)
    assert (code, said) == (0, ["a new conversation; the system prompt and 1 example stay"])
    assert seen(loading.prompts[1])[-2:] == [("assistant", ["a wug"]), ("user", ["Two?"])]
    assert [found.title for found in ConversationStore().list()] == ["Two?", "One?"]


def test_help_names_every_command(loading):
    code, told, _ = chat(["/help", "/quit", "never read"])
    assert code == 0
    assert loading.prompts == []
    named = {line.split()[0] for line in told if line.startswith("/")}
    wanted = "image demo demos undo retry edit save load new model system prompt help quit"
    assert named == {f"/{name}" for name in wanted.split()}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["/imgae red.png"], "did you mean /image?"),
        (["/xyzzy"], "there is no command /xyzzy; /help lists them"),
        (["/nowhere/red.png"], "no such picture file"),
        (["/image nowhere.png"], "nowhere.png: there is no such file"),
        (["/image letter.png"], "letter.png: is text"),
        (["letter.png"], "letter.png: is text"),
        (["/image 'red.png"], "close the quote"),
        (["/demo red.png 'What?'"], "/demo takes IMAGE QUESTION ANSWER, got 2 words"),
        (["/demo red.png 'What?' ' '"], "has no answer"),
        (["/demo nowhere.png a b"], "nowhere.png: there is no such file"),
        (["/demos off 1"], "there is no example 1; there are 0"),
        (["/demos of 1"], "/demos takes nothing, on N, off N or clear"),
        (["/undo"], "nothing was asked"),
        (["/retry"], "nothing was asked"),
        (["/edit What?"], "nothing was asked"),
        (["Compare [img2]."], "[img2] names no picture"),
    ],
)
def test_what_goes_wrong_is_one_line_and_the_chat_goes_on(loading, photos, tmp_path, lines, says):
    (tmp_path / "letter.png").write_text("Dear reader")
    code, told, said = chat([*lines, "What?"])
    assert (code, told) == (2, ["answer 1"])
    assert len(said) == 1 and said[0].startswith("error: ") and says in said[0]
    assert seen(loading.prompts[0]) == [("user", ["What?"])]


def test_a_message_that_is_too_long_is_said_and_its_pictures_wait(loading, photos):
    loading.context = 200
    code, told, said = chat(["/image red.png", "word " * 20_000, "What?"])
    assert (code, told) == (2, ["answer 1"])
    assert said[-1].startswith("error: the prompt has 20001 tokens")
    assert seen(loading.prompts[0]) == [("user", ["red.png", "What?"])]


def test_a_line_that_is_no_text_is_said(loading):
    done = CliRunner().invoke(cli, ["chat"], input=b"\xff\xfe\nWhat?\n")
    assert (done.exit_code, done.stdout) == (2, "answer 1\n")
    assert "not UTF-8" in done.stderr


def test_options_reach_the_model(loading):
    loading.replies = lambda messages: "one two three four"
    assert chat(["What?"], "--max-new-tokens", "2")[1:] == (
        ["one two"],
        ["(cut off at its longest: --max-new-tokens)"],
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.png"], "nowhere.png: there is no such file"),
        (["--demo", "red.png", "What?", " "], "has no answer"),
        (["--continue", "--no-store"], "choose one"),
        (["--temperature", "-1"], "temperature"),
        (["--system", "\udcff"], "system prompt is not UTF-8"),
        (["--demo", "red.png", "\udcff", "yes"], "demonstration is not UTF-8"),
    ],
)
def test_a_wrong_call_ends_before_anything_is_loaded_or_written(loading, photos, arguments, says):
    code, told, said = chat(["What?"], *arguments)
    assert (code, told, len(said)) == (2, [], 1)
    assert says in said[0]
    assert loading.asked_for == []
    assert not home().exists()


def test_a_model_that_cannot_be_loaded_at_first_ends_the_chat(loading):
    loading.fails = FetchError("no network")
    assert chat(["What?"]) == (1, [], ["error: no network"])


# With somebody there


class Typed:
    """Lines that somebody types, who notes what stands before and in each."""

    def __init__(self, *lines):
        self.lines, self.shown = list(lines), []

    def read(self, before="> ", default=""):
        self.shown.append((before, default))
        return self.lines.pop(0) if self.lines else None


def talked(*lines, replies=("one", "two", "three"), **model):
    typed = Typed(*lines)
    session = ChatSession(ScriptedModel(replies, **model), options=Options(max_new_tokens=1000))
    talk = Talk(session, typed, Screen(live=True), load=lambda name: None, interactive=True)
    return talk, typed, talk.run()


def test_what_is_undone_stands_in_the_next_line(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    talk, typed, code = talked("red.png", "my photo.png", "See: [img2], [img1]!", "/undo", "What?")
    assert code == 0
    assert typed.shown[1:] == [
        ("(1 picture) > ", ""),
        ("(2 pictures) > ", ""),
        ("> ", ""),
        ("(2 pictures) > ", "See: [img1], [img2]!"),
        ("> ", ""),
    ]
    question, _ = talk.session.turns
    assert [Path(picture.name).name for picture in question.message.images] == ["my photo.png", "red.png"]


def test_the_last_question_is_put_into_the_line_to_be_edited():
    talk, typed, _ = talked("What?", "/edit", "/edit Why?")
    assert typed.shown[2] == ("> ", "/edit What?")
    assert [turn.message.text for turn in talk.session.turns] == ["Why?", "two"]


def test_typed_bytes_that_are_no_text_are_said(capsys):
    talk, *_ = talked("\udcff", "What?")  # as prompt_toolkit gives them
    assert [turn.message.text for turn in talk.session.turns] == ["What?", "one"]
    assert capsys.readouterr().err.startswith("error: the line is not UTF-8 text")


def test_a_terminal_sees_tokens_cached_tokens_and_speed(capsys):
    talked("One two three", "More", replies=["a b c d", "e"])
    out, err = capsys.readouterr()
    assert out == "a b c d\ne\n"
    first, second = err.splitlines()
    assert re.fullmatch(r"4 tokens, [\d.]+ a second, the first after [\d.]+ s; prompt of 3, 0 cached", first)
    assert re.fullmatch(r"1 token, the first after [\d.]+ s; prompt of 8, 6 cached", second)


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(capsys, monkeypatch):
    words = 0

    def press(self, *_):
        nonlocal words
        words += 1
        if words == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("assistant.scripted.time.sleep", press)
    talk, *_ = talked("Count.", "Go on.", replies=["1 2 3 4 5", "and so on"])
    assert [(turn.message.text, turn.finish_reason) for turn in talk.session.turns] == [
        ("Count.", None),
        ("1 2 3", "cancelled"),
        ("Go on.", None),
        ("and so on", "stop"),
    ]
    out, err = capsys.readouterr()
    assert out == "1 2 3\nand so on\n"
    assert err.splitlines()[0] == "(stopped; what was said is kept)"


def test_the_second_ctrl_c_does_not_wait_for_a_token(capsys, monkeypatch):
    def press_twice(self, *_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("assistant.scripted.time.sleep", press_twice)
    talk, *_ = talked("Count.", replies=["1 2 3"])
    assert [turn.message.text for turn in talk.session.turns] == ["Count."]
    assert "(stopped)" in capsys.readouterr().err


IN_A_TERMINAL = """
import sys
import assistant
from assistant.scripted import ScriptedModel

class Loading:
    engine = ScriptedModel(lambda messages: "tick " * 400 if "count" in messages[-1].text else "fine", delay=0.02)
    @classmethod
    def from_pretrained(cls, name, **options):
        return cls

assistant.Assistant = Loading
from ui.cli import main
main()
"""


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *arguments, **environment):
        self.program, self.screen = pty.fork()
        if not self.program:
            os.environ.update(environment, TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1")
            os.execv(sys.executable, [sys.executable, "-c", IN_A_TERMINAL, *arguments])
        self.seen = ""

    def wait_for(self, text, seconds=60.0):
        """Read until this text comes; what was read before counts no more."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert select.select([self.screen], [], [], end - time.monotonic())[0], self.seen
            self.seen += os.read(self.screen, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def type(self, text):
        os.write(self.screen, text.encode())

    def end(self):
        """The exit code."""
        os.set_blocking(self.screen, False)
        _, status = os.waitpid(self.program, 0)
        os.close(self.screen)
        return os.waitstatus_to_exitcode(status)


def test_ctrl_c_in_a_real_terminal_ends_the_answer_and_not_the_program(tmp_path, photos):
    there = Terminal("chat", str(tmp_path / "red.png"), ASSISTANT_HOME=str(tmp_path / "home"))
    there.wait_for(">")
    there.type("count\r")
    there.wait_for("tick tick")
    there.type("\x03")
    there.wait_for("stopped; what was said is kept")
    there.wait_for(">")
    there.type("never sent\x03")
    there.wait_for(">")
    there.type("How are you?\r")
    there.wait_for("fine")
    there.wait_for(">")
    there.type("\x04")
    assert there.end() == 0
    store = ConversationStore(tmp_path / "home" / "chats")
    turns = store.load(store.list()[0].id).path()
    assert [(turn.message.text[:9], turn.finish_reason) for turn in turns] == [
        ("count", None),
        ("tick tick", "cancelled"),
        ("How are y", None),
        ("fine", "stop"),
    ]
    history = (tmp_path / "home" / "history").read_text()
    assert "How are you?" in history and "never sent" not in history


# For everybody


def test_a_chat_with_a_scripted_model_imports_no_torch(tmp_path):
    program = IN_A_TERMINAL.replace("main()", "\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "--debug",
            "chat",
        ],
        env={**os.environ, "ASSISTANT_HOME": str(tmp_path)},
        input="What?\n/prompt\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "fine\nuser: What?\nassistant: fine\nFalse\n", done.stderr


@pytest.mark.slow
def test_the_default_chats(photos, tmp_path):
    if any(part_state(name) != "ready" for name in PARTS):
        pytest.skip("needs the frozen parts: assistant models fetch")
    done = subprocess.run(
        [sys.executable, "-c", "from ui.cli import main; main()", "chat", str(tmp_path / "red.png"), "--no-store"],
        input=f"What colour is this?\nSure?\n/save {tmp_path}/chat.json\n",
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    turns = json.loads((tmp_path / "chat.json").read_text())["conversation"]["turns"]
    assert turns[3]["usage"]["cached_tokens"] > turns[1]["usage"]["prompt_tokens"]
