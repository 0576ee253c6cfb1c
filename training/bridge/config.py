"""What a bridge training run is made of."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stage:
    """A part of the schedule with a data mix of its own.

    Args:
        steps: optimizer steps.
        batch_size: pictures a step and process.
        mix: share of each kind of sample, see :mod:`training.bridge.samples`.
        learning_rate: at the start of the stage after warm-up; it decays to ``final_learning_rate`` by a cosine.
        warmup: steps of linear warm-up.
    """

    steps: int
    batch_size: int
    mix: dict[str, float]
    learning_rate: float
    final_learning_rate: float
    warmup: int = 50


@dataclass
class BridgeConfig:
    """A bridge training run.

    Args:
        vision, language: names of embedded parts, hub ids or directories.
        rename_tokens: unused special tokens of the language model that become the image and end-of-chunk token.
        model: fields of ``FlamingoConfig``.
        data: name of the built training set.
        variants: augmented versions of each picture whose features are cached.
        stages: one after the other.
        contrastive_weight: of the auxiliary loss between mean latent and mean caption embedding.
        feature_noise, logit_noise: standard deviation of noise on features (in units of each channel's own standard
            deviation) and on the tower's class logits.
        weight_decay, max_grad_norm, betas: of AdamW.
        log_every, evaluate_every, checkpoint_every: in steps.
        dtype: of the frozen parts and of the arithmetic.
    """

    vision: str
    language: str
    model: dict[str, Any]
    stages: list[Stage]
    rename_tokens: dict[str, str] = field(default_factory=dict)
    data: str = "default"
    variants: int = 4
    seed: int = 0
    contrastive_weight: float = 0.3
    feature_noise: float = 0.1
    logit_noise: float = 0.5
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    log_every: int = 10
    evaluate_every: int = 100
    checkpoint_every: int = 200
    dtype: str = "bfloat16"
