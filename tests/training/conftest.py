"""A bridge small enough to be trained in a test: its parts on disk, features, and what makes a trainer of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RENAME = {"<unused0>": "<image>", "<unused1>": "<|endofchunk|>"}
NAMES = ("a cat", "a dog", "an owl", "a red fox", "some milk", "a pair of shoes", "a cat", "a ladder", "a bee", "a cow")
CLASSES = ("a lion", "a barn", "a kite", "", "a harp")  # of the tower; the one without a name is never drawn


@pytest.fixture(scope="session")
def training_parts(tmp_path_factory, byte_tokenizer, image_processor) -> tuple[Path, Path]:
    """Directories of a tiny EfficientNet-Lite of 9 patches and 5 classes, and of a tiny LLaMA with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from assistant.model.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel

    folder = tmp_path_factory.mktemp("training-parts")
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = EfficientNetLiteModel(
            EfficientNetLiteConfig(
                width_coefficient=0.25,
                depth_coefficient=0.5,
                image_size=96,
                hidden_size=12,
                num_labels=len(CLASSES),
                initializer_range=1.0,
                batch_norm_momentum=1.0,
            )
        )
        tower.train()(torch.randn(8, 3, 96, 96))  # without statistics of its own, a deep random tower says nothing
        language_model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=3,
                num_attention_heads=2,
                max_position_embeddings=128,
                initializer_range=0.3,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    tower.save_pretrained(folder / "vision")
    image_processor.save_pretrained(folder / "vision")
    language_model.save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    return folder / "vision", folder / "language"


@pytest.fixture(scope="session")
def bridge_fields() -> dict[str, Any]:
    """Fields of a tiny bridge that uses all that the default's bridge uses."""
    return {
        "resampler_width": 24,
        "resampler_depth": 1,
        "resampler_latents": 3,
        "resampler_heads": 2,
        "resampler_head_dim": 8,
        "resampler_ff_mult": 1,
        "resampler_dropout": 0.1,
        "resampler_positions": 9,
        "standardise_features": True,
        "pooled_latents": True,
        "class_token": True,
        "cross_attention_layers": [0, 2],
        "cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_ff_mult": 1,
        "gate_init": 1.0,
        "zero_init_output": True,
    }


@pytest.fixture(scope="session")
def assembled(training_parts, bridge_fields) -> Callable[..., tuple[Any, Any]]:
    """Make a fresh tiny model and its processor; the same fields give the same weights."""
    import torch

    from assistant.model.assembly import assemble

    def made(**fields: Any) -> tuple[Any, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return assemble(*training_parts, rename=RENAME, **{**bridge_fields, **fields})

    return made


@pytest.fixture(scope="session")
def processor(assembled) -> Any:
    """Makes the prompts of the tiny model."""
    return assembled()[1]


@pytest.fixture(scope="session")
def seeing_model(assembled) -> Callable[[], Any]:
    """Make a tiny model whose pictures change the text, as after some training."""
    return lambda: assembled(zero_init_output=False, initializer_range=0.3)[0]


@pytest.fixture(scope="session")
def classifier() -> tuple[Any, Any]:
    """Weight [5, 12] and bias [5] of a classifier."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 12, generator=generator), torch.randn(5, generator=generator)


@pytest.fixture(scope="session")
def cache(classifier) -> Any:
    """Features of ten pictures in three versions: every picture has a pattern of its own."""
    from training.bridge.features import FeatureCache

    rng = np.random.default_rng(0)
    pattern = rng.uniform(0, 5, (len(NAMES), 1, 9, 12))
    patches = (pattern + rng.uniform(0, 1, (len(NAMES), 3, 9, 12))).astype(np.float16)
    weight, bias = (x.numpy() for x in classifier)
    return FeatureCache(patches, (patches.astype(np.float32).mean(2) @ weight.T + bias).astype(np.float16))


@pytest.fixture
def sampler(processor, cache, classifier) -> Callable[..., Any]:
    """Make a sampler of the ten pictures and the tower's classes."""
    from training.bridge.samples import Name, Sampler

    def made(seed: int = 0, **options: Any) -> Any:
        options = {"classes": [[Name(name)] if name else [] for name in CLASSES], **options}
        classes = options.pop("classes")
        return Sampler(processor, cache, [[Name(name)] for name in NAMES], classes, classifier, seed, **options)

    return made


@pytest.fixture
def settings(bridge_fields) -> Callable[..., Any]:
    """Make the configuration of a short run."""
    from training.bridge.config import BridgeConfig, Stage

    def made(*stages: Any, **options: Any) -> Any:
        usual = Stage(6, 8, {"caption": 0.5, "photo_chat": 0.5}, 3e-3, 1e-3, warmup=2)
        options = {"dtype": "float32", "log_every": 2, "evaluate_every": 4, "checkpoint_every": 2, **options}
        return BridgeConfig("vision", "language", bridge_fields, list(stages) or [usual], RENAME, **options)

    return made


@pytest.fixture
def trainer(assembled, sampler, cache) -> Callable[..., Any]:
    """Make a trainer: fresh weights, unless the folder holds a checkpoint."""
    import torch

    from training.bridge.loss import BridgeLoss
    from training.bridge.trainer import BridgeTrainer, Pictures

    def made(config: Any, folder: Path) -> Any:
        torch.manual_seed(config.seed)
        model = assembled(**config.model)[0]
        mean, std = cache.statistics(np.random.default_rng(0))
        model.model.resampler.feature_mean.data.copy_(mean)
        model.model.resampler.feature_std.data.copy_(std)
        loss = BridgeLoss(model, config.contrastive_weight, config.feature_noise, config.logit_noise)
        pictures = Pictures(np.arange(8), np.arange(8, 10))
        return BridgeTrainer(config, loss, sampler(config.seed, patch_dropout=config.patch_dropout), pictures, folder)

    return made
