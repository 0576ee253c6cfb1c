"""What people type: words with quotes, and pictures by path or address as they are pasted, dropped or written."""

import os
import re
import shlex
from pathlib import Path
from urllib.request import url2pathname

from assistant.errors import InputError

__all__ = ["picture_source", "picture_sources", "split_words", "typed_pictures"]

_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)


def split_words(text: str) -> list[str]:
    """Words as a shell takes them: quotes and backslashes hold what belongs together.

    Raises:
        InputError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{text.strip()[:60]!r}: {str(error).lower()}; close the quote, or write \\' for '") from None


def picture_source(word: str) -> str:
    """A path or address, for `load_pictures`, where `word` may be a file: address.

    Raises:
        InputError: it is one of another machine.
    """
    if not word.lower().startswith("file://"):
        return word
    machine, _, path = word[len("file://") :].partition("/")
    if machine not in ("", "localhost"):
        raise InputError(f"{word}: lies on another machine, {machine}; copy it here first")
    return url2pathname(f"/{path}")


def picture_sources(text: str) -> list[str]:
    """The pictures that a line names, for `load_pictures`.

    Takes several words with quotes and backslashes, as terminals write what is dropped on them, file: and http(s)
    addresses, and one path that is written plainly, whatever is in it.

    Raises:
        InputError: a quote is not closed.
    """
    plain = text.strip()
    if _is_file(plain):
        return [plain]
    return [picture_source(word) for word in split_words(plain)]


def typed_pictures(line: str) -> list[str]:
    """The pictures of a line that names nothing else; empty where it is something to say.

    A path counts where there is such a file and the word looks like a path: it has a folder or a suffix. An address
    counts by itself.
    """
    try:
        found = picture_sources(line)
    except InputError:
        return []
    return found if all(_ADDRESS.fullmatch(one) or (_like_path(one) and _is_file(one)) for one in found) else []


def _is_file(word: str) -> bool:
    try:
        return Path(word).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # too long for a name, a zero byte, `~nobody`
        return False


def _like_path(word: str) -> bool:
    return bool(Path(word).suffix) or "/" in word or os.sep in word
