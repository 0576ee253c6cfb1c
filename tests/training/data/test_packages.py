import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from assistant.errors import FetchError
from training.data import packages
from training.data.packages import PACKAGES, Package, fetch_package


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Puts executables on an otherwise empty search path; ``client(name, script)`` adds one that logs its calls."""
    folder, log = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    for tool in ("sh", "cp", "sleep"):
        (folder / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))

    def add(name, script):
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{script}\n')
        (folder / name).chmod(0o755)
        return folder / name

    add.calls = lambda: log.read_text().splitlines() if log.exists() else []
    return add


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An npm package of three files, of which two are wanted; its archive lies at ``toy.archive``."""
    archive = tmp_path / "toys-1.0.0.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("img/a.png", "img/a.svg", "index.json"):
            file = tmp_path / "content"
            file.write_text(name)
            tar.add(file, f"package/{name}")
    pin(monkeypatch, "@x/toys", "npm", archive, keep=("package/img/*.png", "package/index.json"))
    return archive


def pin(monkeypatch, name, registry, archive, **more):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    package = Package(name, registry, "1.0.0", (digest,), "MIT", **more)
    monkeypatch.setitem(packages.PACKAGES, name, package)


def kept(tmp_path):
    """What a fetch left, beside lock files."""
    folder = tmp_path / "home/packages"
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"] if folder.exists() else []


def test_fetches_once_and_unpacks_what_is_wanted(client, toy):
    npm = client("npm", f"cp {toy} .")
    heard = []
    folder = fetch_package("@x/toys", progress=lambda *args: heard.append(args))
    assert folder.name == "x-toys-1.0.0"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "package/img/a.png",
        "package/index.json",
    ]
    assert client.calls() == ["npm pack --ignore-scripts @x/toys@1.0.0"]
    assert heard == [("fetching @x/toys", 0, 1), ("fetching @x/toys", 1, 1)]

    npm.unlink()  # from now on neither client nor network is needed
    assert fetch_package("@x/toys") == folder


def test_many_at_once_fetch_once(client, toy):
    client("npm", f"sleep 0.3; cp {toy} .")
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(fetch_package, ["@x/toys"] * 4))
    assert len(folders) == 1
    assert len(client.calls()) == 1


def test_another_hash_is_refused_and_nothing_is_kept(client, toy, tmp_path):
    other = tmp_path / "other.tgz"
    other.write_bytes(toy.read_bytes() + b"!")
    client("npm", f"cp {other} .")
    with pytest.raises(FetchError, match=r"the SHA-256 is [0-9a-f]{64}, expected"):
        fetch_package("@x/toys")
    assert kept(tmp_path) == []


def test_another_debian_release_is_named(client, toy, monkeypatch, tmp_path):
    pin(monkeypatch, "toys", "apt", toy)
    other = tmp_path / "toys_2%3a7-1_all.deb"
    other.write_bytes(b"newer")
    client("apt-get", f"cp {other} .")
    with pytest.raises(FetchError, match=r"offers toys_2:7-1_all\.deb, another build"):
        fetch_package("toys")


@pytest.mark.parametrize(
    ("registry", "said"), [("npm", "needs npm, .*Node.js"), ("apt", "needs apt-get, .*Debian or Ubuntu")]
)
def test_a_missing_client_is_named_with_the_mend(client, toy, monkeypatch, registry, said):
    pin(monkeypatch, "toys", registry, toy)
    with pytest.raises(FetchError, match=said):
        fetch_package("toys")


def test_missing_pip_is_named_with_the_mend(client, toy, monkeypatch):
    pin(monkeypatch, "toys", "pip", toy)
    python = client("python", "echo '/usr/bin/python: No module named pip' >&2; exit 1")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(FetchError, match=r"needs pip, .*python -m ensurepip"):
        fetch_package("toys")


def test_what_a_failing_client_says_is_told_in_one_line(client, toy, monkeypatch, tmp_path):
    pin(monkeypatch, "toys", "apt", toy)
    client("apt-get", "echo 'E: Unable to locate' >&2; echo 'package toys' >&2; exit 100")
    with pytest.raises(FetchError, match="apt-get update") as caught:
        fetch_package("toys")
    assert str(caught.value).endswith("It said: E: Unable to locate package toys")
    assert kept(tmp_path) == []


def test_a_broken_archive_leaves_nothing(client, toy, monkeypatch, tmp_path):
    toy.write_bytes(toy.read_bytes()[:40])
    pin(monkeypatch, "@x/toys", "npm", toy)
    client("npm", f"cp {toy} .")
    with pytest.raises(FetchError, match="cannot be unpacked"):
        fetch_package("@x/toys")
    assert kept(tmp_path) == []


def test_a_wheel_comes_with_pip_and_without_its_requirements(client, monkeypatch, tmp_path):
    wheel = tmp_path / "toys-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toys/names.json", "[]")
    pin(monkeypatch, "toys", "pip", wheel)
    monkeypatch.setattr(sys, "executable", str(client("python", f"cp {wheel} .")))
    assert (fetch_package("toys") / "toys/names.json").read_text() == "[]"
    assert "--no-deps" in client.calls()[0]


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_a_debian_package_is_unpacked(client, monkeypatch, tmp_path):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: toys\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (tree / "usr/share/toys").mkdir(parents=True)
    (tree / "usr/share/toys/a.svg").write_text("<svg/>")
    archive = tmp_path / "toys_1_all.deb"
    usual = {**os.environ, "PATH": os.defpath}
    subprocess.run(["dpkg-deb", "--build", tree, archive], check=True, capture_output=True, env=usual)
    pin(monkeypatch, "toys", "apt", archive)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{os.defpath}")
    client("apt-get", f"cp {archive} .")
    assert (fetch_package("toys") / "usr/share/toys/a.svg").read_text() == "<svg/>"


def test_a_folder_that_cannot_be_made_is_a_clear_error(client, toy, tmp_path):
    client("npm", f"cp {toy} .")
    (tmp_path / "home").write_text("a file where a folder should be")
    with pytest.raises(FetchError, match="cannot write under"):
        fetch_package("@x/toys")


def test_every_package_is_pinned():
    for package in PACKAGES.values():
        assert package.sha256 and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in package.sha256)
        assert package.licence
