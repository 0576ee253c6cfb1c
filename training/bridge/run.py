"""From a configuration to a trained adapter: the parts, the data, the feature cache, the trainer."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from assistant.errors import ConfigError
from assistant.home import home
from assistant.model import FlamingoConfig, FlamingoForConditionalGeneration
from assistant.model.assembly import assemble
from assistant.parts import PARTS, ensure_part
from training.config import check_keys
from training.data.build import build
from training.data.imagenet import ImageNetClass, imagenet_classes
from training.data.training_scenes import training_scenes

from .config import BridgeConfig
from .features import cache_features
from .loss import BridgeLoss
from .pools import make_pools
from .samples import Sampler
from .trainer import BridgeTrainer

Report = Callable[[str, int, int], None]


def prepare(config: BridgeConfig, folder: Path, report: Report | None = None) -> BridgeTrainer:
    """Everything that a run needs, ready to train.

    Args:
        config: of the run.
        folder: where the run is kept.
        report: called as ``report(what, done, total)`` while the data set is built and features computed.

    Raises:
        ConfigError: ``config.model`` has a field that is not known, or a value that does not fit the parts.
        FetchError: a part or a package cannot be brought here.
        ModelError: a part is missing or damaged.
    """
    check_keys(config.model, FlamingoConfig.__annotations__, "model")
    torch.manual_seed(config.seed)
    dtype = getattr(torch, config.dtype)
    places = [ensure_part(part) if part in PARTS else Path(part) for part in (config.vision, config.language)]
    try:
        model, processor = assemble(places[0], places[1], dtype=dtype, rename=config.rename_tokens, **config.model)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model: {error}") from error
    if not torch.cuda.is_available():
        model.set_attn_implementation("eager")  # several times faster than SDPA's backward on a CPU for short texts
    data = build(config.data, report)
    rows = training_rows(data)
    scenes = training_scenes(config.scenes, report)
    caches = home() / "cache" / "features"
    if torch.cuda.is_available():
        model.cuda()
    files = [data / row["file"] for row in rows]
    pictures = cache_features(model.model, files, config.variants, caches, seed=config.seed, progress=report)
    scene_files = [file for file, _ in scenes]
    shown = cache_features(model.model, scene_files, 1, caches, augment=False, seed=config.seed, progress=report)
    classes = imagenet_classes()
    mean, std = pictures.statistics(np.random.default_rng(config.seed))
    initialise(model, mean, std, classes, processor.tokenizer)
    sampler = Sampler(processor, pictures, shown, mean, classifier(model), config.seed, config.patch_dropout)
    side = math.isqrt(shown.patches.shape[2])
    pools = make_pools(rows, classes, [things for _, things in scenes], side)
    loss = BridgeLoss(model, config.contrastive_weight, config.logit_noise)
    notes = {"recipe": asdict(config), "pictures": len(rows), "threads": torch.get_num_threads()}
    return BridgeTrainer(config, loss, sampler, pools, folder, notes)


def training_rows(data: Path) -> list[dict[str, Any]]:
    """The rows of a built training set that may be trained on; objects held out for evaluation are left out."""
    with (data / "index.jsonl").open(encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if not row["heldout"]]


def classifier(model: FlamingoForConditionalGeneration) -> tuple[Tensor, Tensor]:
    """Weight [C, Dv] and bias [C] of the tower's classifier, float32 on the CPU."""
    layers = [m for m in model.model.vision_tower.modules() if isinstance(m, nn.Linear)]
    head = layers[-1]
    return head.weight.detach().float().cpu(), head.bias.detach().float().cpu()


@torch.no_grad()
def initialise(
    model: FlamingoForConditionalGeneration,
    mean: Tensor,
    std: Tensor,
    classes: list[ImageNetClass],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Start from what is known: mean and deviation of features, two of [Dv], and class tokens that are the words of the
    class names."""
    resampler = model.model.resampler
    if resampler.standardise:
        resampler.feature_mean.copy_(mean)
        resampler.feature_std.copy_(std)
    if resampler.class_embedding is not None:
        words = model.get_input_embeddings().weight
        if resampler.class_embedding.weight.shape[0] == words.shape[1]:
            for item in (c for c in classes if not c.heldout):
                ids = tokenizer.encode(" " + item.name, add_special_tokens=False)
                resampler.class_embedding.weight[:, item.index] = words[ids].float().mean(0).to(words.dtype)
