"""The perceiver resampler: any number of features in, R latents out (Flamingo, arXiv:2204.14198, section 3.1.1).

Shapes in this package: B batch, T text tokens, N pictures of a row, I pictures of a batch, F frames, P patches,
R latents, Dv vision width, D language width, W resampler width, H heads, C classes of the tower, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Watch, attend_to, split_heads
from .configuration import FlamingoConfig

WatchLayer = Callable[[Tensor, Tensor, Tensor], None]
"""Is handed the weights of a layer [I, H, R, M + R], the latents before it and what attention adds, [I, R, W]."""


class FeedForward(nn.Sequential):
    """LayerNorm, up, GELU, down; without biases, as in Flamingo."""

    def __init__(self, width: int, mult: int) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, width * mult, bias=False),
            nn.GELU(),
            nn.Linear(width * mult, width, bias=False),
        )


class PerceiverAttention(nn.Module):
    """Latents attend to the features and to themselves."""

    is_causal = False

    def __init__(self, config: FlamingoConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.heads, head_dim = config.resampler_heads, config.resampler_head_dim
        inner = self.heads * head_dim
        self.scaling = head_dim**-0.5
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, latents: Tensor, media: Tensor, watch: Watch | None = None) -> Tensor:
        """latents [I, R, W], media [I, M, W] -> [I, R, W]; ``watch`` sees weights [I, H, R, M + R]."""
        latents = self.norm_latents(latents)
        keys, values = self.to_kv(torch.cat((self.norm_media(media), latents), dim=1)).chunk(2, dim=-1)
        q, k, v = (split_heads(x, self.heads) for x in (self.to_q(latents), keys, values))
        return self.to_out(attend_to(self, q, k, v, None, watch))


class PerceiverLayer(nn.Module):
    def __init__(self, config: FlamingoConfig, width: int) -> None:
        super().__init__()
        self.attention = PerceiverAttention(config, width)
        self.feed_forward = FeedForward(width, config.resampler_ff_mult)

    def forward(self, latents: Tensor, media: Tensor, watch: WatchLayer | None = None) -> Tensor:
        weights: list[Tensor] = []
        attended = self.attention(latents, media, weights.append if watch else None)
        if watch:
            watch(weights[0], latents, attended)
        latents = latents + attended
        return latents + self.feed_forward(latents)


class PerceiverResampler(nn.Module):
    """Turns the features of a picture, or of the frames of a clip, into R latents.

    Besides Flamingo's own parts it can standardise features, project them to a narrower width, give patches of
    convolutional towers a position, start latents from pooled features and from the cells of a grid, and read the
    tower's class probabilities, as one more token and in the latents (see :class:`FlamingoConfig`).
    """

    def __init__(self, config: FlamingoConfig) -> None:
        super().__init__()
        vision_width = config.feature_width
        width = config.resampler_width or vision_width
        self.max_frames = config.resampler_max_frames
        self.latents = nn.Parameter(torch.empty(config.resampler_latents, width))
        self.standardise = config.standardise_features
        if self.standardise:
            self.feature_mean = nn.Parameter(torch.zeros(vision_width), requires_grad=False)
            self.feature_std = nn.Parameter(torch.ones(vision_width), requires_grad=False)
        self.project = nn.Linear(vision_width, width) if width != vision_width else nn.Identity()
        positions, frames = config.resampler_positions, config.resampler_max_frames
        self.patch_positions = nn.Parameter(torch.empty(positions, width)) if positions else None
        self.frame_positions = nn.Parameter(torch.empty(frames, width)) if frames else None
        self.pool = nn.Linear(width, width, bias=False) if config.pooled_latents else None
        self.grid = config.resampler_grid
        self.local = nn.Linear(width, width, bias=False) if self.grid else None
        classes = config.vision_config.num_labels
        self.class_embedding = nn.Linear(classes, width, bias=False) if config.class_token else None
        self.class_norm = nn.LayerNorm(width) if config.class_token else None
        self.class_pool = nn.Linear(width, width, bias=False) if config.class_token else None
        self.dropout = nn.Dropout(config.resampler_dropout)
        self.layers = nn.ModuleList(PerceiverLayer(config, width) for _ in range(config.resampler_depth))
        self.norm = nn.LayerNorm(width)

    def project_features(self, patches: Tensor) -> Tensor:
        """Standardise and project, [I, F, P, Dv] -> [I, F, P, W]; both at once, for features are many times wider."""
        if not self.standardise:
            return self.project(patches.to(self.latents.dtype))
        if isinstance(self.project, nn.Identity):
            return ((patches.float() - self.feature_mean.float()) / self.feature_std.float()).to(self.latents.dtype)
        weight = self.project.weight.float() / self.feature_std.float()
        bias = self.project.bias.float() - weight @ self.feature_mean.float()
        return F.linear(patches.to(self.latents.dtype), weight.to(self.latents.dtype), bias.to(self.latents.dtype))

    def _cells(self, media: Tensor) -> Tensor | None:
        """What the first latents start from: mean features of the cells of a grid, [I, F, P, W] -> [I, G * G, W]."""
        if self.local is None:
            return None
        maps = media.mean(dim=1).transpose(1, 2)  # [I, W, P]
        side = math.isqrt(maps.shape[-1])
        return self.local(F.adaptive_avg_pool2d(maps.unflatten(-1, (side, side)), self.grid).flatten(2).transpose(1, 2))

    def forward(self, patches: Tensor, class_logits: Tensor | None = None, watch: WatchLayer | None = None) -> Tensor:
        """Resample.

        Args:
            patches: [I, F, P, Dv], features of I pictures of F frames.
            class_logits: [I, F, C], the tower's own class logits, if ``class_token`` is set.
            watch: sees every layer. Of the M tokens of a picture the class token and then the mean of the patches come
                first, if there are such, in every frame.

        Returns:
            [I, R, W] latents.

        Raises:
            ValueError: more frames than there are time embeddings.
        """
        pictures, frames = patches.shape[:2]
        dtype = self.latents.dtype
        media = self.dropout(self.project_features(patches))  # [I, F, P, W]
        pooled = media.mean(dim=2, keepdim=True)  # [I, F, 1, W]
        if self.patch_positions is not None:
            media = media + self.patch_positions
        cells = self._cells(media)
        if self.pool is not None:
            media = torch.cat((pooled, media), dim=2)
        if self.class_embedding is not None and self.class_norm is not None:
            if class_logits is None:
                raise ValueError("this model reads the vision tower's class logits, and none were given")
            probabilities = class_logits.float().softmax(-1).to(dtype)
            class_token = self.class_norm(self.class_embedding(probabilities))  # [I, F, W]
            media = torch.cat((class_token.unsqueeze(2), media), dim=2)
        if self.frame_positions is not None:
            if frames > self.max_frames:
                raise ValueError(f"a picture has {frames} frames; this model has time embeddings for {self.max_frames}")
            media = media + self.frame_positions[:frames, None]
        media = media.flatten(1, 2)  # [I, F * P', W]
        latents = self.latents.expand(pictures, -1, -1)
        if self.pool is not None:
            latents = latents + self.pool(pooled.mean(dim=1))
        if self.class_pool is not None:
            latents = latents + self.class_pool(class_token.mean(dim=1, keepdim=True))
        if cells is not None:
            latents = torch.cat((latents[:, : cells.shape[1]] + cells, latents[:, cells.shape[1] :]), dim=1)
        for layer in self.layers:
            latents = layer(latents, media, watch)
        return self.norm(latents)
