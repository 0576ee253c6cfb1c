"""`assistant data`: make training and evaluation sets."""

import click


@click.group()
def data() -> None:
    """Build the data sets that training and evaluation read."""


@data.command()
@click.argument("name", metavar="default|naming")
def build(name: str) -> None:
    """Fetch the packages of a data set and build it; a set that is there already is left as it is."""
    from training.data.build import build as build_set

    from .progress import bars

    with bars() as report:
        folder = build_set(name, report)
    click.echo(str(folder))
