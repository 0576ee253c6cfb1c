import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import training.data.build
from assistant.errors import FetchError
from ui.cli import cli


def run(*arguments):
    return CliRunner().invoke(cli, ["data", *arguments])


def test_a_built_set_is_named_on_standard_output(monkeypatch, tmp_path):
    def build(name, report):
        report("drawing pictures", 1, 2)
        report("drawing pictures", 2, 2)
        return tmp_path / name

    monkeypatch.setattr(training.data.build, "build", build)
    result = run("build", "default")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'default'}\n"
    assert "drawing pictures" in result.stderr


def test_an_unknown_set_ends_with_code_2_and_one_line():
    result = run("build", "deafult")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == "error: there is no data set 'deafult'; known are default, naming"
    assert len(result.stderr.split("\n")) <= 3  # the line, and the end of the bars


def test_a_failed_download_ends_with_code_1(monkeypatch):
    def build(name, report):
        raise FetchError("no network")

    monkeypatch.setattr(training.data.build, "build", build)
    result = run("build", "naming")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: no network"


@pytest.mark.parametrize("module", ["data", "train", "evaluate"])
def test_help_waits_for_no_tensor_library(module):
    root = Path(training.data.build.__file__).parents[2]
    check = f"import sys, training.commands.{module}; print({{'torch', 'numpy', 'rich', 'yaml'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
