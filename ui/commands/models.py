"""`assistant models`: the frozen parts of the embedded default: which are here, and bring them here."""

import json
from dataclasses import asdict
from typing import Any

import click

__all__ = ["models"]


@click.group()
def models() -> None:
    """What the embedded default is made of: list it, fetch it."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool) -> None:
    """List the frozen parts and whether they are here."""
    from assistant.parts import PARTS

    found = [_describe(name) for name in PARTS]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for part in found:
        columns = f"{part['name']:<24} {part['role']:<16} {_megabytes(part['size']):>7}  {part['licence']:<12}"
        click.echo(f"{columns} {part['state']}")
    if any(part["state"] != "ready" for part in found):
        click.echo("bring what is not ready here with: assistant models fetch", err=True)


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def fetch(names: tuple[str, ...], as_json: bool) -> None:
    """Bring frozen parts here (all, if none is named), so that nothing needs a network any more."""
    from assistant.parts import PARTS, ensure_part, part_state
    from ui.progress import PartProgress

    for name in names:
        part_state(name)  # a wrong name ends it before anything is fetched
    with PartProgress() as progress:
        for name in names or PARTS:
            ensure_part(name, progress=progress)
    done = [_describe(name) for name in names or PARTS]
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        for part in done:
            click.echo(f"{part['name']}: {part['state']}, {part['directory']}")


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(name: str, as_json: bool) -> None:
    """Say where a part comes from, its licence, and where it lies."""
    found = _describe(name)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        click.echo(f"{key:<10} {_megabytes(value) if key in ('size', 'disk') else value}")
    if found["state"] != "ready":
        click.echo(f"bring it here with: assistant models fetch {name}", err=True)


def _describe(name: str) -> dict[str, Any]:
    """A part as pinned, its state, and the directory in which it lies or will lie.

    Raises:
        InputError: no part has this name.
    """
    from assistant.parts.fetch import find_part, part_directory, part_state

    return {"state": part_state(name), "directory": str(part_directory(name)), **asdict(find_part(name))}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
