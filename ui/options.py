"""Options that several commands share: which model, and how it answers."""

import functools
from collections.abc import Callable
from typing import Any

import click

from assistant.errors import InputError
from assistant.options import Options, make_options

__all__ = ["answer_options", "model_options", "utf8"]

_MODEL = [
    click.option(
        "--model", default="default", show_default=True, help="A hub id, a directory, or the embedded default."
    ),
    click.option("--device", help="cpu, cuda, cuda:1, mps...; by default what this machine has."),
    click.option(
        "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="By default what the device likes."
    ),
    click.option("--quantize", type=click.Choice(["nf4", "int8"]), help="Weights of 4 or 8 bits."),
    click.option(
        "--attn", "attn_implementation", metavar="NAME", help="eager, sdpa, flash_attention_2, flex_attention."
    ),
    click.option("--compile", is_flag=True, help="Faster tokens after a warm-up of about a minute."),
]
_ANSWER = [
    click.option("--max-new-tokens", type=int, default=Options.max_new_tokens, show_default=True, metavar="N"),
    click.option(
        "--temperature", type=float, default=Options.temperature, show_default=True, metavar="T", help="0 is greedy."
    ),
    click.option("--top-p", type=float, default=Options.top_p, metavar="P", help="Only what is likely up to this sum."),
    click.option("--top-k", type=int, default=Options.top_k, metavar="K", help="Only the K likeliest tokens."),
    click.option("--min-p", type=float, default=Options.min_p, metavar="P", help="Only P times as likely as the best."),
    click.option(
        "--repetition-penalty", type=float, default=Options.repetition_penalty, metavar="R", help="1 is none."
    ),
    click.option("--beams", type=int, default=Options.beams, metavar="N", help="Search with N beams; 1 is none."),
    click.option("--stop", multiple=True, metavar="TEXT", help="Ends the answer before TEXT; as often as you like."),
    click.option("--seed", type=int, metavar="N", help="Makes a sampled answer repeatable."),
    click.option("--time-limit", type=float, metavar="SECONDS", help="Ends the answer where it is."),
]


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a model, which reach it as one dictionary, ``model``.

    It holds the arguments of ``Assistant.from_pretrained``.
    """
    names = ["device", "dtype", "quantize", "attn_implementation", "compile"]

    @functools.wraps(command)
    def called(*args: Any, model: str, **given: Any) -> Any:
        loading = {name: given.pop(name) for name in names}
        return command(*args, model={"name": model, **loading}, **given)

    return _add(_MODEL, called)


def answer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of an answer, which reach it as one :class:`Options`, ``options``.

    Numbers out of their ranges are a usage error.
    """
    names = list(Options.__dataclass_fields__)

    @functools.wraps(command)
    def called(*args: Any, **given: Any) -> Any:
        try:
            options = make_options({name: given.pop(name) for name in names})
        except InputError as error:
            raise click.UsageError(str(error), click.get_current_context()) from None
        return command(*args, options=options, **given)

    return _add(_ANSWER, called)


def _add(options: list[Any], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def utf8(given: str, what: str) -> str:
    """Text from the command line or a terminal, as it is.

    Raises:
        InputError: it is no text.
    """
    try:
        given.encode()  # bytes that were no UTF-8 arrive from the shell as lone surrogates, which no tokenizer takes
    except UnicodeEncodeError:
        raise InputError(f"the {what} is not UTF-8 text: {given!r}") from None
    return given
