"""What holds for the repository as a whole: documents tell the truth, nothing names a machine, files stay readable."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

from ui.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("assistant", "training", "prompts", "ui")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("assistant/default/README.md")]
# Split, so that this file does not hold what it forbids.
FORBIDDEN = re.compile("|".join(["/" + "work/", r"\.\./" + "shared", "files.python" + "hosted", "registry." + "npmjs"]))


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in fences if language in languages]


def commands(document: Path) -> list[list[str]]:
    """The commands of the console and bash blocks, as words; what a command printed is left out."""
    found = []
    for language in ("console", "bash"):
        for block in blocks(document, language):
            for line in block.replace("\\\n", " ").splitlines():
                text = line.removeprefix("$ ")
                if language == "bash" or line.startswith("$ "):
                    found += [shlex.split(text, comments=True)]
    return [words for words in found if words]


COMMANDS = [(document.name, words) for document in DOCUMENTS for words in commands(document)]


def parse(words: list[str]) -> None:
    """Parse a command line as the verbs would, without running it.

    Raises:
        click.UsageError: the verb, an option or an argument is not as the verb has it.
    """
    command, context = cli, click.Context(cli, info_name="assistant")
    while isinstance(command, click.Group) and not words[0].startswith("-"):
        name, command, words = command.resolve_command(context, list(words))
        context = click.Context(command, info_name=name, parent=context)
    try:
        command.make_context(context.info_name, list(words), parent=context.parent)
    except click.MissingParameter:
        raise
    except click.BadParameter:
        pass  # the README's photograph is not here


def test_the_readme_has_commands():
    assert ["assistant", "doctor"] in [words for _, words in COMMANDS]


@pytest.mark.parametrize(("document", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_documented_commands_exist(document, words):
    match words[0]:
        case "assistant":
            parse(words[1:])
        case "make":
            subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        case "source":
            pass
        case other:
            pytest.fail(f"{document} names {other}, which this test does not know")


def test_documented_python_imports_what_is_public():
    import assistant

    examples = [block for document in DOCUMENTS for block in blocks(document, "python")]
    assert examples
    for example in examples:
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom) and node.module == "assistant":
                assert {alias.name for alias in node.names} <= set(assistant.__all__)


def test_documented_files_exist():
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text) + re.findall(
            r"\b(?:training/configs|assistant/assets)/\S+\.\w+", text
        )
        for target in targets:
            assert any((base / target).exists() for base in (document.parent, ROOT)), f"{document.name} names {target}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files belong to the repository")
def test_nothing_names_a_machine():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    offenders = []
    for path in map(ROOT.joinpath, listed):
        if path.suffix in {".safetensors", ".jpg", ".png"} or not path.is_file():
            continue
        if FORBIDDEN.search(path.read_text(encoding="utf-8", errors="replace")):
            offenders.append(str(path))
    assert not offenders


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_stays_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, "split it by what lives in it"


@pytest.mark.parametrize("package", ["prompts", "assistant"])
def test_public_names_are_exact(package):
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    offered = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.level or str(node.module).partition(".")[0] in PACKAGES)
        for alias in node.names
    }
    assert offered <= set(module.__all__), "what the package imports, it offers"


def test_what_is_imported_is_declared():
    """A third-party import at the top of a module is a core dependency; for training or the page, one of its extra."""
    core, train, page = declared(""), declared("train"), declared("ui")
    undeclared = set()
    for path in MODULES:
        known = core | train if path.is_relative_to(ROOT / "training") else core
        known = core | page if path.is_relative_to(ROOT / "ui" / "page") else known
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            roots = {name.partition(".")[0] for name in names}
            undeclared |= {(str(path.relative_to(ROOT)), root) for root in roots - known - sys.stdlib_module_names}
    assert not undeclared


def declared(extra: str) -> set[str]:
    """The modules of this repository and of the packages that it names, without an extra or with one."""
    names = {"pillow": "PIL", "pyyaml": "yaml"}
    requirements = map(Requirement, metadata.requires("flamingo-assistant"))
    wanted = [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {*PACKAGES, *(names.get(name, name.replace("-", "_")) for name in wanted)}
