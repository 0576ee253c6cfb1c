import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from assistant.errors import FetchError, ImageError, MissingExtraError
from ui.cli import CommandLine, cli

ASSISTANT = [sys.executable, "-c", "from ui.cli import main; main()"]


@pytest.fixture
def run_raising(monkeypatch):
    """Run a verb that raises this error, after these arguments of the group."""

    def run(error, *arguments):
        @click.command()
        def verb():
            raise error

        monkeypatch.setattr(CommandLine, "get_command", lambda self, ctx, name: verb)
        return CliRunner().invoke(cli, [*arguments, "verb"])

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FetchError("no network\nat all"), 1),
        (MissingExtraError("peft", "train"), 1),
        (ImageError("cat.jpg: no such file"), 2),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(run_raising, error, code):
    result = run_raising(error)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == "error: " + " ".join(str(error).split()) + "\n"


def test_an_unexpected_error_is_one_line_that_names_debug(run_raising):
    result = run_raising(RuntimeError("shapes\ndiffer"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: unexpected RuntimeError: shapes differ")
    assert result.stderr.count("\n") == 1
    assert "--debug" in result.stderr


@pytest.mark.parametrize("error", [RuntimeError("why"), ImageError("why")])
def test_debug_shows_the_trace(run_raising, error):
    result = run_raising(error, "--debug")
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_an_interrupt_is_quiet(run_raising):
    result = run_raising(KeyboardInterrupt())
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["aks"], ["--nope"], ["ask", "--nope"], ["ask", "--temperature", "-1"]])
def test_a_wrong_call_is_one_line_that_names_the_help(arguments):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "--help" in result.stderr


def test_the_exit_code_of_a_verb_is_kept(monkeypatch):
    @click.command()
    @click.pass_context
    def verb(ctx):
        ctx.exit(3)

    monkeypatch.setattr(CommandLine, "get_command", lambda self, ctx, name: verb)
    assert CliRunner().invoke(cli, ["verb"]).exit_code == 3


class Unloadable:
    name = "train"

    def load(self):
        raise ModuleNotFoundError("No module named 'nowhere'")


def test_a_verb_that_cannot_be_loaded_hides_no_other(monkeypatch):
    found = [Unloadable(), *cli_entries("ask")]
    monkeypatch.setattr(
        "ui.cli.metadata.entry_points",
        lambda group, name=None: [entry for entry in found if name in (None, entry.name)],
    )
    listed = CliRunner().invoke(cli, ["--help"])
    assert listed.exit_code == 0
    assert "ask " in listed.stdout
    tried = CliRunner().invoke(cli, ["train", "bridge", "a.yaml", "--set", "steps=1"])
    assert tried.exit_code == 1
    assert "No module named 'nowhere'" in tried.stderr


def cli_entries(name):
    from importlib import metadata

    return list(metadata.entry_points(group="assistant.commands", name=name))


def test_version():
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("assistant, version ")


HELP_OF_EVERYTHING = """
import sys
import click
from ui.cli import cli

def helps(command, path):
    context = click.Context(command, info_name=" ".join(path))
    assert "cannot be loaded" not in command.get_help(context), path
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            helps(command.get_command(context, name), [*path, name])
    else:
        print(" ".join(path))

helps(cli, ["assistant"])
print(*sorted({"torch", "transformers", "streamlit"} & set(sys.modules)), sep="\\n")
"""


def test_no_help_imports_torch():
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_EVERYTHING], capture_output=True, text=True, timeout=60, check=True
    )
    printed = done.stdout.split("\n")
    assert {"assistant ask", "assistant models fetch", "assistant doctor"} <= set(printed)
    assert not {"torch", "transformers", "streamlit"} & set(printed)


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [*ASSISTANT, "models", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1
