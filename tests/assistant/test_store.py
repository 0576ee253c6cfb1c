import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assistant import picture_folder, store
from assistant.conversation import Conversation, Demo, Turn
from assistant.errors import InputError, StoreError
from assistant.events import Usage
from assistant.images import Picture
from assistant.picture_folder import LostPicture, PictureFolder
from assistant.store import ConversationStore
from prompts import ImagePart, Message, TextPart, user_message

ROOT = Path(__file__).resolve().parents[2]


def picture(seed=0, name="a.png", notes=()):
    values = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Picture(Image.fromarray(values), name, notes)


def asked(text, images=(), **more):
    return Turn(user_message(text, images), **more)


def talk(*texts, images=()):
    """A conversation without branches; its first turn has the pictures."""
    conversation = Conversation(title=texts[0])
    for text in texts:
        turn = asked(text, images if not conversation.turns else (), parent=conversation.head)
        conversation.turns[turn.id] = turn
        conversation.head = turn.id
    return conversation


def files(folder):
    return {path.name for path in (folder / "pictures").glob("*")}


def refusal(error, call, *arguments):
    """The one line with which a call is refused."""
    with pytest.raises(error) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def kept(tmp_path):
    opened = ConversationStore(tmp_path)
    yield opened
    opened.close()


# ---- what goes in comes out

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", "\0", "它是什么?", "e\u0301 \U0001f600", "<image>", "'; DROP TABLE"]
)
TIMES = st.floats(0, 1e9)
PICTURES = st.builds(picture, st.integers(0, 3), TEXTS, st.lists(TEXTS, max_size=2).map(tuple))
PARTS = st.lists(st.builds(TextPart, TEXTS) | st.builds(ImagePart, PICTURES), max_size=4).map(tuple)
TURNS = st.builds(
    Turn,
    message=st.builds(Message, st.sampled_from(["user", "assistant"]), PARTS),
    created=TIMES,
    finish_reason=st.none() | st.sampled_from(["stop", "cancelled"]),
    usage=st.none() | st.builds(Usage, *[st.integers(0, 10**6)] * 3),
    seconds=st.dictionaries(TEXTS, st.floats(0, 1e6), max_size=2),
    model=st.none() | TEXTS,
    feedback=st.sampled_from([None, "up", "down"]),
)
DEMOS = st.builds(Demo, st.none() | PICTURES, TEXTS, TEXTS, st.booleans())


@st.composite
def conversations(draw):
    """Trees of turns with several roots, parents before children, and any of the turns as head."""
    turns = []
    for turn in draw(st.lists(TURNS, max_size=6)):
        parents = [None, *(other.id for other in turns)]
        turns.append(replace(turn, parent=draw(st.sampled_from(parents))))
    return Conversation(
        title=draw(TEXTS),
        created=draw(TIMES),
        changed=draw(TIMES),
        system=draw(st.none() | TEXTS),
        demos=tuple(draw(st.lists(DEMOS, max_size=2))),
        turns={turn.id: turn for turn in turns},
        head=draw(st.sampled_from([None, *(turn.id for turn in turns)])),
    )


def without_ids(conversation):
    """The same with the places of turns for their ids."""
    places = {id: str(place) for place, id in enumerate(conversation.turns)} | {None: None}
    turns = [replace(t, id=places[t.id], parent=places[t.parent]) for t in conversation.turns.values()]
    return replace(conversation, id="", head=places[conversation.head], turns={turn.id: turn for turn in turns})


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """For many examples: opening a store is slow beside writing to it."""
    opened = ConversationStore(tmp_path_factory.mktemp("shared"))
    yield opened
    opened.close()


@settings(max_examples=60, deadline=None)
@given(conversations())
def test_what_is_saved_is_loaded(shared, conversation):
    shared.save(conversation)
    loaded = shared.load(conversation.id)
    assert loaded == conversation
    assert list(loaded.turns) == list(conversation.turns)
    assert loaded.path() == conversation.path()
    shared.delete(conversation.id)
    assert files(shared.folder) == set()


@settings(max_examples=40, deadline=None)
@given(conversations(), st.sampled_from(["a.json", "a.ZIP"]))
def test_what_is_exported_is_imported(shared, conversation, name):
    path = shared.folder / name
    shared.save(conversation)
    shared.export(conversation.id, path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    imported = shared.import_(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert without_ids(imported) == without_ids(conversation)
    assert shared.load(imported.id) == imported
    ids = {imported.id, *imported.turns}
    assert not ids & {conversation.id, *conversation.turns} and len(ids) == 1 + len(conversation.turns)
    shared.delete(imported.id)
    assert shared.load(conversation.id) == conversation
    shared.delete(conversation.id)


@settings(max_examples=30, deadline=None)
@given(conversations())
def test_turn_by_turn_is_the_same_as_all_at_once(shared, conversation):
    shared.save(replace(conversation, turns={}, head=None))
    for turn in conversation.turns.values():
        shared.put_turn(conversation.id, replace(turn, message=Message("user", ())))
        shared.put_turn(conversation.id, turn)
        assert shared.load(conversation.id).head == turn.id
    assert shared.load(conversation.id).turns == conversation.turns
    shared.delete(conversation.id)


def test_digests_survive(kept):
    exotic = Image.new("RGB", (2, 1), (255, 0, 0))
    exotic.info = {"transparency": (255, 0, 0), "icc_profile": b"none", "dpi": (1, 1)}  # as after reading some PNGs
    conversation = talk("see", images=[picture(1), Picture(exotic, "x")])
    kept.save(conversation)
    (turn,) = kept.load(conversation.id).path()
    assert [p.digest for p in turn.message.images] == [picture(1).digest, Picture(exotic, "y").digest]


def test_lone_surrogates_do_not_stop_a_chat(kept):
    conversation = talk("\ud800 half a letter")
    kept.save(conversation)
    loaded = kept.load(conversation.id)
    assert loaded.turns == conversation.turns and loaded.title == "? half a letter"
    assert kept.list("HALF")


# ---- changes


def test_a_list_is_newest_first_and_counts_turns(kept):
    old, new = talk("old"), talk("new", "second")
    old.changed, new.changed = 10.0, 20.0
    kept.save(new)
    kept.save(old)
    assert [(s.id, s.title, s.turns, s.created) for s in kept.list()] == [
        (new.id, "new", 2, new.created),
        (old.id, "old", 1, old.created),
    ]
    kept.put_turn(old.id, asked("more", parent=old.head))
    assert [s.title for s in kept.list()] == ["old", "new"]
    assert kept.list()[0].changed == pytest.approx(time.time(), abs=60)


def test_a_stale_copy_takes_nothing_away(kept):
    conversation = talk("one")
    kept.save(conversation)
    reply = asked("from elsewhere", parent=conversation.head)
    kept.put_turn(conversation.id, reply)
    changed = kept.list()[0].changed
    kept.save(conversation)
    assert reply.id in kept.load(conversation.id).turns
    assert kept.list()[0].changed == changed


def test_only_what_changed_is_written(kept):
    conversation = talk("one", "two", "three")
    kept.save(conversation)
    first = next(iter(conversation.turns))
    conversation.turns[first] = replace(conversation.turns[first], feedback="up")
    written = []
    kept._db.set_trace_callback(None)
    kept._db.create_function("told", 1, written.append)
    kept._db.execute("CREATE TEMP TRIGGER watch AFTER UPDATE ON main.turns BEGIN SELECT told(new.id); END")
    kept.save(conversation)
    assert written == [first]


def test_an_old_turn_that_changes_leaves_the_head(kept):
    conversation = talk("one", "two")
    kept.save(conversation)
    first = conversation.path()[0]
    kept.put_turn(conversation.id, replace(first, feedback="down"))
    loaded = kept.load(conversation.id)
    assert loaded.head == conversation.head and loaded.turns[first.id].feedback == "down"


def test_create_and_rename(kept):
    conversation = kept.create("a title")
    assert kept.load(conversation.id) == conversation
    kept.rename(conversation.id, "Ein Ärger")
    (summary,) = kept.list("ärger")
    assert summary.title == "Ein Ärger" and summary.changed == conversation.changed


def test_what_is_not_there(kept):
    for call in (kept.load, lambda id: kept.rename(id, "x"), lambda id: kept.put_turn(id, asked("x"))):
        assert "no conversation 'nobody'" in refusal(InputError, call, "nobody")
    kept.delete("nobody")
    conversation = kept.create()
    assert "put that one first" in refusal(InputError, kept.put_turn, conversation.id, asked("x", parent="nobody"))
    assert kept.load(conversation.id).turns == {}


def test_turns_that_are_no_tree_are_refused(kept):
    conversation = talk("one", "two")
    conversation.turns = dict(reversed(conversation.turns.items()))
    assert "does not stand before it" in refusal(InputError, kept.save, conversation)
    assert "shown last" in refusal(InputError, kept.save, Conversation(head="nobody"))
    assert kept.list() == []


# ---- search


@pytest.mark.parametrize("text", ["100%", "a_b", "it's", 'say "so"', "back\\slash", "'; DROP TABLE turns; --", "[x]*?"])
def test_signs_are_only_text(kept, text):
    kept.save(talk("nothing", f"well, {text}, yes"))
    kept.save(talk("100 per cent of aXb, its say so back slash [y] x"))
    assert [summary.title for summary in kept.list(text)] == ["nothing"]


@pytest.mark.parametrize(
    ("text", "sought"),
    [
        ("Straße", "STRASSE"),
        ("Ärger", "äRG"),
        ("МОСКВА", "москва"),
        ("cafe\u0301", "CAFÉ"),
        ("这是狮子吗", "狮子"),
        ("ＡＢ", "ab"),
    ],
)
def test_all_ways_to_write_a_letter_are_found(kept, text, sought):
    kept.save(talk("other"))
    kept.save(talk(text))
    assert [summary.title for summary in kept.list(sought)] == [text]


def test_search_looks_in_titles_and_in_every_branch(kept):
    conversation = talk("question", "an answer")
    conversation.title = "renamed"
    conversation.turns["other"] = asked("the other\0branch", id="other")
    kept.save(conversation)
    assert all(len(kept.list(sought)) == 1 for sought in ("NAMED", "an ans", "branch", "  question ", "", "  "))
    assert kept.list("nowhere") == []


@pytest.mark.slow
def test_a_thousand_conversations_are_listed_and_searched_at_once(kept):
    words = "the picture shows a lion that sleeps under an acacia while two zebras drink from the river ".split()
    for number in range(1000):
        texts = [" ".join(random.Random(f"{number} {turn}").choices(words, k=60)) for turn in range(20)]
        kept.save(talk(*texts))
    for sought in (None, "lion", "lion that sleeps under", "nowhere to be found"):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            kept.list(sought)
            times.append(time.perf_counter() - start)
        assert min(times) < 0.05, sought


# ---- pictures


def test_deletion_frees_pictures_that_nobody_else_has(kept):
    first, second = talk("a", images=[picture(1), picture(2)]), talk("b", images=[picture(1, "other name")])
    second.demos = (Demo(picture(3), "q", "a"),)
    kept.save(first)
    kept.save(second)
    assert len(files(kept.folder)) == 3
    kept.delete(first.id)
    assert files(kept.folder) == {f"{picture(seed).digest.hex()}.png" for seed in (1, 3)}
    assert kept.load(second.id) == second
    second.demos = ()
    kept.save(second)
    assert files(kept.folder) == {f"{picture(1).digest.hex()}.png"}
    kept.put_turn(second.id, replace(second.path()[0], message=user_message("no picture")))
    assert files(kept.folder) == set()


def test_a_picture_that_another_process_removes_just_now_is_written_again(tmp_path, kept, monkeypatch):
    other = ConversationStore(tmp_path)
    victim, conversation = talk("a", images=[picture(1)]), talk("b", images=[picture(1)])
    kept.save(victim)
    add = PictureFolder.add

    def add_then_lose(folder, one):
        add(folder, one)
        if victim.id in {summary.id for summary in other.list()}:
            other.delete(victim.id)  # after the look at the disk and before the transaction
            assert files(tmp_path) == set()

    monkeypatch.setattr(PictureFolder, "add", add_then_lose)
    kept.save(conversation)
    assert kept.load(conversation.id) == conversation
    other.close()


@pytest.mark.parametrize("how", ["gone", "cut", "other"])
def test_a_lost_picture_is_grey_and_says_so(kept, how):
    conversation = talk("see", images=[picture(1, "lion.png", ("a note",))])
    kept.save(conversation)
    path = kept.folder / "pictures" / f"{picture(1).digest.hex()}.png"
    sound = path.read_bytes()
    change = {"gone": path.unlink, "cut": lambda: path.write_bytes(sound[:60])}
    change.get(how, lambda: picture(2).image.save(path))()
    loaded = kept.load(conversation.id)
    (lost,) = loaded.path()[0].message.images
    assert isinstance(lost, LostPicture) and lost.image.getpixel((9, 9)) == (128, 128, 128)
    assert lost.name == "lion.png" and lost.notes[0] == "a note" and "cannot be shown" in lost.notes[1]

    kept.export(loaded.id, kept.folder / "a.zip")  # as it is shown
    (grey,) = kept.import_(kept.folder / "a.zip").path()[0].message.images
    assert grey.digest == lost.digest and grey.notes == lost.notes

    kept.save(loaded)  # keeps the name of the picture that is lost
    path.write_bytes(sound)
    assert kept.load(conversation.id) == conversation


def test_what_a_killed_process_left_is_removed_after_an_hour(kept):
    conversation = talk("see", images=[picture(1)])
    kept.save(conversation)
    folder = PictureFolder(kept.folder / "pictures")
    folder.add(picture(2))
    folder.add(picture(3))
    (folder.folder / "abc.def.part").write_bytes(b"half")
    (folder.folder / "fresh.part").write_bytes(b"half")
    for name in ("abc.def.part", *(f"{picture(seed).digest.hex()}.png" for seed in (1, 2))):
        os.utime(folder.folder / name, (1e9, 1e9))
    ConversationStore(kept.folder).close()
    left = {f"{picture(seed).digest.hex()}.png" for seed in (1, 3)}
    assert files(kept.folder) == {"fresh.part", *left}
    assert kept.load(conversation.id) == conversation


# ---- damage


def damage_head(data):
    data[:100] = b"no database" * 9 + b"."


def damage_pages(data):
    data[4096:] = random.Random(0).randbytes(len(data) - 4096)


def damage_length(data):
    del data[9000:]


def asides(folder):
    """Databases that were moved aside, without what belongs to them."""
    return [path for path in folder.glob("chats.db.damaged-*") if not path.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize("damage", [damage_head, damage_pages, damage_length])
def test_a_damaged_database_is_moved_aside_and_said(tmp_path, damage):
    first = ConversationStore(tmp_path)
    first.save(talk(*["much to say " * 50] * 50))
    first.close()
    data = bytearray((tmp_path / "chats.db").read_bytes())
    damage(data)
    (tmp_path / "chats.db").write_bytes(data)

    second = ConversationStore(tmp_path)
    (notice,) = second.notices
    (aside,) = asides(tmp_path)
    assert aside.read_bytes() == data and str(aside) in notice and "\n" not in notice
    assert second.list() == []
    second.create("new")
    second.close()
    third = ConversationStore(tmp_path)
    assert third.notices == [] and [s.title for s in third.list()] == ["new"]
    third.close()


def test_the_write_ahead_file_goes_with_a_damaged_database(tmp_path):
    first = ConversationStore(tmp_path / "a")
    first.save(talk(*["much to say " * 50] * 50))
    first.close()
    first = ConversationStore(tmp_path / "a")
    first.save(talk("new"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # as a killed process leaves it
    log = (tmp_path / "b" / "chats.db-wal").read_bytes()
    assert log
    data = bytearray((tmp_path / "b" / "chats.db").read_bytes())
    damage_pages(data)
    (tmp_path / "b" / "chats.db").write_bytes(data)
    second = ConversationStore(tmp_path / "b")
    (aside,) = asides(tmp_path / "b")
    assert aside.read_bytes() == data
    assert Path(f"{aside}-wal").read_bytes() == log
    assert len(second.notices) == 1 and second.list() == []
    first.close()
    second.close()


def test_damage_within_a_row_is_said(kept):
    conversation = talk("see")
    kept.save(conversation)
    kept._db.execute("UPDATE turns SET body = '{'")
    assert f"conversation {conversation.id}" in refusal(StoreError, kept.load, conversation.id)


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    ConversationStore(tmp_path).close()
    db = sqlite3.connect(tmp_path / "chats.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = (tmp_path / "chats.db").read_bytes()
    line = refusal(StoreError, ConversationStore, tmp_path)
    assert "schema 99" in line and "upgrade" in line
    assert (tmp_path / "chats.db").read_bytes() == before and not list(tmp_path.glob("*damaged*"))


def test_the_database_of_another_program_is_left_alone(tmp_path):
    db = sqlite3.connect(tmp_path / "chats.db")
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = (tmp_path / "chats.db").read_bytes()
    assert "another program" in refusal(StoreError, ConversationStore, tmp_path)
    assert (tmp_path / "chats.db").read_bytes() == before


# ---- what can go wrong with a machine


def test_a_full_disk_is_one_line_and_changes_nothing(kept):
    conversation = talk("one")
    kept.save(conversation)
    (pages,) = kept._db.execute("PRAGMA page_count").fetchone()
    kept._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to have a full disk
    for call in (
        lambda: kept.save(talk("long " * 9999)),
        lambda: kept.put_turn(conversation.id, asked("long " * 9999, parent=conversation.head)),
    ):
        line = refusal(StoreError, call)
        assert "full" in line and "make room" in line and "chats.db" in line
    kept._db.execute(f"PRAGMA max_page_count = {2**30}")
    assert [kept.load(summary.id) for summary in kept.list()] == [conversation]
    kept.put_turn(conversation.id, asked("two", parent=conversation.head))


def test_a_full_disk_for_pictures(kept, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(picture_folder.os, "fsync", full)
    assert "make room" in refusal(StoreError, kept.save, talk("one", images=[picture()]))
    assert kept.list() == [] and files(kept.folder) == set()
    monkeypatch.undo()
    kept.save(talk("one", images=[picture()]))
    assert "check the folder" in refusal(StoreError, kept.export, kept.list()[0].id, kept.folder / "none" / "a.json")


def test_a_change_that_is_interrupted_is_undone(kept, monkeypatch):
    conversation = talk("one", "two")
    kept.save(conversation)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(store, "_use", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        kept.save(replace(conversation, title="other", system="other"))
    assert kept.load(conversation.id) == conversation
    kept.rename(conversation.id, "third")


def test_a_busy_database_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.1)
    kept, other = ConversationStore(tmp_path), sqlite3.connect(tmp_path / "chats.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "try again" in refusal(StoreError, kept.create)
    assert kept.list() == []  # reading goes on
    other.execute("ROLLBACK")
    kept.create()
    other.close()
    kept.close()


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be used" in refusal(StoreError, ConversationStore, tmp_path / "file")
    (tmp_path / "chats.db").mkdir()
    assert "cannot be used" in refusal(StoreError, ConversationStore, tmp_path)


def test_the_default_folder_is_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path))
    ConversationStore().close()
    assert (tmp_path / "chats" / "chats.db").exists()


def test_threads_share_a_store(kept):
    conversation = kept.create()
    failures = []

    def work(name):
        try:
            for number in range(10):
                kept.put_turn(conversation.id, asked(f"{name} {number}", [picture(number)]))
                kept.load(conversation.id)
                kept.list(name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(kept.load(conversation.id).turns) == 40


# ---- several processes

PREAMBLE = """
import sys
import numpy as np
from PIL import Image
from assistant.conversation import Turn
from assistant.images import Picture
from assistant.picture_folder import LostPicture
from assistant.store import ConversationStore
from prompts import assistant_message, user_message

def picture(seed):
    values = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Picture(Image.fromarray(values), "noise")

kept = ConversationStore(sys.argv[1])
assert kept.notices == []
"""

TALKER = """
seed = int(sys.argv[2])
while True:
    seed += 1
    conversation = kept.create("talk")
    turn = Turn(user_message("what is it?", [picture(seed), picture(seed % 7)]))
    kept.put_turn(conversation.id, turn)
    print("kept", conversation.id, turn.id, turn.message.images[0].digest.hex(), flush=True)
    reply = Turn(assistant_message(""), parent=turn.id)
    for words in range(5):
        kept.put_turn(conversation.id, Turn(assistant_message("word " * words), parent=turn.id, id=reply.id))
    if seed % 3 == 0:
        print("gone", conversation.id, flush=True)
        kept.delete(conversation.id)
"""

NEIGHBOUR = """
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    own = kept.create("own")
    kept.put_turn(own.id, Turn(user_message("mine", [picture(0)])))  # the other process removes the same one
    assert not isinstance(kept.load(own.id).path()[0].message.images[0], LostPicture)
    kept.put_turn(sys.argv[2], Turn(user_message(f"{sys.argv[3]} {number}")))
    kept.delete(own.id)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as POSIX does")
def test_a_kill_at_any_moment_loses_nothing_that_was_kept(tmp_path, monkeypatch):
    chance, kept = random.Random(), {}
    for attempt in range(10):
        child = start(TALKER, tmp_path, attempt * 10_000)
        lines = [child.stdout.readline()]
        time.sleep(chance.uniform(0, 0.15))
        child.kill()
        lines += child.stdout.read().splitlines()
        child.communicate()
        for word, conversation, *rest in (line.split() for line in lines):
            kept[conversation] = rest if word == "kept" else None

        opened = ConversationStore(tmp_path)
        assert opened.notices == []
        there = {summary.id for summary in opened.list()}
        for conversation, known in kept.items():
            if known and conversation in there:
                turn, digest = known
                assert opened.load(conversation).turns[turn].message.images[0].digest.hex() == digest
            assert conversation in there or not known
        for conversation in there:
            pictures = [one for turn in opened.load(conversation).turns.values() for one in turn.message.images]
            assert not any(isinstance(one, LostPicture) for one in pictures)
        opened.close()

    assert any(kept.values())
    monkeypatch.setattr(store, "GRACE_SECONDS", -1.0)
    opened = ConversationStore(tmp_path)
    used = opened._db.execute("SELECT DISTINCT digest FROM uses").fetchall()
    assert files(tmp_path) == {f"{digest}.png" for (digest,) in used}
    opened.close()


def test_two_processes_write_at_once(tmp_path):
    kept = ConversationStore(tmp_path)
    conversation = kept.create()
    children = [start(NEIGHBOUR, tmp_path, conversation.id, name) for name in ("left", "right")]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=120)
        assert child.returncode == 0
    said = {turn.message.text for turn in kept.load(conversation.id).turns.values()}
    assert said == {f"{name} {number}" for name in ("left", "right") for number in range(60)}
    assert [summary.id for summary in kept.list()] == [conversation.id] and files(tmp_path) == set()
    kept.close()
