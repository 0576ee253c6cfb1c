"""The losses of bridge training."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from assistant.model import FlamingoForConditionalGeneration

from .samples import Batch, Look
from .sight import SceneHead


@dataclass
class Losses:
    """Scalars of one batch: what is minimised, and its parts."""

    total: Tensor
    text: Tensor
    contrastive: Tensor


class BridgeLoss(nn.Module):
    """A model, the projection of the auxiliary contrastive loss, and how both make a loss of a batch.

    Args:
        model: only its adapter learns.
        contrastive_weight: weight of the contrastive loss beside the text loss.
        feature_noise: standard deviation of noise on features, in units of each channel's standard deviation.
        logit_noise: standard deviation of noise on the tower's class logits.
    """

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        contrastive_weight: float,
        feature_noise: float,
        logit_noise: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.contrastive_weight = contrastive_weight
        self.feature_noise = feature_noise
        self.logit_noise = logit_noise
        width = model.model.resampler.latents.shape[1]
        self.image_head = nn.Linear(width, model.config.text_config.hidden_size)
        self.logit_scale = nn.Parameter(torch.tensor(2.3))
        self.scene_head = SceneHead(width)

    def forward(self, batch: Batch, swapped: bool = False) -> Losses:
        """The losses of a batch; with ``swapped`` every picture takes the place of the one after it."""
        latents = self.latents(batch.patches, batch.logits)
        if swapped:
            latents = latents.roll(1, dims=0)
        text = self.text_loss(batch, latents)
        zero = text.new_zeros(())
        contrastive = self.contrastive_loss(latents, batch.names, batch.captions) if self.contrastive_weight else zero
        return Losses(text + self.contrastive_weight * contrastive, text, contrastive)

    def look(self, look: Look) -> dict[str, Tensor]:
        """The losses of the resampler alone: of pictures with names, and of scenes."""
        latents = self.latents(look.patches, look.logits)
        named = len(look.names)
        return {
            "contrastive": self.contrastive_loss(latents[:named], look.names, look.captions),
            "scene": self.scene_head(latents[named:], look.truth),
        }

    def latents(self, patches: Tensor, logits: Tensor) -> Tensor:
        """[I, R, W], with noise on what the tower said while training."""
        resampler = self.model.model.resampler
        if self.training:
            if self.feature_noise:
                scale = resampler.feature_std if resampler.standardise else patches.std()
                patches = patches + torch.randn_like(patches) * (self.feature_noise * scale)
            if self.logit_noise:
                logits = logits + torch.randn_like(logits) * self.logit_noise
        return resampler(patches, logits)

    def text_loss(self, batch: Batch, latents: Tensor) -> Tensor:
        """Cross-entropy, summed over the tokens of an answer and averaged over answers.

        In a made-up name only the first token has to be found by looking, and it counts as much as a whole name.
        """
        cache = self.prefix_cache(batch.prefix, len(batch.input_ids))
        hidden = self.model.model(
            input_ids=batch.input_ids,
            past_key_values=cache,
            use_cache=cache is not None,
            image_latents=self.model.model.hand_out(latents, batch.input_ids),
        ).last_hidden_state
        labels = batch.labels[:, 1:]
        kept = labels != -100
        total = F.cross_entropy(self.model.head(hidden[:, :-1][kept]).float(), labels[kept], reduction="sum")
        return total / batch.answers

    @torch.no_grad()
    def prefix_cache(self, prefix: Tensor, rows: int) -> DynamicCache | None:
        """Keys and values of the tokens that stand before every row, computed once and shared."""
        if not len(prefix):
            return None
        cache = self.model.model(input_ids=prefix.unsqueeze(0), use_cache=True).past_key_values
        for layer in cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys.expand(rows, -1, -1, -1)
                layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache

    def contrastive_loss(self, latents: Tensor, names: Tensor, captions: Tensor) -> Tensor:
        """Symmetric InfoNCE between mean latents and mean word embeddings of names; equal names are no negatives.

        Zero where fewer than two pictures have a name.
        """
        named = names >= 0
        if int(named.sum()) < 2:
            return latents.new_zeros(())
        captions, names, latents = captions[named], names[named], latents[named]
        embedding = self.model.get_input_embeddings().weight
        given = captions >= 0
        words = embedding[captions.clamp_min(0)] * given.unsqueeze(-1)
        words = words.float().sum(1) / given.sum(1, keepdim=True)
        words = F.normalize(words - embedding.float().mean(0), dim=-1)
        images = F.normalize(self.image_head(latents.mean(1)).float(), dim=-1)
        return info_nce(images, words, names, self.logit_scale.exp().clamp_max(100))


def info_nce(first: Tensor, second: Tensor, names: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (CLIP, arXiv:2103.00020, section 2.3), without rows of the same name among the negatives.

    Args:
        first, second: [B, d], unit length, row by row a pair.
        names: [B], ids; equal ids are the same name.
        scale: inverse temperature.
    """
    scores = scale * first @ second.T
    same = (names[:, None] == names[None, :]) & ~torch.eye(len(names), dtype=torch.bool, device=names.device)
    scores = scores.masked_fill(same, float("-inf"))
    target = torch.arange(len(names), device=names.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
