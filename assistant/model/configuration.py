"""What a Flamingo model is made of, as a transformers configuration."""

from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig


class FlamingoConfig(PreTrainedConfig):
    """A frozen vision tower, a perceiver resampler, gated cross-attention and a frozen language model.

    Args:
        vision_config: configuration (or its dict) of any transformers vision tower.
        text_config: configuration (or its dict) of any transformers causal language model with a stack of layers.
        image_token_id: the token that stands for a picture in the text.
        vision_feature_layer: which hidden state of the tower is read; ``None`` is ``last_hidden_state``.
        vision_skip_tokens: leading tokens of the tower that are no patches (1 drops a class token).
        vision_extra_layers: hidden states of the tower that are read beside the patches, as pairs (index, k): a map is
            resized to k times the grid of the patches, and each k x k block of it becomes channels of its patch. Finer
            and earlier maps hold what a classifier forgets: colour, number and place.
        resampler_width: width of the latents; ``None`` is the width of the tower.
        resampler_depth: perceiver layers.
        resampler_latents: latents that stand for one picture, R.
        resampler_heads, resampler_head_dim, resampler_ff_mult: shape of one perceiver layer.
        resampler_dropout: dropout on projected features, while the resampler is trained.
        resampler_positions: patches that get a learned position embedding; 0 for towers that bring their own.
        resampler_max_frames: frames that get a learned time embedding; 0 for none.
        standardise_features: shift and scale every feature channel by statistics that travel with the weights.
        pooled_latents: add the projected mean of the patches to every latent.
        resampler_grid: side G of a grid laid over a square map of patches; the first G x G latents start from the
            projected means of its cells, so that they need not first learn where to look. 0 for none.
        class_token: let the resampler read the tower's own class probabilities, as one more token and, projected, in
            every latent.
        cross_attention_layers: indices of the decoder layers that a gated block precedes.
        cross_attention_heads, cross_attention_head_dim, cross_attention_ff_mult: shape of one gated block.
        gate_init: value of the gates before the tanh. Flamingo starts at 0.
        zero_init_output: start with zero output projections, which keeps the bare language model at the start as
            zero gates do, and gives full gradients from the first step.
        attend: a text token sees the ``"latest"`` picture before it (Flamingo) or ``"all_previous"`` ones.
        skip_blocks_without_media: a token that sees no picture passes a gated block unchanged. Converted
            OpenFlamingo checkpoints need False: there the gated feed-forward runs on every token.
    """

    model_type = "flamingo"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 0
    vision_feature_layer: int | None = None
    vision_skip_tokens: int = 0
    vision_extra_layers: list[list[int]] | tuple[()] = ()
    resampler_width: int | None = None
    resampler_depth: int = 6
    resampler_latents: int = 64
    resampler_heads: int = 8
    resampler_head_dim: int = 64
    resampler_ff_mult: int = 4
    resampler_dropout: float = 0.0
    resampler_positions: int = 0
    resampler_max_frames: int = 0
    standardise_features: bool = False
    pooled_latents: bool = False
    resampler_grid: int = 0
    class_token: bool = False
    cross_attention_layers: list[int] | tuple[int, ...] = (3,)
    cross_attention_heads: int = 8
    cross_attention_head_dim: int = 64
    cross_attention_ff_mult: int = 4
    gate_init: float = 0.0
    zero_init_output: bool = False
    attend: Literal["latest", "all_previous"] = "latest"
    skip_blocks_without_media: bool = True
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("vision_config", "text_config"):
            part = getattr(self, name)
            if isinstance(part, dict):
                setattr(self, name, AutoConfig.for_model(**part))
        if isinstance(self.text_config, PreTrainedConfig):
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
            for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
                kwargs.setdefault(token, getattr(self.text_config, token, None))
        self.cross_attention_layers = sorted(int(i) for i in self.cross_attention_layers)
        super().__post_init__(**kwargs)
        self._check()

    @property
    def feature_width(self) -> int:
        """Channels of a patch as the resampler reads it, with those of ``vision_extra_layers``."""
        width = self.vision_config.hidden_size
        widths = getattr(self.vision_config, "hidden_sizes", None)
        return width + sum((widths[i] if widths else width) * k * k for i, k in self.vision_extra_layers)

    def _check(self) -> None:
        if self.text_config is None:
            return
        depth = self.text_config.num_hidden_layers
        outside = [i for i in self.cross_attention_layers if not 0 <= i < depth]
        if outside:
            raise ValueError(f"cross_attention_layers {outside} are outside the {depth} layers of the language model")
        if self.resampler_grid**2 > self.resampler_latents:
            raise ValueError(
                f"resampler_grid {self.resampler_grid} has more cells than the {self.resampler_latents} latents"
            )
        if self.attend not in ("latest", "all_previous"):
            raise ValueError(f"attend must be 'latest' or 'all_previous', got {self.attend!r}")


AutoConfig.register("flamingo", FlamingoConfig)
