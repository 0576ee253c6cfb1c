"""`assistant chat`: questions and answers, with pictures, in the terminal or through a pipe."""

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from assistant.home import home
from prompts import few_shot, user_message
from ui.libraries import quiet_libraries
from ui.options import answer_options, model_options, utf8

if TYPE_CHECKING:
    from assistant import Options
    from assistant.chat_model import ChatModel
    from assistant.conversation import Conversation, Demo
    from assistant.store import ConversationStore
    from ui.terminal.lines import Lines
    from ui.terminal.screen import Screen

__all__ = ["chat"]


@click.command(epilog="Through a pipe, each line is a message or a command, and only answers reach stdout.")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--system", metavar="TEXT", help="What the model is told before everything else.")
@click.option(
    "--demo",
    "demos",
    type=(str, str, str),
    multiple=True,
    metavar="IMAGE QUESTION ANSWER",
    help="An example of what is wanted; as often as you like, before everything that is asked.",
)
@click.option("--continue", "go_on", is_flag=True, help="Go on with the newest conversation.")
@click.option("--no-store", is_flag=True, help="Write nothing: neither the conversation nor the history of lines.")
@model_options
@answer_options
@click.pass_context
def chat(
    ctx: click.Context,
    images: tuple[str, ...],
    system: str | None,
    demos: tuple[tuple[str, str, str], ...],
    go_on: bool,
    no_store: bool,
    model: dict[str, Any],
    options: "Options",
) -> None:
    """Chat about pictures: files or http(s) addresses, which go with the first message. /help lists the commands."""
    if go_on and no_store:
        raise click.UsageError("--continue goes on in what is stored, and --no-store stores nothing: choose one", ctx)
    from assistant.images import load_pictures  # not for help, as all that follows: it brings numpy

    # Whatever is wrong with the call is said before anything is fetched or loaded.
    pictures = load_pictures(images)
    shown = _demos(demos)
    utf8(system or "", "system prompt")
    store = None if no_store else _store()
    conversation = _conversation(store if go_on else None)
    if system is not None:
        conversation.system = system or None
    if shown:
        conversation.demos = shown
    typed = sys.stdin is not None and sys.stdin.isatty()
    interactive = typed and sys.stdout.isatty()
    lines, screen = _lines(interactive, no_store), _screen(interactive)

    from assistant.chat import ChatSession
    from ui.terminal.talk import Talk

    load = _loader(model, quiet=not ctx.find_root().params.get("debug"))
    session = ChatSession(load(model["name"]), conversation, store=store, options=options)
    talk = Talk(session, lines, screen, load=load, store=store, interactive=interactive)
    for notice in store.notices if store else ():
        screen.note(f"note: {notice}")
    if typed:
        screen.note(f"{session.model.name} answers; /help lists the commands, Ctrl-D ends")
    if conversation.turns:
        talk.recall()
    elif go_on:
        screen.note("there is no conversation yet: this is a new one")
    for picture in pictures:
        talk.add(picture)
    code = talk.run()
    ctx.exit(0 if interactive else code)


def _demos(given: tuple[tuple[str, str, str], ...]) -> "tuple[Demo, ...]":
    from assistant.conversation import Demo
    from assistant.images import load_pictures

    pictures = load_pictures(image for image, _, _ in given)
    demos = [
        (picture, utf8(asked, "demonstration"), utf8(answer, "demonstration"))
        for picture, (_, asked, answer) in zip(pictures, given, strict=True)
    ]
    few_shot(demos, user_message("any"))
    return tuple(Demo(*demo) for demo in demos)


def _store() -> "ConversationStore":
    from assistant.store import ConversationStore

    return ConversationStore()


def _conversation(store: "ConversationStore | None") -> "Conversation":
    """The newest one of a store, or a new one."""
    from assistant.conversation import Conversation

    newest = store.list()[:1] if store else []
    return store.load(newest[0].id) if store and newest else Conversation()


def _lines(interactive: bool, no_store: bool) -> "Lines":
    from ui.terminal.lines import PipedLines, PromptLines
    from ui.terminal.slash import COMMANDS

    if interactive:
        return PromptLines(None if no_store else home() / "history", list(COMMANDS))
    return PipedLines(sys.stdin.buffer if sys.stdin is not None else io.BytesIO())


def _screen(interactive: bool) -> "Screen":
    from ui.terminal.inline import protocol, terminal_attributes
    from ui.terminal.screen import Screen

    return Screen(sys.stdout.isatty(), lambda: protocol(attributes=terminal_attributes) if interactive else None)


def _loader(model: dict[str, Any], quiet: bool) -> "Callable[[str], ChatModel]":
    """What loads a model by its name, as the options say."""

    def load(name: str) -> "ChatModel":
        if quiet:
            quiet_libraries()
        from assistant import Assistant  # only now: it brings torch
        from ui.progress import PartProgress

        with PartProgress() as progress:
            return Assistant.from_pretrained(**{**model, "name": name}, progress=progress).engine

    return load
