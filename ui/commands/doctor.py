"""`assistant doctor`: what is here, what is missing, and the command that mends it."""

import importlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import click
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

__all__ = ["doctor"]

DISTRIBUTION = "flamingo-assistant"
ENOUGH_MEMORY = 2.5e9  # bytes that one answer of the default stays under


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        name: what was looked at.
        status: "ok"; "note" for what can do without; "bad" for what `ask` needs.
        found: what is here.
        mend: what to do, empty when nothing is to be done.
    """

    name: str
    status: Literal["ok", "note", "bad"]
    found: str
    mend: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what is here, what is missing, and how to mend it. Fetches nothing."""
    checks = [*_python(), *_packages(), *_extras(), *_device(), *_memory(), *_home(), *_parts(), *_adapter()]
    healthy = all(check.status != "bad" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        for check in checks:
            click.echo(f"{check.status:<5} {check.name:<28} {check.found}")
            if check.mend:
                click.echo(f"{'':<34} -> {check.mend}")
    ctx.exit(0 if healthy else 1)


def _python() -> Iterator[Check]:
    wanted = metadata.metadata(DISTRIBUTION)["Requires-Python"]
    fits = SpecifierSet(wanted).contains(platform.python_version(), prereleases=True)
    mend = "" if fits else f"make an environment with Python {wanted}"
    yield Check("python", "ok" if fits else "bad", f"{platform.python_version()} ({sys.executable})", mend)


def _packages() -> Iterator[Check]:
    """The core dependencies."""
    for requirement, version, fits in _requirements(extra=""):
        if fits:
            yield Check(requirement.name, "ok", str(version))
        else:
            found = f"{version or 'not installed'}; needs {requirement.specifier}"
            mend = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Check(requirement.name, "bad", found, mend)


def _extras() -> Iterator[Check]:
    """What is optional: an extra is whole, or the packages that are missing are named."""
    for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
        absent = [requirement.name for requirement, _, fits in _requirements(extra) if not fits]
        if absent:
            mend = f"if you want it: pip install '{DISTRIBUTION}[{extra}]'"
            yield Check(f"extra {extra}", "note", f"without {', '.join(absent)}", mend)
        else:
            yield Check(f"extra {extra}", "ok", "installed")


def _requirements(extra: str) -> Iterator[tuple[Requirement, str | None, bool]]:
    """(requirement, installed version or None, whether it fits) of the core (``extra=""``) or of one extra."""
    for requirement in map(Requirement, metadata.requires(DISTRIBUTION) or []):
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not wanted or (extra and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield requirement, None, False
        else:
            yield requirement, version, requirement.specifier.contains(version, prereleases=True)


def _device() -> Iterator[Check]:
    """Whether torch and transformers work, and on what."""
    for name in ("torch", "transformers"):
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken installation raises whatever it likes
            yield Check("device", "bad", f"{name} does not import: {error}", f"pip install --force-reinstall {name}")
            return
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"
    yield Check("device", "ok", device)


def _memory() -> Iterator[Check]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return  # a system that does not say it in this way
    mend = "" if free > ENOUGH_MEMORY else f"the default needs up to {ENOUGH_MEMORY / 1e9} GB: end other programs"
    yield Check("memory", "note" if mend else "ok", f"{free / 1e9:.1f} GB available", mend)


def _home() -> Iterator[Check]:
    """Whether what is fetched can be kept, and whether it fits."""
    from assistant.home import home
    from assistant.parts import PARTS, part_state

    nearest = next(path for path in (home(), *home().parents) if os.path.exists(path))
    free = shutil.disk_usage(nearest).free
    needed = sum(part.disk for name, part in PARTS.items() if part_state(name) != "ready")
    found = f"{home()}, {free / 1e9:.1f} GB free"
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        status: Literal["note", "bad"] = "bad" if needed else "note"
        yield Check("ASSISTANT_HOME", status, f"{home()} cannot be written", "set ASSISTANT_HOME to a folder that can")
    elif free < needed:
        mend = f"fetching needs {needed / 1e6:.0f} MB: free some space, or set ASSISTANT_HOME to another disk"
        yield Check("ASSISTANT_HOME", "bad", found, mend)
    else:
        yield Check("ASSISTANT_HOME", "ok", found)


def _parts() -> Iterator[Check]:
    from assistant.parts import PARTS, part_state

    for name in PARTS:
        state = part_state(name)
        if state == "ready":
            yield Check(name, "ok", state)
        else:
            yield Check(name, "note" if state == "missing" else "bad", state, f"assistant models fetch {name}")


def _adapter() -> Iterator[Check]:
    """The bridge that ships with the code."""
    from safetensors import SafetensorError, safe_open

    import assistant

    folder = Path(assistant.__file__).parent / "default"
    mend = f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
    try:
        json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
        with safe_open(folder / "adapter.safetensors", framework="numpy") as weights:
            found = f"{folder}, {len(weights.keys())} tensors"
    except (OSError, ValueError, SafetensorError) as error:
        yield Check("default bridge", "bad", f"{folder}: {error}", mend)
    else:
        yield Check("default bridge", "ok", found)
