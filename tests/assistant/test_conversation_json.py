import json
from dataclasses import replace

import pytest
from PIL import Image

from assistant.conversation import Conversation, Demo, Turn
from assistant.conversation_json import all_pictures, check_tree, from_json, setup_to_json, shown, stored, to_json
from assistant.errors import InputError
from assistant.images import Picture
from assistant.picture_folder import LostPicture
from prompts import assistant_message, user_message

RED, BLUE = (Picture(Image.new("RGB", (2, 2), name), name) for name in ("red", "blue"))


def conversation():
    first = Turn(user_message("a [img1] b", [RED]), id="first")
    second = Turn(assistant_message("c"), parent="first", id="second")
    return Conversation(
        demos=(Demo(BLUE, "q", "a", enabled=False),), turns={"first": first, "second": second}, head="second"
    )


def test_parts_keep_their_order():
    data = json.loads(json.dumps(to_json(conversation())))
    assert data["turns"][0]["parts"] == [{"text": "a "}, shown(RED), {"text": " b"}]
    assert shown(RED) == {"picture": RED.digest.hex(), "name": "red", "notes": []}
    assert data["demos"] == [{"picture": shown(BLUE), "question": "q", "answer": "a", "enabled": False}]


def test_each_picture_is_asked_for_once():
    asked, here = [], {one.digest.hex(): one for one in (RED, BLUE)}
    twice = conversation()
    twice.turns["second"] = replace(twice.turns["second"], message=user_message("", [replace(RED, name="again"), RED]))

    def look(digest):
        asked.append(digest)
        return here[digest]

    assert from_json(to_json(twice), look) == twice
    assert sorted(asked) == sorted(here)


def test_a_lost_picture_is_stored_as_what_it_should_be():
    lost = LostPicture(RED.image, "name", ("a note", "it is lost"), lost="0" * 32)
    assert stored(lost) == {"picture": "0" * 32, "name": "name", "notes": ["a note"]}
    assert shown(lost)["picture"] == RED.digest.hex() and shown(lost)["notes"] == ["a note", "it is lost"]
    assert stored(RED) == shown(RED)
    demos = Conversation(demos=(Demo(lost, "q", "a"),))
    assert setup_to_json(demos, stored)["demos"][0]["picture"]["picture"] == "0" * 32


def test_all_pictures():
    assert all_pictures(conversation()) == [BLUE, RED]


def test_trees():
    check_tree(Conversation())
    check_tree(conversation())
    other = conversation()
    other.turns["key"] = Turn(user_message("x"))
    with pytest.raises(InputError, match="turn 3 is filed under the id of another"):
        check_tree(other)
