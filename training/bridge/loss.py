"""The losses of bridge training."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from assistant.model import FlamingoForConditionalGeneration

from .lessons import LESSON_KINDS, LessonKind
from .samples import Batch, Look
from .sight import SceneHead

PICTURES_AT_ONCE = 8


@dataclass
class Losses:
    """Scalars of one batch: what is minimised, and its parts.

    Attributes:
        by_kind: the sum of text losses of each kind's answers, and how many answers it has.
    """

    total: Tensor
    text: Tensor
    contrastive: Tensor
    by_kind: dict[LessonKind, tuple[float, int]]


class BridgeLoss(nn.Module):
    """A model, the projection of the auxiliary contrastive loss, and how both make a loss of a batch.

    Args:
        model: only its adapter learns.
        contrastive_weight: weight of the contrastive loss beside the text loss.
        logit_noise: standard deviation of noise on the tower's class logits.
    """

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        contrastive_weight: float,
        logit_noise: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.contrastive_weight = contrastive_weight
        self.logit_noise = logit_noise
        width = model.model.resampler.latents.shape[1]
        self.image_head = nn.Linear(width, model.config.text_config.hidden_size)
        self.logit_scale = nn.Parameter(torch.tensor(2.3))
        self.scene_head = SceneHead(width)
        mean_word = model.get_input_embeddings().weight.detach().float().mean(0)
        self.register_buffer("_mean_word", mean_word, persistent=False)
        self._prefix: DynamicCache | None = None

    def forward(self, batch: Batch, swapped: bool = False, freeze_resampler: bool = False) -> Losses:
        """The losses of a batch; with ``swapped`` every picture takes the place of the one after it."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze_resampler):
            latents = self.latents(batch.patches, batch.logits)
        if swapped:
            latents = latents.roll(1, dims=0)
        rows = self.text_losses(batch, latents)
        text = rows.sum() / batch.answers.sum()
        zero = text.new_zeros(())
        compare = self.contrastive_weight and not freeze_resampler
        contrastive = self.contrastive_loss(latents, batch.names, batch.captions) if compare else zero
        by_kind = {}
        for kind in batch.kinds.unique().tolist():
            of_kind = batch.kinds == kind
            by_kind[LESSON_KINDS[kind]] = (rows[of_kind].sum().item(), int(batch.answers[of_kind].sum()))
        return Losses(text + self.contrastive_weight * contrastive, text, contrastive, by_kind)

    def look(self, look: Look) -> dict[str, Tensor]:
        """The losses of the resampler alone: of pictures with names, and of scenes."""
        latents = self.latents(look.patches, look.logits)
        named = len(look.names)
        features = self.model.model.resampler.project_features(look.patches[named:])
        return {
            "contrastive": self.contrastive_loss(latents[:named], look.names, look.captions),
            "scene": self.scene_head(latents[named:], features.flatten(1, 2), look.truth),
        }

    def latents(self, patches: Tensor, logits: Tensor) -> Tensor:
        """[I, R, W], with noise on the tower's class logits while training."""
        if self.training and self.logit_noise:
            logits = logits + torch.randn_like(logits) * self.logit_noise
        # Always so many at once: what a CPU prepares for matrices of a new shape costs more than a few pictures.
        count = len(patches)
        rows = torch.arange(count + -count % PICTURES_AT_ONCE, device=patches.device).clamp_max(count - 1)
        resampler = self.model.model.resampler
        return torch.cat([resampler(patches[some], logits[some]) for some in rows.split(PICTURES_AT_ONCE)])[:count]

    def text_losses(self, batch: Batch, latents: Tensor) -> Tensor:
        """Cross-entropy, summed over all answers of each row, [B].

        A step averages it over answers, not tokens: in a made-up name only the first token has to be found by looking,
        and it counts as much as a whole name.
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
        losses = F.cross_entropy(self.model.head(hidden[:, :-1][kept]).float(), labels[kept], reduction="none")
        return losses.new_zeros(len(labels)).index_add(0, kept.nonzero()[:, 0], losses)

    @torch.no_grad()
    def prefix_cache(self, prefix: Tensor, rows: int) -> DynamicCache | None:
        """Keys and values of the tokens that stand before every row, computed once and shared."""
        if not len(prefix):
            return None
        if self._prefix is None:  # only frozen parts see it, so it never changes
            self._prefix = self.model.model(input_ids=prefix.unsqueeze(0), use_cache=True).past_key_values
        cache = copy.copy(self._prefix)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
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
        words = F.normalize(words - self._mean_word, dim=-1)
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
