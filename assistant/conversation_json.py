"""Conversations as JSON values, and back; pictures are named by their digest and lie elsewhere."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, get_args

from prompts import ImagePart, Message, Part, TextPart

from .conversation import Conversation, Demo, Feedback, Turn
from .errors import InputError
from .events import Usage
from .images import Picture
from .picture_folder import LostPicture

Reference = dict[str, Any]  # {"picture": digest in hexadecimal, "name": ..., "notes": [...]}


def shown(picture: Picture) -> Reference:
    """A reference to the picture that is seen."""
    return {"picture": picture.digest.hex(), "name": picture.name, "notes": list(picture.notes)}


def stored(picture: Picture) -> Reference:
    """A reference to the picture that should be seen: behind a stand-in it is the one that is lost."""
    if isinstance(picture, LostPicture):
        return {"picture": picture.lost, "name": picture.name, "notes": list(picture.notes[:-1])}
    return shown(picture)


def turn_to_json(turn: Turn, refer: Callable[[Picture], Reference] = shown) -> dict[str, Any]:
    """A turn; what its parts are is said by their keys."""
    parts = [{"text": part.text} if isinstance(part, TextPart) else refer(part.image) for part in turn.message.parts]
    return {
        "id": turn.id,
        "parent": turn.parent,
        "role": turn.message.role,
        "parts": parts,
        "created": turn.created,
        "finish_reason": turn.finish_reason,
        "usage": turn.usage and asdict(turn.usage),
        "seconds": turn.seconds,
        "model": turn.model,
        "feedback": turn.feedback,
    }


def setup_to_json(conversation: Conversation, refer: Callable[[Picture], Reference] = shown) -> dict[str, Any]:
    """What stands before the turns: the system prompt and the examples."""
    demos = [{**vars(demo), "picture": demo.picture and refer(demo.picture)} for demo in conversation.demos]
    return {"system": conversation.system, "demos": demos}


def to_json(conversation: Conversation) -> dict[str, Any]:
    """The whole conversation."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "created": conversation.created,
        "changed": conversation.changed,
        "head": conversation.head,
        **setup_to_json(conversation),
        "turns": [turn_to_json(turn) for turn in conversation.turns.values()],
    }


def all_pictures(conversation: Conversation) -> list[Picture]:
    """Of the examples and of every turn, in all branches."""
    turns = [picture for turn in conversation.turns.values() for picture in turn.message.images]
    return [demo.picture for demo in conversation.demos if demo.picture is not None] + turns


def check_tree(conversation: Conversation) -> None:
    """Turns stand after what they follow, so that there is no circle, and the head is one of them.

    Raises:
        InputError: they do not.
    """
    before: set[str | None] = {None}
    for number, (key, turn) in enumerate(conversation.turns.items(), start=1):
        if key != turn.id:
            raise InputError(f"turn {number} is filed under the id of another")
        if turn.parent not in before:
            raise InputError(f"turn {number} follows a turn that does not stand before it")
        before.add(key)
    if conversation.head not in before:
        raise InputError("the turn that is to be shown last is not there")


def from_json(data: object, picture: Callable[[str], Picture]) -> Conversation:
    """A conversation from what `to_json` made; nothing in `data` is trusted.

    Args:
        picture: gives the picture of a digest in hexadecimal; called once for each digest.

    Raises:
        InputError: a value is missing or of a wrong kind, or the turns are no tree.
    """
    seen: dict[str, Picture] = {}

    def look_up(reference: object, where: str) -> Picture:
        digest = _take(reference, "picture", str, where)
        if not re.fullmatch("[0-9a-f]{32}", digest):
            raise InputError(f"{where} names a picture in a way that is not known")
        if digest not in seen:
            seen[digest] = picture(digest)
        notes = tuple(_take(reference, "notes", list, where))
        if not all(isinstance(note, str) for note in notes):
            raise InputError(f"{where} has no sound 'notes'")
        return replace(seen[digest], name=_take(reference, "name", str, where), notes=notes + seen[digest].notes)

    where = "the conversation"
    turns = [
        _turn(turn, look_up, f"turn {number}") for number, turn in enumerate(_take(data, "turns", list, where), start=1)
    ]
    conversation = Conversation(
        id=_take(data, "id", str, where),
        title=_take(data, "title", str, where),
        created=_number(data, "created", where),
        changed=_number(data, "changed", where),
        system=_take(data, "system", (str, type(None)), where),
        demos=tuple(
            _demo(demo, look_up, f"example {number}")
            for number, demo in enumerate(_take(data, "demos", list, where), start=1)
        ),
        turns={turn.id: turn for turn in turns},
        head=_take(data, "head", (str, type(None)), where),
    )
    if len(conversation.turns) < len(turns):
        raise InputError("two turns have the same id")
    check_tree(conversation)
    return conversation


def _turn(data: object, look_up: Callable[[object, str], Picture], where: str) -> Turn:
    role, feedback = _take(data, "role", str, where), _take(data, "feedback", (str, type(None)), where)
    if role not in ("user", "assistant"):
        raise InputError(f"{where} is of {role[:40]!r}, and turns are of the user or the assistant")
    if feedback not in (None, *get_args(Feedback)):
        raise InputError(f"{where} has no sound 'feedback'")
    seconds = _take(data, "seconds", dict, where)
    usage = _take(data, "usage", (dict, type(None)), where)
    return Turn(
        message=Message(role, tuple(_part(part, look_up, where) for part in _take(data, "parts", list, where))),
        parent=_take(data, "parent", (str, type(None)), where),
        id=_take(data, "id", str, where),
        created=_number(data, "created", where),
        finish_reason=_take(data, "finish_reason", (str, type(None)), where),
        usage=None if usage is None else _usage(usage, where),
        seconds={name: _number(seconds, name, where) for name in seconds},
        model=_take(data, "model", (str, type(None)), where),
        feedback=feedback,
    )


def _part(data: object, look_up: Callable[[object, str], Picture], where: str) -> Part:
    if isinstance(data, dict) and "text" in data:
        return TextPart(_take(data, "text", str, where))
    return ImagePart(look_up(data, where))


def _usage(data: Mapping[str, Any], where: str) -> Usage:
    names = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return Usage(*(int(_number(data, name, where)) for name in names))


def _demo(data: object, look_up: Callable[[object, str], Picture], where: str) -> Demo:
    reference = _take(data, "picture", (dict, type(None)), where)
    return Demo(
        picture=None if reference is None else look_up(reference, where),
        question=_take(data, "question", str, where),
        answer=_take(data, "answer", str, where),
        enabled=_take(data, "enabled", bool, where),
    )


def _take(data: object, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(data, dict) or key not in data or not isinstance(data[key], kind):
        raise InputError(f"{where} has no sound {key!r}")
    return data[key]


def _number(data: object, key: str, where: str) -> float:
    value = _take(data, key, (int, float), where)
    if isinstance(value, bool) or abs(value) > 1e15 or not math.isfinite(value):  # 1e15 seconds are 30 million years
        raise InputError(f"{where} has no sound {key!r}")
    return float(value)
