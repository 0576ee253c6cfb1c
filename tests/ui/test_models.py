import json

import pytest
from click.testing import CliRunner

from assistant.parts import PARTS
from ui.cli import cli


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path))
    return tmp_path


def test_list_says_what_is_missing_and_how_to_mend_it(empty_home):
    result = CliRunner().invoke(cli, ["models", "list"])
    assert result.exit_code == 0
    for name in PARTS:
        line = next(line for line in result.stdout.splitlines() if line.startswith(name))
        assert line.endswith("missing")
    assert "assistant models fetch" in result.stderr
    assert list(empty_home.iterdir()) == []


def test_list_as_json():
    result = CliRunner().invoke(cli, ["models", "list", "--json"])
    found = json.loads(result.stdout)
    assert [part["name"] for part in found] == list(PARTS)
    assert {part["state"] for part in found} == {"missing"}


def test_info_names_licence_and_place(empty_home):
    name = next(iter(PARTS))
    found = json.loads(CliRunner().invoke(cli, ["models", "info", name, "--json"]).stdout)
    assert found["licence"] == PARTS[name].licence
    assert found["sha256"] == PARTS[name].sha256
    assert found["directory"].startswith(str(empty_home))
    text = CliRunner().invoke(cli, ["models", "info", name]).stdout
    assert PARTS[name].licence in text


@pytest.mark.parametrize("arguments", [["info", "nope"], ["fetch", "nope"]])
def test_a_name_that_is_no_part_is_a_wrong_call(arguments, monkeypatch):
    monkeypatch.setattr("assistant.parts.ensure_part", lambda *_, **__: pytest.fail("nothing may be fetched"))
    result = CliRunner().invoke(cli, ["models", *arguments])
    assert result.exit_code == 2
    assert "nope" in result.stderr
    assert next(iter(PARTS)) in result.stderr


def test_fetch_fetches_what_is_named_and_tells_the_stages_on_stderr(monkeypatch):
    fetched = []

    def ensure_part(name, *, progress):
        fetched.append(name)
        for stage in ("download", "download", "convert", "ready"):
            progress(name, stage, 1, 2)

    monkeypatch.setattr("assistant.parts.ensure_part", ensure_part)
    name = list(PARTS)[-1]
    result = CliRunner().invoke(cli, ["models", "fetch", name, "--json"])
    assert fetched == [name]
    assert json.loads(result.stdout)[0]["name"] == name
    assert result.stderr.splitlines() == [f"{name}: downloading", f"{name}: converting", f"{name}: ready"]

    assert CliRunner().invoke(cli, ["models", "fetch"]).exit_code == 0
    assert fetched[1:] == list(PARTS)


def test_fetch_of_what_is_ready_is_quiet(monkeypatch):
    monkeypatch.setattr("assistant.parts.ensure_part", lambda name, progress: progress(name, "ready", 2, 2))
    assert CliRunner().invoke(cli, ["models", "fetch"]).stderr == ""
