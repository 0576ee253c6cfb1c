"""Build a Flamingo model from a frozen vision tower and a frozen language model."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)

from assistant.errors import ModelError

from .configuration import FlamingoConfig
from .gated_cross_attention import GatedCrossAttentionBlock, insert_blocks
from .modeling import FlamingoForConditionalGeneration
from .processing import FlamingoProcessor
from .resampler import PerceiverResampler
from .tokens import IMAGE_TOKEN, add_tokens, rename_tokens

Source = str | os.PathLike[str]


def load_vision_tower(source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """A vision tower from a directory or hub id; of a two-tower model (CLIP, SigLIP) only the vision part."""
    config = AutoConfig.from_pretrained(source)
    return AutoModel.from_pretrained(source, config=getattr(config, "vision_config", config), dtype=dtype)


def join(
    vision_tower: PreTrainedModel, language_model: PreTrainedModel, **fields: Any
) -> FlamingoForConditionalGeneration:
    """Join loaded parts with a fresh resampler and fresh gated blocks; both parts are frozen and used as they are.

    Args:
        vision_tower: any transformers vision model.
        language_model: any transformers causal language model.
        fields: of :class:`FlamingoConfig`; ``image_token_id`` is needed.
    """
    config = FlamingoConfig(vision_config=vision_tower.config, text_config=language_model.config, **fields)
    dtype = language_model.dtype
    with torch.device("meta"):
        model = FlamingoForConditionalGeneration(config)
    device = language_model.device
    with torch.device(device):
        resampler = PerceiverResampler(config)
        insert_blocks(language_model.base_model, config)
    model.model.vision_tower = vision_tower
    model.model.language_model = language_model.base_model
    model.lm_head = language_model.get_output_embeddings()
    model.model.resampler = resampler
    for module in (resampler, *(m for m in language_model.modules() if isinstance(m, GatedCrossAttentionBlock))):
        module.apply(model._init_weights)  # children first: a block may zero what its linear layers draw
    for name, parameter in model.named_parameters():
        trainable = is_adapter_key(name) and "feature_" not in name
        parameter.requires_grad_(trainable)
        if is_adapter_key(name):
            parameter.data = parameter.data.to(dtype)
    model.generation_config = language_model.generation_config
    return model.eval()


def is_adapter_key(name: str) -> bool:
    """Whether a parameter belongs to what is trained: the resampler and the gated blocks."""
    return name.startswith("model.resampler.") or ".gated_cross_attention." in name


def assemble(
    vision: Source,
    language: Source,
    *,
    dtype: torch.dtype = torch.float32,
    rename: dict[str, str] | None = None,
    **fields: Any,
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Load a vision tower and a language model and join them.

    Args:
        vision: directory or hub id of the tower.
        language: directory or hub id of the language model.
        dtype: of all weights.
        rename: unused special tokens of the language model that become the image and end-of-chunk token.
        fields: of :class:`FlamingoConfig`.

    Raises:
        ModelError: a part is not there or damaged.
    """
    with naming_the_part("vision", vision):
        vision_tower = load_vision_tower(vision, dtype)
        image_processor = AutoImageProcessor.from_pretrained(vision, backend="pil")
    with naming_the_part("language", language):
        tokenizer = AutoTokenizer.from_pretrained(language)
        language_model = AutoModelForCausalLM.from_pretrained(language, dtype=dtype)
    rename_tokens(tokenizer, rename or {})
    add_tokens(tokenizer)
    if len(tokenizer) > language_model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the new rows are drawn, and an adapter has to meet the same ones again
            language_model.resize_token_embeddings(len(tokenizer))
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    model = join(vision_tower, language_model, image_token_id=image_token_id, **fields)
    return model, FlamingoProcessor(image_processor, tokenizer)


@contextmanager
def naming_the_part(role: str, source: Source) -> Iterator[None]:
    """Turn what goes wrong while a part is loaded into a :class:`ModelError` that names it."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"the {role} part {source} cannot be loaded: {reason[0]}; fetch it again or name another"
        ) from error
