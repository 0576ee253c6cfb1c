"""Things whose outline is a plain shape, by their names in the training set.

They teach the words for shapes on real drawings; no picture of a plain circle, rectangle or triangle is trained on.
"""

from typing import Literal, get_args

Shape = Literal["circle", "rectangle", "triangle"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

_NAMES: dict[Shape, tuple[str, ...]] = {
    "circle": (
        "ball",
        "baseball",
        "beach ball",
        "billiard ball",
        "clock",
        "coin",
        "compact disc",
        "cookie",
        "dartboard",
        "full moon",
        "gold coin",
        "golden compact disc",
        "moon cake",
        "no entry sign",
        "plate",
        "soccer ball",
        "softball",
        "tennis ball",
        "vinyl record",
        "volleyball",
        "wheel",
    ),
    "rectangle": (
        "admission tickets",
        "banknotes",
        "brick",
        "brick wall",
        "chocolate bar",
        "computer keyboard",
        "credit card",
        "framed picture",
        "identification card",
        "mobile phone",
        "page of paper",
        "picture frame",
        "ruler",
        "sheet of paper",
        "smart card",
        "television",
        "ticket",
        "window",
    ),
    "triangle": (
        "biohazard warning sign",
        "electricity warning sign",
        "fire warning sign",
        "pyramid",
        "radiation warning sign",
        "slice of pizza",
        "triangular ruler",
        "warning sign",
        "yield sign",
    ),
}

SHAPE_OF: dict[str, Shape] = {name: shape for shape, names in _NAMES.items() for name in names}
"""The shape of each of these things."""
