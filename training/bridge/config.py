"""What a bridge training run is made of."""

from dataclasses import dataclass, field
from typing import Any, Literal

from .lessons import LessonKind
from .samples import Form


@dataclass
class Stage:
    """A part of the schedule with a data mix of its own.

    Args:
        steps: optimizer steps.
        learning_rate: at the start of the stage after warm-up; it decays to ``final_learning_rate`` by a cosine.
        lessons: how many of each kind a step and process has.
        form: of all lessons.
        freeze_resampler: only the gated blocks learn.
        look: scenes, and as many named pictures, that a step and process shows to the resampler alone, for the
            auxiliary losses.
        warmup: steps of linear warm-up.
    """

    steps: int
    learning_rate: float
    final_learning_rate: float
    lessons: dict[LessonKind, int] = field(default_factory=dict)
    form: Form = "chat"
    freeze_resampler: bool = False
    look: int = 0
    warmup: int = 50

    def __post_init__(self) -> None:
        if min([self.steps, *self.lessons.values()]) < 1 or self.look < 0:
            raise ValueError(f"steps and every number of lessons must be at least 1, got {self.steps}, {self.lessons}")
        if not self.lessons and not self.look:
            raise ValueError("a stage without lessons must look at something: set look")
        if self.look and self.freeze_resampler:
            raise ValueError("what is looked at teaches the resampler: set look or freeze_resampler, not both")


@dataclass
class BridgeConfig:
    """A bridge training run.

    Args:
        vision, language: names of embedded parts, hub ids or directories.
        rename_tokens: unused special tokens of the language model that become the image and end-of-chunk token.
        model: fields of ``FlamingoConfig``.
        data: name of the built training set.
        variants: augmented versions of each picture whose features are cached.
        scenes: composed scenes that are trained on.
        stages: one after the other.
        contrastive_weight: of the auxiliary loss between mean latent and mean caption embedding.
        scene_weight: of the auxiliary loss of reading the truth about a scene from its latents.
        logit_noise: standard deviation of noise on the tower's class logits.
        patch_dropout: share of pseudo-photographs of which only the tower's class logits are shown.
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
    scenes: int = 16000
    seed: int = 0
    contrastive_weight: float = 0.3
    scene_weight: float = 0.3
    logit_noise: float = 0.5
    patch_dropout: float = 0.25
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    log_every: int = 10
    evaluate_every: int = 100
    checkpoint_every: int = 200
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages is empty")
        for name in ("variants", "scenes", "log_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, got {self.betas}")
