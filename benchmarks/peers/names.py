"""What our weights are called in OpenFlamingo and in Idefics."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Replaced one after the other. OpenFlamingo has all modules of ours.
_OPENFLAMINGO = (
    (r"^model\.vision_tower", "vision_encoder.tower"),
    (r"^model\.resampler", "perceiver"),
    (r"^model\.language_model", "lang_encoder.model"),
    (r"^lm_head", "lang_encoder.lm_head"),
    (r"^(perceiver\.layers\.\d+)\.attention", r"\1.0"),
    (r"^(perceiver\.layers\.\d+)\.feed_forward", r"\1.1"),
    (r"^(lang_encoder\.model\.layers\.\d+)\.(?!gated)", r"\1.decoder_layer."),
    (r"gated_cross_attention\.attention", "gated_cross_attn_layer.attn"),  # the gate of it, too
    (r"gated_cross_attention\.feed_forward", "gated_cross_attn_layer.ff"),
)

# Idefics has our tower, our language model, and our resampler but for a ReLU where ours has a GELU.
_IDEFICS = (
    (r"^model\.vision_tower", "model.vision_model.tower"),
    (r"^model\.resampler\.norm", "model.perceiver_resampler.layer_norm"),
    (r"^model\.resampler", "model.perceiver_resampler"),
    (r"^model\.language_model", "model"),
    (r"resampler\.layers\.(\d+)\.attention", r"resampler.blocks.\1.0"),
    (r"resampler\.layers\.(\d+)\.feed_forward", r"resampler.blocks.\1.1"),
    (r"(blocks\.\d+\.0)\.norm_media", r"\1.context_layer_norm"),
    (r"(blocks\.\d+\.0)\.norm_latents", r"\1.latents_layer_norm"),
    (r"(blocks\.\d+\.0)\.to_q", r"\1.q_proj"),
    (r"(blocks\.\d+\.0)\.to_kv", r"\1.kv_proj"),
    (r"(blocks\.\d+\.0)\.to_out", r"\1.output_proj"),
    (r"(blocks\.\d+\.1)\.0", r"\1.ln"),
    (r"(blocks\.\d+\.1)\.1", r"\1.fc"),
    (r"(blocks\.\d+\.1)\.3", r"\1.c_proj"),
)


def for_openflamingo(weights: Mapping[str, Any]) -> dict[str, Any]:
    """All our weights under OpenFlamingo's names."""
    return {_renamed(name, _OPENFLAMINGO): weight for name, weight in weights.items()}


def for_idefics(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Our weights under Idefics' names, but for the gated blocks: its own have other heads and a SwiGLU."""
    renamed = {}
    for name, weight in weights.items():
        new = _renamed(name, _IDEFICS)
        if "kv_proj" in new:
            keys, values = weight.chunk(2)
            renamed |= {new.replace("kv_proj", "k_proj"): keys, new.replace("kv_proj", "v_proj"): values}
        elif "gated_cross_attention" not in new:
            renamed[new] = weight
    return renamed


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name
