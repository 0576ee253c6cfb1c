"""An assistant small enough to be measured in a test, and something to ask it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.eval.items import Example, leave_one_out

COLOURS = ("red", "green", "blue", "yellow", "white", "black")


@pytest.fixture(scope="session")
def tiny(assembled) -> Any:
    """An assistant that says nonsense, and other nonsense for other pictures and demonstrations."""
    from assistant import Assistant

    model, processor = assembled(zero_init_output=False, initializer_range=0.3)
    model.eval().generation_config.eos_token_id = [2, 70, 71]  # nonsense ends now and then
    return Assistant(model, processor, "tiny")


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> list[Path]:
    """A picture of each colour, and noise in it that tells it from others."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for colour in COLOURS:
        noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
        Image.blend(Image.new("RGB", (24, 24), colour), noise, 0.6).save(folder / f"{colour}.png")
    return [folder / f"{colour}.png" for colour in COLOURS]


@pytest.fixture(scope="session")
def items(files) -> Callable[..., Sequence[Any]]:
    """Questions about the colours; half of them are of the kind "warm"."""

    def made(**fields: Any) -> Sequence[Any]:
        fields = {"choices": COLOURS, **fields}
        return leave_one_out(
            [
                Example(file.stem, (file,), "Hue?", file.stem, kind="warm" if i % 2 else "cold", **fields)
                for i, file in enumerate(files)
            ]
        )

    return made
