import json
from importlib import metadata

import pytest
from click.testing import CliRunner

from assistant.parts import PARTS
from ui.cli import cli
from ui.commands import doctor


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def checks():
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["ok"] else 1)
    assert report["ok"] == all(check["status"] != "bad" for check in report["checks"])
    return {check["name"]: check for check in report["checks"]}


def test_this_environment_is_well_and_missing_parts_are_a_note(empty_home):
    found = checks()
    assert found["torch"]["status"] == "ok"
    assert found["torch"]["found"] == metadata.version("torch")
    assert found["python"]["status"] == "ok"
    assert found["ASSISTANT_HOME"]["status"] == "ok"
    for name in PARTS:
        assert found[name]["status"] == "note"
        assert found[name]["mend"] == f"assistant models fetch {name}"
    assert not empty_home.exists()


def test_every_extra_is_whole_or_has_the_command_that_installs_it():
    found = checks()
    for extra in metadata.metadata("flamingo-assistant").get_all("Provides-Extra"):
        check = found[f"extra {extra}"]
        assert check["status"] in ("ok", "note")
        assert check["status"] == "ok" or f"flamingo-assistant[{extra}]" in check["mend"]
    assert found["extra dev"]["status"] == "ok"


def test_a_dependency_that_is_too_old_is_bad(monkeypatch):
    versions = {"torch": "2.1.0"}
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: versions.get(name) or real(name))
    found = checks()
    assert found["torch"]["status"] == "bad"
    assert found["torch"]["mend"].startswith("pip install 'torch>=")


def test_a_broken_part_is_bad_and_says_how_to_mend_it(empty_home):
    name = next(iter(PARTS))
    (empty_home / "parts" / name).mkdir(parents=True)
    found = checks()
    assert found[name]["status"] == "bad"
    assert found[name]["found"].startswith("broken")
    assert found[name]["mend"] == f"assistant models fetch {name}"


def test_a_home_that_is_a_file_is_bad(empty_home):
    empty_home.write_text("")
    found = checks()
    assert found["ASSISTANT_HOME"]["status"] == "bad"
    assert "ASSISTANT_HOME" in found["ASSISTANT_HOME"]["mend"]


def test_a_full_disk_is_bad_while_parts_are_missing(monkeypatch):
    usage = doctor.shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    found = checks()
    assert found["ASSISTANT_HOME"]["status"] == "bad"
    assert "MB" in found["ASSISTANT_HOME"]["mend"]


@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_a_bridge_that_does_not_load_is_bad(tmp_path, monkeypatch, damage):
    folder = tmp_path / "default"
    folder.mkdir()
    if damage == "truncated":
        (folder / "adapter.json").write_text("{}")
        (folder / "adapter.safetensors").write_bytes(b"version https://git-lfs")
    monkeypatch.setattr("assistant.__file__", str(tmp_path / "__init__.py"))
    found = checks()
    assert found["default bridge"]["status"] == "bad"
    assert found["default bridge"]["mend"]


def test_for_people_each_line_has_its_mend_below():
    lines = CliRunner().invoke(cli, ["doctor"]).stdout.splitlines()
    name = next(iter(PARTS))
    position = next(number for number, line in enumerate(lines) if name in line)
    assert lines[position].startswith("note")
    assert lines[position + 1].strip() == f"-> assistant models fetch {name}"
