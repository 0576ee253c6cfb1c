"""What the resampler alone can be taught, without the language model and so at a twentieth of the cost: the truth about
composed scenes, read from the latents by a head that is thrown away after training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.questions import NUMBERS
from training.data.scenes import COLOURS, Thing

_UNKNOWN = -100
_GROUND = 0.2  # weight of patches that show no thing: most do not


@dataclass
class Truth:
    """What is in scenes, S of them, by the eleven colours.

    Attributes:
        present: [S, 11], 1 where something has the colour.
        place: [S, 11, 3], x, y and size of the only thing of the colour, as shares of the picture; NaN elsewhere.
        number: [S], how many things there are, from 0 for one; -100 where they are not alike.
        patches: [S, P], the colour of the thing at every patch, row by row; 11 where there is none.
    """

    present: Tensor
    place: Tensor
    number: Tensor
    patches: Tensor

    def __getitem__(self, rows: Tensor) -> "Truth":
        return Truth(**{key: value[rows] for key, value in vars(self).items()})

    def to(self, device: torch.device) -> "Truth":
        return Truth(**{key: value.to(device) for key, value in vars(self).items()})


def truth_of(scenes: Sequence[Sequence[Thing]], side: int) -> Truth:
    """The truth about scenes, in their order, for a map of ``side`` x ``side`` patches."""
    colours = list(COLOURS)
    present = torch.zeros(len(scenes), len(colours))
    place = torch.full((len(scenes), len(colours), 3), float("nan"))
    number = torch.full((len(scenes),), _UNKNOWN)
    patches = torch.full((len(scenes), side, side), len(colours))
    middle = (torch.arange(side) + 0.5) / side
    for row, things in enumerate(scenes):
        for thing in things:
            colour = colours.index(thing.colour)
            left, top, right, bottom = thing.box
            across, down = (middle > left) & (middle < right), (middle > top) & (middle < bottom)
            patches[row][down[:, None] & across] = colour
            present[row, colour] = 1
            if sum(other.colour == thing.colour for other in things) == 1:
                place[row, colour] = torch.tensor([*thing.centre, thing.size])
        if len({thing.object for thing in things}) == 1:
            number[row] = min(len(things), len(NUMBERS)) - 1
    return Truth(present, place, number, patches.flatten(1))


class SceneHead(nn.Module):
    """Reads scenes from latents: one query for each colour and one for the number attend to the latents, and what comes
    back is read linearly. The colour of each patch is read from the features before them.

    Args:
        width: of the latents, W.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(COLOURS) + 1, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.thing = nn.Linear(width, 4)  # present, x, y, size
        self.number = nn.Linear(width, len(NUMBERS))
        self.patch = nn.Linear(width, len(COLOURS) + 1)

    def forward(self, latents: Tensor, features: Tensor, truth: Truth) -> Tensor:
        """The loss of reading ``truth``, a scene's share of the sum over colours, number and patches.

        Args:
            latents: [S, R, W].
            features: [S, P, W], projected; what the latents are read from.
            truth: of the S scenes.
        """
        queries = self.queries.expand(len(latents), -1, -1)
        found = self.attention(queries, latents, latents, need_weights=False)[0]
        things, number = self.thing(found[:, :-1]).float(), self.number(found[:, -1]).float()
        present = F.binary_cross_entropy_with_logits(things[..., 0], truth.present, reduction="sum")
        known = ~truth.place.isnan()
        place = (things[..., 1:].sigmoid()[known] - truth.place[known]).abs().sum()
        counted = F.cross_entropy(number, truth.number, ignore_index=_UNKNOWN, reduction="sum")
        ground = things.new_ones(len(COLOURS) + 1)
        ground[-1] = _GROUND
        patches = F.cross_entropy(self.patch(features).float().flatten(0, 1), truth.patches.flatten(), ground)
        return (present + 4 * place + counted) / len(latents) + patches
