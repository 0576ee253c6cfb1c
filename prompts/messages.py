"""What is said: messages made of text and pictures, in the order in which a reader meets them.

A picture is opaque here (``ImagePart.image`` is whatever the caller uses for one), and text is kept letter for letter:
control strings such as ``<image>`` or ``<|im_end|>`` in it are only text, and it is the processor that keeps them so.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prompts.errors import PromptError

Role = Literal["system", "user", "assistant"]

_MARKER = re.compile(r"\[img([0-9]+)\]", re.IGNORECASE)  # telephones write [Img1] at the start of a sentence


@dataclass(frozen=True)
class TextPart:
    """A stretch of text."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """A picture, where it stands among the text."""

    image: Any


Part = TextPart | ImagePart


@dataclass(frozen=True)
class Message:
    """One turn.

    Raises:
        ValueError: the role is none of "system", "user" and "assistant".
    """

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"a message's role is one of {', '.join(get_args(Role))}, not {self.role!r}")

    @property
    def text(self) -> str:
        """The text of all parts, joined by nothing."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[Any, ...]:
        """The pictures, in the order in which they stand."""
        return tuple(part.image for part in self.parts if isinstance(part, ImagePart))


def system_message(text: str) -> Message:
    """What the model is told before the conversation."""
    return Message("system", (TextPart(text),))


def assistant_message(text: str) -> Message:
    """What the model said. Markers have no meaning in it."""
    return Message("assistant", (TextPart(text),))


def user_message(text: str, images: Sequence[Any] = ()) -> Message:
    """What a person said, with pictures.

    The markers ``[img1]``, ``[img2]``... place the pictures in the text, in any order. A picture that no marker places
    stands before the text; several such pictures keep their order. Nothing but the markers leaves the text.

    Args:
        text: the text, with or without markers.
        images: the pictures; ``[img1]`` is the first.

    Raises:
        PromptError: a marker stands twice or names a picture that was not given; or there is neither text nor picture.
    """
    if not images and not text.strip():
        raise PromptError("the message is empty: write a question or give a picture")
    # re.split keeps what its group matched: text, number, text, number, ..., text.
    pieces = _MARKER.split(text)
    uses = Counter(digits.lstrip("0") for digits in pieces[1::2])
    by_number = {str(number): image for number, image in enumerate(images, start=1)}
    _check_markers(uses, by_number.keys())

    parts: list[Part] = [ImagePart(image) for number, image in by_number.items() if number not in uses]
    for position, piece in enumerate(pieces):
        if position % 2:
            parts.append(ImagePart(by_number[piece.lstrip("0")]))
        elif piece:
            parts.append(TextPart(piece))
    return Message("user", tuple(parts))


def with_markers(message: Message) -> str:
    """The text of which, with the message's pictures, :func:`user_message` makes this message again."""
    text, number = "", 0
    for part in message.parts:
        if isinstance(part, TextPart):
            text += part.text
            continue
        number += 1
        if text:  # those without a marker stand before the text
            text += f"[img{number}]"
    return text


def _check_markers(uses: Counter[str], given: Collection[str]) -> None:
    problems = [f"[img{number or 0}] names no picture" for number in uses if number not in given]
    problems += [f"[img{number}] stands {uses[number]} times" for number in given if uses[number] > 1]
    if not problems:
        return
    markers = "1 picture marker" if uses.total() == 1 else f"{uses.total()} picture markers"
    pictures_given = f"{len(given)} picture{' was' if len(given) == 1 else 's were'} given"
    mend = f"write each of [img1] to [img{len(given)}] once at most" if given else "give pictures or drop the markers"
    raise PromptError(f"the text has {markers} and {pictures_given}: {', '.join(problems[:3])}; {mend}")


def few_shot(demos: Iterable[tuple[Any, str, str]], question: Message, *, system: str | None = None) -> list[Message]:
    """A few-shot prompt: each demonstration is a user turn and the answer to it, then comes the question.

    Args:
        demos: (picture, question, answer); the picture may be None for a demonstration in text alone, as the zero-shot
            prompts of OpenFlamingo have them. Markers in a demonstration's question place its own picture.
        question: what is asked.
        system: a system message to put first.

    Raises:
        PromptError: a demonstration has neither picture nor question, has markers that do not fit, or has no answer.
    """
    messages = [] if system is None else [system_message(system)]
    for number, (image, asked, answer) in enumerate(demos, start=1):
        if not answer.strip():
            raise PromptError(f"demonstration {number} has no answer: a demonstration shows the answer that is wanted")
        try:
            messages.append(user_message(asked, () if image is None else (image,)))
        except PromptError as error:
            raise PromptError(f"demonstration {number}: {error}") from error
        messages.append(assistant_message(answer))
    return [*messages, question]


def to_chat(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The messages as transformers chat templates take them; the pictures themselves come from `pictures`."""
    return [{"role": message.role, "content": [_content(part) for part in message.parts]} for message in messages]


def _content(part: Part) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}


def pictures(messages: Iterable[Message]) -> list[Any]:
    """Every picture of the messages, in the order in which `to_chat` marks them."""
    return [image for message in messages for image in message.images]
