"""`assistant ask`: one question, one answer."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assistant.errors import InputError
from assistant.events import last_answer
from prompts import few_shot, user_message
from ui.libraries import quiet_libraries
from ui.options import answer_options, model_options, utf8

if TYPE_CHECKING:
    from assistant import Answer, Event, Options
    from assistant.images import Picture

__all__ = ["ask", "show"]


@click.command(epilog="[img1], [img2] in TEXT place the pictures; otherwise they stand before it, in order.")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("-q", "--question", metavar="TEXT", help='What is asked; "-", or none and a pipe: read from stdin.')
@click.option(
    "--demo",
    "demos",
    type=(str, str, str),
    multiple=True,
    metavar="IMAGE QUESTION ANSWER",
    help="An example of what is wanted; as often as you like, before the question in this order.",
)
@model_options
@answer_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--attention",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.png",
    help="Write where the answer looked: a heat map over the last picture before it.",
)
@click.pass_context
def ask(
    ctx: click.Context,
    images: tuple[str, ...],
    question: str | None,
    demos: tuple[tuple[str, str, str], ...],
    as_json: bool,
    attention: Path | None,
    model: dict[str, Any],
    options: "Options",
) -> None:
    """Ask about pictures: files or http(s) addresses. Without a picture, the language model answers alone."""
    from assistant.images import load_pictures  # not for help: it brings numpy

    # Whatever is wrong with the call is said before anything is fetched or loaded.
    text = _question(question)
    pictures = load_pictures(images)
    shown = [
        (picture, utf8(asked, "demonstration"), utf8(answer, "demonstration"))
        for picture, (_, asked, answer) in zip(load_pictures(image for image, _, _ in demos), demos, strict=True)
    ]
    few_shot(shown, user_message(text, pictures))
    if attention:
        _check_attention(attention, bool(shown or pictures))
    for picture in [*(picture for picture, _, _ in shown), *pictures]:
        for note in picture.notes:
            click.echo(f"note: {picture.name}: {note}", err=True)

    if not ctx.find_root().params.get("debug"):
        quiet_libraries()
    from assistant import Assistant  # only now: it brings torch
    from ui.progress import PartProgress

    with PartProgress() as progress:
        loaded = Assistant.from_pretrained(**model, progress=progress)
    events = loaded.stream(text, images=pictures, demos=shown, **vars(options))
    if as_json:
        answer = last_answer(events)
        click.echo(json.dumps(_as_json(answer, pictures)))
    else:
        answer = show(events)
    if attention:
        from assistant.looking import heat_map

        looked = loaded.look(loaded.prompt(text, pictures, shown), answer.text)
        heat_map(looked.picture.image, looked.map()).save(attention)


def _check_attention(path: Path, has_picture: bool) -> None:
    """Whether a heat map can be made and written.

    Raises:
        InputError: there is no picture, the file's name is no picture's, or it cannot be written.
    """
    if not has_picture:
        raise InputError("--attention shows where an answer looked, and there is no picture; give one")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise InputError(f"--attention {path}: heat maps are written as .png, .jpg or .webp; choose such a name")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise InputError(f"--attention {path}: cannot be written; choose a file in a folder that you may write")


def _question(given: str | None) -> str:
    """The question, from the option or from a pipe.

    Raises:
        InputError: there is none, or it is no text.
    """
    if given == "-" or (given is None and sys.stdin is not None and not sys.stdin.isatty()):
        try:
            given = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"the question on stdin is not UTF-8 text ({error.reason}); write it with -q TEXT"
            ) from None
    text = utf8(given or "", "question").strip()
    if not text:
        raise InputError("there is no question; write one with -q TEXT")
    return text


def show(events: "Iterable[Event]") -> "Answer":
    """Print the answer: as it grows on a terminal, whole into a pipe; returns it."""
    from assistant import Finished, Token

    live = sys.stdout.isatty()
    for event in events:
        match event:
            case Token() if live:
                click.echo(event.text, nl=False)
            case Finished():
                click.echo("" if live else event.answer.text)
                answer = event.answer
    return answer


def _as_json(answer: "Answer", pictures: "Sequence[Picture]") -> dict[str, object]:
    return {
        "text": answer.text,
        "model": answer.model,
        "images": [picture.name for picture in pictures],
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "finish_reason": answer.finish_reason,
        "seconds": {name: round(answer.seconds[name], 3) for name in ("load", "first_token", "total")},
    }
