"""Every module imports, and every verb's help prints, with the core dependencies alone."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "flamingo-assistant"

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for root in ("prompts", "assistant", "training", "ui"):
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if module.name.startswith("ui.page."):  # the extra `ui` brings what only they need
            continue
        importlib.import_module(module.name)
        print(module.name)
"""


def core_distributions() -> set[str]:
    """What this distribution needs without any extra, and what those need in turn."""
    todo, seen = [(DISTRIBUTION, "")], set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), wanted) for wanted in {"", *requirement.extras}]
    return {name for name, _ in seen}


def link_distributions(names: set[str], site: Path) -> None:
    """Make `site` look like a site-packages folder in which only these distributions are installed."""
    for distribution in map(metadata.distribution, names):
        for top in {file.parts[0] for file in distribution.files or []}:
            if top not in ("..", "__pycache__") and not top.endswith(".pth") and not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the standard library, `site` and this repository, and nothing that is installed elsewhere."""
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "PYTHONNOUSERSITE": "1"}
    return subprocess.run(
        [sys.executable, "-S", *arguments], env=environment, cwd=site, capture_output=True, text=True, timeout=240
    )


def test_every_module_imports_and_every_help_prints(tmp_path):
    link_distributions(core_distributions(), tmp_path)
    assert run(tmp_path, "-c", "import pytest").returncode, "what is outside the core must be out of reach"

    done = run(tmp_path, "-c", IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert {"prompts.messages", "assistant.images", "ui.cli"} <= set(done.stdout.split())

    for verb in metadata.entry_points(group="assistant.commands").names:
        done = run(tmp_path, "-c", "from ui.cli import main; main()", verb, "--help")
        assert done.returncode == 0, done.stderr
        assert "cannot be loaded" not in done.stdout
