"""Photographs without photographs: feature maps pushed towards a class of the frozen tower's own classifier.

The classifier of an EfficientNet reads the mean of the last feature map. A map of a real picture, pushed along the
gradient of a class, is what the tower could have said of a photograph of that class, and a training sample of its name.
"""

import torch
from torch import Tensor


def push_towards_classes(
    patches: Tensor,
    classes: Tensor,
    weight: Tensor,
    bias: Tensor,
    generator: torch.Generator,
    *,
    steps: int = 8,
    ceiling: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """Turn feature maps of any pictures into maps that the classifier takes for given classes.

    A random part of every map is pushed by gradient steps until the class has a random share of the probability, as
    in photographs, which are rarely certain. Features stay within 0..``ceiling``, the range of the tower's ReLU6.

    Args:
        patches: [n, P, Dv], maps to start from.
        classes: [n], the classes to reach.
        weight, bias: [C, Dv] and [C], the classifier.
        generator: of the random choices.

    Returns:
        patches [n, P, Dv] and logits [n, C].
    """
    count, positions, channels = patches.shape
    side = round(positions**0.5)
    region = _blobs(count, side, generator).unsqueeze(-1)  # [n, P, 1]
    contrast = torch.rand(count, 1, 1, generator=generator) * 0.5 + 0.35
    patches = patches * (1 - region * contrast)  # what was there before fades where the object stands
    target = torch.rand(count, generator=generator) * 0.82 + 0.08
    rows = torch.arange(count)
    # Real maps are sparse: about one channel in fifteen is active at a position, and not the same ones everywhere.
    liking = weight[classes].unsqueeze(1) * (torch.rand(count, positions, channels, generator=generator) + 0.2)
    active = (liking > liking.quantile(0.94, dim=-1, keepdim=True)) | (patches > 0)
    for _ in range(steps):
        probabilities = (patches.mean(1) @ weight.T + bias).softmax(-1)
        unfinished = (probabilities[rows, classes] < target).float()
        if not unfinished.any():
            break
        direction = weight[classes] - probabilities @ weight  # the gradient of log p(class), [n, Dv]
        push = direction.unsqueeze(1) * active
        push = push / push.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        spread = torch.rand(count, positions, 1, generator=generator) + 0.5
        share = positions / region.sum(1, keepdim=True).clamp_min(1)
        size = 1.6 * unfinished[:, None, None] * share.clamp_max(4)
        patches = (patches + region * spread * size * push).clamp(0, ceiling)
    return patches, patches.mean(1) @ weight.T + bias


def _blobs(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Soft round regions of random place and size on a side x side map, [n, side * side] in 0..1."""
    line = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    centre = torch.rand(count, 2, generator=generator) * 1.0 - 0.5
    radius = torch.rand(count, 2, generator=generator) * 0.7 + 0.4
    dx = (x.flatten() - centre[:, :1]) / radius[:, :1]
    dy = (y.flatten() - centre[:, 1:]) / radius[:, 1:]
    return torch.sigmoid(6 * (1 - dx.square() - dy.square()))
