"""What can be typed behind a slash."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.conversation import Conversation, Demo
from assistant.conversation_files import write_conversation
from assistant.errors import InputError
from assistant.images import load_pictures
from prompts import with_markers

from .screen import UNTITLED, counted, described, first_line, written
from .typed import picture_source, picture_sources, split_words

if TYPE_CHECKING:
    from .talk import Talk

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True)
class Command:
    """A command: how it is written, what it does, and what does it, given what stands behind its name."""

    usage: str
    help: str
    run: "Callable[[Talk, str], None]"


def _image(talk: "Talk", rest: str) -> None:
    if rest == "clear":
        talk.pictures = []
        talk.screen.note("no picture is attached")
    elif rest:
        talk.attach(picture_sources(rest))
    else:
        for number, picture in enumerate(talk.pictures, 1):
            talk.screen.tell(f"[img{number}] {described(picture)}")
        if not talk.pictures:
            talk.screen.note("no picture is attached")


def _demo(talk: "Talk", rest: str) -> None:
    words = split_words(rest)
    if len(words) != 3:
        raise InputError(f"/demo takes IMAGE QUESTION ANSWER, got {counted(len(words), 'word')}; quote what has spaces")
    image, question, answer = words
    [picture] = load_pictures([picture_source(image)])
    talk.session.demos = (*talk.session.demos, Demo(picture, question, answer))
    talk.screen.picture(f"example {len(talk.session.demos)}:", picture)


def _demos(talk: "Talk", rest: str) -> None:
    demos = list(talk.session.demos)
    match rest.split():
        case []:
            pass
        case ["clear"]:
            talk.session.demos = ()
        case [("on" | "off") as switch, number]:
            chosen = _number(number, len(demos), "example")
            demos[chosen] = replace(demos[chosen], enabled=switch == "on")
            talk.session.demos = tuple(demos)
        case _:
            raise InputError(f"/demos takes nothing, on N, off N or clear, not {first_line(rest)!r}")
    for position, demo in enumerate(talk.session.demos, 1):
        picture = described(demo.picture) if demo.picture else "no picture"
        off = "" if demo.enabled else " (off)"
        talk.screen.tell(f"{position}. {picture} | {first_line(demo.question)} | {first_line(demo.answer)}{off}")
    if not talk.session.demos:
        talk.screen.note("there are no examples; /demo IMAGE QUESTION ANSWER adds one")


def _undo(talk: "Talk", rest: str) -> None:
    turn = talk.session.undo()
    talk.screen.note(f"taken back: {first_line(turn.message.text)}")
    if talk.interactive:
        talk.take_back(turn)


def _retry(talk: "Talk", rest: str) -> None:
    before = [turn.message for turn in talk.session.turns]
    talk.show(talk.session.regenerate())
    if [turn.message for turn in talk.session.turns] == before and talk.session.options.temperature == 0:
        talk.screen.note("the same as before, as it is the likeliest: --temperature above 0 gives others")


def _edit(talk: "Talk", rest: str) -> None:
    turn = talk.last_question()
    if not rest:
        if not talk.interactive:
            raise InputError("/edit takes the question as it should be")
        talk.draft = f"/edit {with_markers(turn.message)}"
        return
    talk.ask(talk.session.edit(turn.id, rest, talk.pictures or None))


def _save(talk: "Talk", rest: str) -> None:
    words = split_words(rest)
    if len(words) != 1:
        raise InputError("/save takes one file, .json or .zip; quote it where it has spaces")
    path = Path(words[0]).expanduser().absolute()
    if path.exists() and path not in talk.saved:
        raise InputError(f"{path} exists already; give another name, or remove it first")
    try:
        write_conversation(talk.session.conversation, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another place") from None
    talk.saved.add(path)
    talk.screen.note(f"saved as {path}")


def _load(talk: "Talk", rest: str) -> None:
    if talk.store is None:
        raise InputError("no conversation is kept: this chat was started with --no-store")
    if not rest.isdecimal():
        talk.listed = talk.store.list(rest or None)
        for number, found in enumerate(talk.listed, 1):
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.changed))
            talk.screen.tell(f"{number}. {when}, {counted(found.turns, 'turn')}: {first_line(found.title) or UNTITLED}")
        if not talk.listed:
            talk.screen.note("there are no conversations" + (f" with {first_line(rest)!r}" if rest else ""))
        return
    listed = talk.listed or talk.store.list()
    talk.go_on(talk.store.load(listed[_number(rest, len(listed), "conversation")].id))
    talk.recall()


def _new(talk: "Talk", rest: str) -> None:
    system, demos = talk.session.system, talk.session.demos
    talk.go_on(Conversation(system=system, demos=demos))
    talk.pictures = []
    stay = [name for name, kept in (("the system prompt", system), (counted(len(demos), "example"), demos)) if kept]
    talk.screen.note("a new conversation" + (f"; {' and '.join(stay)} stay" if stay else ""))


def _model(talk: "Talk", rest: str) -> None:
    if not rest:
        talk.screen.tell(talk.session.model.name)
        return
    talk.session.model = talk.load(" ".join(split_words(rest)))
    talk.screen.note(f"{talk.session.model.name} answers from here on")


def _system(talk: "Talk", rest: str) -> None:
    if rest:
        talk.session.system = None if rest == "clear" else rest
    if talk.session.system is None:
        talk.screen.note("there is no system prompt; /system TEXT writes one")
    else:
        talk.screen.tell(talk.session.system)


def _prompt(talk: "Talk", rest: str) -> None:
    session = talk.session
    if not session.turns and session.system is None and not any(demo.enabled for demo in session.demos):
        talk.screen.note("nothing yet")
        return
    messages = session.prompt()
    for message in messages:
        talk.screen.tell(written(message))
    talk.screen.note(counted(session.model.count(messages), "token"))


def _help(talk: "Talk", rest: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        talk.screen.tell(f"{command.usage:{width}}  {command.help}")
    talk.screen.tell(
        "A path alone attaches its picture. [img1], [img2] in a message place the pictures in it.\n"
        "Alt-Enter, or a backslash at the end, goes on in the next line. Ctrl-C stops an answer; Ctrl-D ends."
    )


def _quit(talk: "Talk", rest: str) -> None:
    talk.over = True


def _number(text: str, most: int, what: str) -> int:
    """The position of what somebody counts from 1."""
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise InputError(f"there is no {what} {first_line(text)}; there {'is' if most == 1 else 'are'} {most}")
    return int(text) - 1


_ALL: Sequence[Command] = (
    Command("/image PATH...", "attach pictures to the next message; nothing: list them; clear: drop them", _image),
    Command("/demo IMAGE QUESTION ANSWER", "an example of what is wanted, before everything that is asked", _demo),
    Command("/demos [on N | off N | clear]", "list the examples, switch one, or drop all", _demos),
    Command("/undo", "take back the last question and its answer", _undo),
    Command("/retry", "another answer to the last question", _retry),
    Command("/edit TEXT", "ask the last question in other words, with its pictures or those attached since", _edit),
    Command("/system [TEXT | clear]", "show or set what the model is told before everything else", _system),
    Command("/prompt", "show what the model sees", _prompt),
    Command("/model [NAME]", "show what answers, or let another model go on", _model),
    Command("/new", "a new conversation, with the same system prompt and examples", _new),
    Command("/load [N | TEXT]", "list conversations, with TEXT in them; go on with number N", _load),
    Command("/save FILE", "write this conversation, to a .json or .zip file", _save),
    Command("/help", "this list", _help),
    Command("/quit", "end; so does Ctrl-D", _quit),
)
COMMANDS = {command.usage.split()[0][1:]: command for command in _ALL}
"""By the word behind the slash."""
