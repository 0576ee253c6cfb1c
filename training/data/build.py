"""Data sets that are built on the machine that trains: ``default`` to train on, ``naming`` to measure with."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from filelock import FileLock
from PIL import Image

from assistant.errors import ConfigError, FetchError
from assistant.home import home
from training.data.emoji import emoji_sources
from training.data.heldout import heldout_in
from training.data.naming import build_naming
from training.data.openclipart import openclipart_sources
from training.data.packages import PACKAGES, Progress, fetch_package
from training.data.pictures import is_grey, render_svg, trim
from training.data.rows import Source

_RECIPE = 2  # raise it when the code changes what the pictures or rows are
_TEXTS = ("emoji_names.tsv", "openclipart_names.tsv", "heldout_objects.txt", "SOURCES.md")
_PACKAGES = ("@lobehub/fluent-emoji-3d", "emoji-datasource-google", "emojibase-data", "openclipart-svg")


def build(name: str, progress: Progress | None = None) -> Path:
    """Build a data set, or find it built.

    Args:
        name: "default" or "naming".
        progress: called as ``progress(what, done, total)``.

    Returns:
        The folder that holds it.

    Raises:
        ConfigError: no such data set.
        FetchError: a package that it needs cannot be brought here.
    """
    builders: dict[str, Callable[[Path, Progress | None], Path]] = {"default": build_default, "naming": build_naming}
    if name not in builders:
        raise ConfigError(f"there is no data set {name!r}; known are {', '.join(builders)}")
    return builders[name](home(), progress)


def build_default(root: Path, progress: Progress | None = None) -> Path:
    """Build the training pictures under ``root/data/default``: ``index.jsonl``, ``pictures/*.png``, ``ATTRIBUTION.md``.

    The same tables and packages give the same files. An interrupted build goes on where it stopped; a finished one is
    found by the fingerprint of everything that it was made from.

    Args:
        root: the folder that ``home()`` names.
        progress: called as ``progress(what, done, total)``.

    Returns:
        The folder. Rows of the index hold id, file, source, style, name, article, aliases, tags, alpha, object, heldout
        and licence; rows with ``heldout`` true are for evaluation only.

    Raises:
        FetchError: a package cannot be brought here, or the disk is full.
    """
    target = root / "data" / "default"
    fingerprint = _fingerprint()
    stamp = target / "fingerprint"
    if stamp.is_file() and stamp.read_text() == fingerprint:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not (stamp.is_file() and stamp.read_text() == fingerprint):
                _build_into(target, fingerprint, progress)
    except OSError as error:
        raise FetchError(f"cannot write the data set under {target} ({error}); free some space") from error
    return target


def _build_into(target: Path, fingerprint: str, progress: Progress | None) -> None:
    work = target.with_name(f".default-{fingerprint[:12]}")
    (work / "pictures").mkdir(parents=True, exist_ok=True)
    sources = [source for source in _sources(progress) if keep(source)]
    rows, seen = [], set()
    for done, source in enumerate(sources):
        if progress:
            progress("drawing pictures", done, len(sources))
        picture = _picture(source, work / "pictures" / f"{source.id}.png")
        # The library files one drawing in several folders; of equal pictures the first name stays.
        if picture is not None and (content := hashlib.sha256(picture.tobytes()).digest()) not in seen:
            seen.add(content)
            rows.append(_row(source, picture))
    (work / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    shutil.copyfile(Path(__file__).with_name("SOURCES.md"), work / "ATTRIBUTION.md")
    (work / "fingerprint").write_text(fingerprint)
    for path in (work / "pictures").iterdir():
        if path.stem not in {row["id"] for row in rows}:
            path.unlink()
    shutil.rmtree(target, ignore_errors=True)
    os.replace(work, target)
    if progress:
        progress("drawing pictures", len(sources), len(sources))


def _sources(progress: Progress | None) -> Iterator[Source]:
    fluent, google, emojibase, openclipart = (fetch_package(name, progress=progress) for name in _PACKAGES)
    yield from emoji_sources(
        emojibase, fluent / "package/assets", source="fluent", style="fluent-3d", licence=PACKAGES[_PACKAGES[0]].licence
    )
    yield from emoji_sources(
        emojibase, google / "package/img/google/64", source="google", style="google-flat", licence="Apache-2.0"
    )
    yield from openclipart_sources(openclipart)


def keep(source: Source) -> bool:
    """Whether a picture may stand in the index.

    A picture of a held-out object is kept and marked; one that only names a held-out object (a "guitar case" where
    guitars are held out) is left out, for it would teach the noun.
    """
    named = heldout_in([source.name, source.object, *source.aliases])
    return not named or heldout_in([source.object]) == named == {source.object}


def _row(source: Source, picture: Image.Image) -> dict[str, object]:
    style = "clipart-grey" if source.style == "clipart" and is_grey(picture) else source.style
    heldout = bool(heldout_in([source.object]))
    tags = source.tags if heldout else [tag for tag in source.tags if not heldout_in([tag])]
    row = asdict(replace(source, style=style, tags=tags))
    del row["path"]
    return row | {"file": f"pictures/{source.id}.png", "alpha": picture.mode == "RGBA", "heldout": heldout}


def _picture(source: Source, file: Path) -> Image.Image | None:
    """The built picture, drawn unless an earlier run left it; None when it shows next to nothing."""
    if not file.exists():
        drawn = render_svg(source.path) if source.path.suffix == ".svg" else Image.open(source.path).convert("RGBA")
        picture = trim(drawn)
        if picture is None:
            return None
        picture.save(file.with_suffix(".part"), format="PNG")
        os.replace(file.with_suffix(".part"), file)
    with Image.open(file) as picture:
        picture.load()
        return picture


def _fingerprint() -> str:
    made_from = [str(_RECIPE), *(sha for name in _PACKAGES for sha in PACKAGES[name].sha256)]
    made_from += [Path(__file__).with_name(name).read_text("utf-8") for name in _TEXTS]
    return hashlib.sha256("\0".join(made_from).encode()).hexdigest()
