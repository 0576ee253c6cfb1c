import pytest

from assistant.conversation import Conversation, Turn
from prompts import assistant_message, user_message


@pytest.fixture
def chat() -> Conversation:
    """Two questions with answers; the first answer has a sibling with a question below it, the newest of all."""
    turns = [
        Turn(user_message("one"), None, id="q1"),
        Turn(assistant_message("1"), "q1", id="a1"),
        Turn(user_message("two"), "a1", id="q2"),
        Turn(assistant_message("I"), "q1", id="b1"),
        Turn(assistant_message("2"), "q2", id="a2"),
        Turn(user_message("zwei"), "b1", id="p2"),
    ]
    return Conversation(turns={turn.id: turn for turn in turns}, head="a2")


def ids(turns: list[Turn]) -> list[str]:
    return [turn.id for turn in turns]


def test_the_path_leads_from_the_first_turn_to_the_head(chat):
    assert ids(chat.path()) == ["q1", "a1", "q2", "a2"]
    chat.head = None
    assert chat.path() == []


def test_a_branch_leads_to_any_turn(chat):
    assert ids(chat.branch("p2")) == ["q1", "b1", "p2"] and chat.branch(None) == []


def test_siblings_stand_in_the_order_of_their_creation(chat):
    assert ids(chat.siblings("b1")) == ids(chat.siblings("a1")) == ["a1", "b1"]
    assert ids(chat.siblings("q1")) == ["q1"] and ids(chat.siblings("p2")) == ["p2"]


def test_the_newest_leaf_is_looked_for_below_a_turn_alone(chat):
    leaves = {turn: chat.newest_leaf(turn) for turn in chat.turns}
    assert leaves == {"q1": "p2", "a1": "a2", "q2": "a2", "b1": "p2", "a2": "a2", "p2": "p2"}


def test_every_conversation_and_turn_has_an_id_of_its_own():
    made = [Turn(user_message("x")) for _ in range(20)]
    chats = [Conversation() for _ in range(20)]
    assert len({each.id for each in (*made, *chats)}) == 40 and all(len(each.id) == 32 for each in (*made, *chats))
    assert chats[0].turns is not chats[1].turns and made[0].seconds is not made[1].seconds
