"""`assistant train`: make adapters."""

import os

import click


@click.group()
def train() -> None:
    """Train what stands between the frozen models."""


@train.command()
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the run; resumed if it holds a checkpoint.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of CONFIG.")
@click.option("--stop-after", type=float, metavar="MINUTES", help="Stop at a checkpoint after so long.")
def bridge(config: str, out: str | None, overrides: tuple[str, ...], stop_after: float | None) -> None:
    """Train the resampler and the gated blocks by CONFIG (a YAML file)."""
    from pathlib import Path

    from training.bridge.config import BridgeConfig
    from training.config import load_config

    settings = load_config(BridgeConfig, config, overrides)
    folder = Path(out or f"runs/{Path(config).stem}")

    # Room for what oneDNN prepares for every shape of matrix: with its 1,024 entries it prepares most of it anew.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    from training.bridge.run import prepare

    from .progress import bars

    main = int(os.environ.get("RANK", "0")) == 0
    with bars() as report:
        trainer = prepare(settings, folder, report if main else None)

        def show(step: int, steps: int, scalars: dict[str, float]) -> None:
            losses = {k.removeprefix("loss/"): v for k, v in scalars.items() if k.startswith("loss/")}
            report("steps", step, steps, " ".join(f"{kind} {value:.2f}" for kind, value in losses.items()))

        done = trainer.run(show, None if stop_after is None else stop_after * 60)
    if main:
        state = "done" if done else f"stopped at step {trainer.step} of {trainer.steps}; the same command goes on"
        click.echo(f"{folder / 'adapter'}: {state}")
