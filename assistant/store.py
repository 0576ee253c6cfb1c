"""Conversations on disk: an SQLite database and a folder of pictures.

Every change is one transaction in write-ahead mode, so that a process may be killed at any moment. Pictures are files
named by their content. A picture is written before the transaction that names it, and looked for again inside of it;
files that nothing names any more are removed inside of one as well. SQLite lets only one process write at a time, so
no picture is removed while another process begins to use it. What a killed process left behind is removed an hour
later, when a store is opened.
"""

import json
import os
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from .conversation import Conversation, Turn
from .conversation_files import read_conversation, write_conversation
from .conversation_json import all_pictures, check_tree, from_json, setup_to_json, stored, turn_to_json
from .errors import InputError, StoreError
from .home import home
from .images import Picture
from .picture_folder import PictureFolder

SCHEMA = 1
BUSY_SECONDS = 10.0
GRACE_SECONDS = 3600.0  # after which a file that nothing names is taken for left behind

_TABLES = (
    """CREATE TABLE conversations (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        created REAL NOT NULL,
        changed REAL NOT NULL,
        head TEXT,
        setup TEXT NOT NULL)""",
    """CREATE TABLE turns (
        number INTEGER PRIMARY KEY,
        conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        id TEXT NOT NULL,
        parent TEXT,
        body TEXT NOT NULL,
        UNIQUE (conversation, id),
        FOREIGN KEY (conversation, parent) REFERENCES turns (conversation, id))""",
    "CREATE INDEX turns_by_parent ON turns (conversation, parent)",
    # What is searched, apart from the rest, since every search reads all of it. A title is the text of turn ''.
    """CREATE TABLE texts (
        conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        turn TEXT NOT NULL,
        folded TEXT NOT NULL,
        UNIQUE (conversation, turn))""",
    # Pictures that are shown; turn '' are the examples.
    """CREATE TABLE uses (
        conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        turn TEXT NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (conversation, turn, digest)) WITHOUT ROWID""",
    "CREATE INDEX uses_by_digest ON uses (digest)",
)
_LIST = """
    SELECT id, title, created, changed, (SELECT count(*) FROM turns WHERE conversation = c.number)
    FROM conversations AS c {} ORDER BY changed DESC, number DESC"""
_FOUND = "WHERE number IN (SELECT conversation FROM texts WHERE instr(folded, ?))"
_PUT_CONVERSATION = """
    INSERT INTO conversations (id, title, created, changed, head, setup) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET title = excluded.title, created = excluded.created,
    changed = max(changed, excluded.changed), head = excluded.head, setup = excluded.setup"""
_PUT_TURN = """
    INSERT INTO turns (conversation, id, parent, body) VALUES (?, ?, ?, ?)
    ON CONFLICT (conversation, id) DO UPDATE SET parent = excluded.parent, body = excluded.body
    WHERE body <> excluded.body"""

_MENDS = {
    "full": "make room on its disk",
    "no space": "make room on its disk",
    "locked": "another program keeps it: try again",
    "could not be acquired": "another program keeps it: try again",
    "malformed": "start again, which moves it aside",
}


@dataclass(frozen=True)
class Summary:
    """A conversation in a list.

    Attributes:
        created, changed: seconds since 1970.
        turns: how many there are in all branches.
    """

    id: str
    title: str
    created: float
    changed: float
    turns: int


Summaries = list[Summary]  # in the class below, `list` is a method


class ConversationStore:
    """Keeps conversations; threads and processes may share one folder, and threads one store.

    A database that is damaged is moved aside, with what belongs to it, and :attr:`notices` says where to.

    Args:
        folder: made where it is missing; by default ``chats`` in the assistant's home.

    Attributes:
        notices: what a person should know about the opening, a line each.

    Raises:
        StoreError: here and in every method: the disk is full or may not be written to, another program keeps the
            database for longer than 10 seconds, or a newer version of this one wrote it.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder) if folder is not None else home() / "chats"
        self.path = self.folder / "chats.db"
        self.notices: list[str] = []
        self._pictures = PictureFolder(self.folder / "pictures")
        self._lock = threading.Lock()
        with self._translating():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # One process at a time opens, or two would move the same damaged database aside.
            with FileLock(self.folder / "chats.lock", timeout=BUSY_SECONDS):
                self._set_damaged_aside()
                self._db = self._open()
        self._sweep()

    def close(self) -> None:
        """End the connection; the store cannot be used after it."""
        with self._lock:
            self._db.close()

    def list(self, search: str | None = None) -> Summaries:
        """Conversations, the one that changed last first.

        Args:
            search: only those with this in the title or in the text of any turn; upper or lower case are the same.
        """
        sought = _folded(search or "").strip()
        with self._reading() as db:
            rows = db.execute(_LIST.format(_FOUND), (sought,)) if sought else db.execute(_LIST.format(""))
            return [Summary(*row) for row in rows]

    def create(self, title: str = "") -> Conversation:
        """A new conversation, which is kept from now on."""
        conversation = Conversation(title=title)
        self.save(conversation)
        return conversation

    def load(self, id: str) -> Conversation:
        """A conversation with its pictures; one whose file is lost comes as a :class:`LostPicture`, which says so.

        Raises:
            InputError: there is none of this id.
        """
        with self._reading() as db:
            db.execute("BEGIN")  # both questions see the same state
            try:
                number = self._number(db, id)
                columns = "id, title, created, changed, head, setup"
                row = db.execute(f"SELECT {columns} FROM conversations WHERE number = ?", (number,)).fetchone()
                turns = db.execute(
                    "SELECT body FROM turns WHERE conversation = ? ORDER BY number", (number,)
                ).fetchall()
            finally:
                db.execute("COMMIT")
        *head, setup = row
        try:
            data = dict(zip(columns.split(", "), head, strict=False))
            data |= json.loads(setup) | {"turns": [json.loads(body) for (body,) in turns]}
            return from_json(data, self._pictures.read)
        except ValueError as error:
            raise StoreError(f"conversation {id} in {self.path} is damaged: {error}; delete it") from error

    def save(self, conversation: Conversation) -> None:
        """Keep a conversation; of its turns, only those that changed are written.

        Turns that are kept and are not in `conversation` stay: another process may have put them there.

        Raises:
            InputError: its turns are no tree.
        """
        check_tree(conversation)
        setup = json.dumps(setup_to_json(conversation, stored))
        shown = [demo.picture for demo in conversation.demos if demo.picture is not None]
        with self._changing(all_pictures(conversation)) as (db, dropped):
            title, times = _writable(conversation.title), (conversation.created, conversation.changed)
            db.execute(_PUT_CONVERSATION, (conversation.id, title, *times, conversation.head, setup))
            number = self._number(db, conversation.id)
            _put_text(db, number, "", title)
            dropped |= _use(db, number, "", shown)
            for turn in conversation.turns.values():
                dropped |= _put_turn(db, number, turn)

    def put_turn(self, conversation_id: str, turn: Turn) -> None:
        """Keep a turn, new or changed. A new one becomes the last one that is shown.

        Raises:
            InputError: the conversation, or the turn that this one follows, is not kept here.
        """
        with self._changing(turn.message.images) as (db, dropped):
            number = self._number(db, conversation_id)
            old = db.execute("SELECT 1 FROM turns WHERE conversation = ? AND id = ?", (number, turn.id)).fetchone()
            dropped |= _put_turn(db, number, turn)
            if not old:
                db.execute("UPDATE conversations SET head = ? WHERE number = ?", (turn.id, number))
            db.execute("UPDATE conversations SET changed = max(changed, ?) WHERE number = ?", (time.time(), number))

    def rename(self, id: str, title: str) -> None:
        """Give a conversation another title, at its place in the list.

        Raises:
            InputError: there is none of this id.
        """
        title = _writable(title)
        with self._changing() as (db, _):
            number = self._number(db, id)
            db.execute("UPDATE conversations SET title = ? WHERE number = ?", (title, number))
            _put_text(db, number, "", title)

    def delete(self, id: str) -> None:
        """Remove a conversation, and the pictures that no other one has. One that is gone already is no error."""
        with self._changing() as (db, dropped):
            rows = db.execute("SELECT digest FROM uses JOIN conversations ON number = conversation WHERE id = ?", (id,))
            dropped |= {digest for (digest,) in rows}
            db.execute("DELETE FROM conversations WHERE id = ?", (id,))

    def export(self, id: str, path: str | os.PathLike[str]) -> None:
        """Write a conversation into a file, see :func:`write_conversation`.

        Raises:
            InputError: there is none of this id, or the name ends in neither .json nor .zip.
        """
        conversation = self.load(id)
        with self._translating(Path(path)):
            write_conversation(conversation, path)

    def import_(self, path: str | os.PathLike[str]) -> Conversation:
        """Keep what is in an exported file, under new ids; the file stays as it is.

        Raises:
            InputError: see :func:`read_conversation`.
        """
        conversation = read_conversation(path)
        self.save(conversation)
        return conversation

    # ---- the database

    def _set_damaged_aside(self) -> None:
        """Look at the database without changing it.

        Raises:
            StoreError: it is of a newer version, or of another program.
        """
        if not self.path.exists():
            return
        try:
            # A connection that may not write does not fold the write-ahead file into the database when it is closed.
            with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", BUSY_SECONDS, uri=True)) as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                self._check_version(version)
                found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if version == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise StoreError(f"{self.path} is of another program; move it elsewhere")
        except sqlite3.OperationalError:
            return  # opening it for writing may mend it, else says what is wrong
        except sqlite3.DatabaseError as error:
            found = str(error)
        if found != "ok":
            self._move_aside(str(found).splitlines()[0])

    def _check_version(self, version: int) -> None:
        if version > SCHEMA:
            raise StoreError(
                f"{self.path} was written by a newer version of this program (schema {version}, known is {SCHEMA}); "
                "upgrade with `pip install --upgrade flamingo-assistant`"
            )

    def _move_aside(self, why: str) -> None:
        name = f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        number, aside = 1, self.path.with_name(name)
        while aside.exists():
            number, aside = number + 1, self.path.with_name(f"{name}-{number}")
        for ending in ("-wal", "-shm", ""):  # the database last: SQLite deletes a write-ahead file that has none
            part = Path(f"{self.path}{ending}")
            if part.exists():
                os.replace(part, f"{aside}{ending}")
        self.notices.append(
            f"the conversations in {self.path} are damaged ({why}) and were moved to {aside}; an empty list was begun"
        )

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # what was told of may leave with the current, not with a kill
            db.execute("PRAGMA foreign_keys = ON")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                with _transaction(db):
                    for statement in _TABLES:
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {SCHEMA}")
        except BaseException:
            db.close()
            raise
        return db

    def _number(self, db: sqlite3.Connection, id: str) -> int:
        row = db.execute("SELECT number FROM conversations WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise InputError(f"there is no conversation {id!r} in {self.path}; it may have been deleted")
        return row[0]

    @contextmanager
    def _translating(self, path: Path | None = None) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise InputError(f"a turn follows one that is not in {self.path}: put that one first") from error
        except (sqlite3.Error, OSError) as error:
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            mend = next((mend for word, mend in _MENDS.items() if word in why.lower()), "check the folder")
            raise StoreError(f"{path or self.path} cannot be used: {why}; {mend}") from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translating():
            yield self._db

    @contextmanager
    def _changing(self, pictures: Sequence[Picture] = ()) -> Iterator[tuple[sqlite3.Connection, set[str]]]:
        """One transaction; what is put into the set are digests that may have become needless by it."""
        dropped: set[str] = set()
        with self._translating():
            for picture in pictures:  # the slow part, while others may write
                self._pictures.add(picture)
            with self._lock:
                with _transaction(self._db):
                    for picture in pictures:  # another process may have removed it since
                        self._pictures.add(picture)
                    yield self._db, dropped
                self._remove_needless(dropped)

    def _remove_needless(self, digests: set[str]) -> None:
        """Remove pictures that nothing names, in a transaction of its own: nothing may undo the change before it."""
        if not digests:
            return
        with suppress(sqlite3.Error), _transaction(self._db):  # what stays is found by the next opening
            for digest in digests:
                if not self._db.execute("SELECT 1 FROM uses WHERE digest = ?", (digest,)).fetchone():
                    self._pictures.remove(digest)

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        if old := self._pictures.old(GRACE_SECONDS):
            with self._reading() as db:
                used = {digest for (digest,) in db.execute("SELECT DISTINCT digest FROM uses")}
                self._remove_needless(old - used)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Everything or nothing; waits for other writers first."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _put_turn(db: sqlite3.Connection, number: int, turn: Turn) -> set[str]:
    """Write a turn, if it is new or another than before; gives digests that it named before and names no more."""
    row = number, turn.id, turn.parent, json.dumps(turn_to_json(turn, stored))
    if not db.execute(_PUT_TURN, row).rowcount:
        return set()
    _put_text(db, number, turn.id, turn.message.text)
    return _use(db, number, turn.id, turn.message.images)


def _put_text(db: sqlite3.Connection, number: int, turn: str, text: str) -> None:
    """Let a text be found; where `turn` is empty it is the title."""
    db.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", (number, turn, _folded(text)))


def _use(db: sqlite3.Connection, number: int, turn: str, pictures: Iterable[Picture]) -> set[str]:
    """Note which pictures a turn names, or where `turn` is empty the examples; gives those that it names no more."""
    place = number, turn
    before = {digest for (digest,) in db.execute("SELECT digest FROM uses WHERE (conversation, turn) = (?, ?)", place)}
    now = {stored(picture)["picture"] for picture in pictures}
    if before != now:
        db.execute("DELETE FROM uses WHERE (conversation, turn) = (?, ?)", place)
        db.executemany("INSERT INTO uses VALUES (?, ?, ?)", [(*place, digest) for digest in now])
    return before - now


def _writable(text: str) -> str:
    """Text that the database takes: without lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def _folded(text: str) -> str:
    """What is compared in a search: all ways of writing a letter are one."""
    return _writable(unicodedata.normalize("NFKC", text).casefold())
