"""The Flamingo model, native to transformers: a picture goes through the tower and the resampler, and the text sees
it in the gated blocks of the language model.

No module keeps state between calls. What a call needs travels in its arguments, and what must last in the cache.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
    initialization,
)
from transformers.cache_utils import Cache
from transformers.generation import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from .configuration import FlamingoConfig
from .gated_cross_attention import GatedCrossAttentionBlock, insert_blocks
from .media import add_media_layers, lay_out, picture_counts
from .resampler import PerceiverResampler


class FlamingoPreTrainedModel(PreTrainedModel):
    config_class = FlamingoConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _skip_keys_device_placement = ["past_key_values"]

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Gated blocks sit in the language model, which would initialise them as its own layers."""
        for module in self.modules():
            if isinstance(module, GatedCrossAttentionBlock):
                module.apply(self._initialize_weights)
        super().initialize_weights()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PerceiverResampler):
            for name in ("latents", "patch_positions", "frame_positions"):
                parameter = getattr(module, name)
                if parameter is not None:
                    initialization.normal_(parameter, std=self.config.initializer_range)
            if module.standardise:
                initialization.zeros_(module.feature_mean)
                initialization.ones_(module.feature_std)
        elif isinstance(module, GatedCrossAttentionBlock):
            initialization.constant_(module.attention_gate, self.config.gate_init)
            initialization.constant_(module.feed_forward_gate, self.config.gate_init)
            if self.config.zero_init_output:
                initialization.zeros_(module.attention.to_out.weight)
                initialization.zeros_(module.feed_forward[-1].weight)


class FlamingoModel(FlamingoPreTrainedModel):
    """Vision tower, resampler and the language model without its head."""

    def __init__(self, config: FlamingoConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.resampler = PerceiverResampler(config)
        self.language_model = AutoModel.from_config(config.text_config)
        insert_blocks(self.language_model, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def image_features(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the frozen tower says of pictures.

        Args:
            pixel_values: [I, 3, h, w], or [I, F, 3, h, w] for pictures of several frames.

        Returns:
            patches [I, F, P, Dv] with the extra layers folded in, and the tower's class logits [I, F, C] if the
            resampler reads them.
        """
        if pixel_values.ndim == 4:
            pixel_values = pixel_values.unsqueeze(1)
        pictures, frames = pixel_values.shape[:2]
        layer, extra, skip = (
            self.config.vision_feature_layer,
            self.config.vision_extra_layers,
            self.config.vision_skip_tokens,
        )
        output = self.vision_tower(
            pixel_values.flatten(0, 1).to(self.vision_tower.dtype),
            output_hidden_states=layer is not None or bool(extra),
        )
        patches = (output.last_hidden_state if layer is None else output.hidden_states[layer])[:, skip:]
        folded = [fold(output.hidden_states[i][:, skip:], patches.shape[1], k) for i, k in extra]
        patches = torch.cat((patches, *folded), dim=-1).unflatten(0, (pictures, frames))
        logits = output.logits.unflatten(0, (pictures, frames)) if self.config.class_token else None
        return patches, logits

    def image_latents(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """Encode the pictures of a batch and hand each row its own.

        Args:
            pixel_values: [I, 3, h, w] or [I, F, 3, h, w], the pictures of all rows one after the other.
            input_ids: [B, T], with one image token for each picture.

        Returns:
            [B, N, R, W], padded with zeros where a row has fewer than N pictures.

        Raises:
            ValueError: the numbers of image tokens and pictures differ.
        """
        return self.hand_out(self.resampler(*self.image_features(pixel_values)), input_ids)

    def hand_out(self, latents: Tensor, input_ids: Tensor) -> Tensor:
        """Latents of all pictures in order, [I, R, W] -> [B, N, R, W], by the image tokens of each row."""
        counts = picture_counts(input_ids, self.config.image_token_id).tolist()
        if sum(counts) != len(latents):
            raise ValueError(f"the text has {sum(counts)} image tokens ({counts} a row), and {len(latents)} pictures")
        return nn.utils.rnn.pad_sequence(latents.split(counts), batch_first=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        image_latents: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the language model over text in which pictures stand.

        Args:
            input_ids: [B, T]. After a cached prefix, only the new tokens.
            attention_mask: [B, all tokens so far].
            pixel_values: pictures of these tokens, see :meth:`image_latents`; or
            image_latents: [B, N, R, W], the same already encoded.

        Raises:
            ValueError: the numbers of image tokens and pictures differ, or pictures cannot reach the text.
        """
        if input_ids is None:
            if pixel_values is not None or image_latents is not None:
                raise ValueError("pictures need input_ids: an image token says where each one stands")
        elif pixel_values is not None and image_latents is None:
            image_latents = self.image_latents(pixel_values, input_ids)
        if use_cache is None:
            use_cache = not self.training
        if self.training and any(getattr(m, "gradient_checkpointing", False) for m in self.language_model.modules()):
            use_cache, past_key_values = False, None  # as the decoder layers do: a recomputed layer would fill it twice
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config.text_config)
        media = None
        if input_ids is not None:
            started = past_key_values is not None and past_key_values.get_seq_length() > 0
            if image_latents is not None or not started:  # a decode step must not wait for the device to count
                self.check_pictures(input_ids, image_latents)
            layers = None
            if past_key_values is not None:
                layers = add_media_layers(
                    past_key_values, self.config.text_config.num_hidden_layers, len(self.config.cross_attention_layers)
                )
            media = lay_out(input_ids, self.config.image_token_id, image_latents, layers, self.config.attend)
        outputs = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            media=media,
            return_dict=True,
            **kwargs,
        )
        if media is not None and media.layers and not media.layers[0].is_initialized:
            language_model = type(self.language_model).__name__
            raise ValueError(f"pictures do not reach {language_model}: it hands no keyword arguments to its layers")
        return outputs

    def check_pictures(self, input_ids: Tensor, latents: Tensor | None) -> None:
        """Count the image tokens of a row [B, T] against the pictures of a row [B, N, R, W].

        Raises:
            ValueError: the numbers differ.
        """
        most = int(picture_counts(input_ids, self.config.image_token_id).amax())
        given = 0 if latents is None else latents.shape[1]
        if most != given:
            raise ValueError(f"the text has {most} image tokens in a row, and {given} pictures were given for it")


def fold(states: Tensor, patches: int, k: int) -> Tensor:
    """A square map of any grid on the grid of the patches: [I, P', C] -> [I, patches, C * k * k]."""
    side, target = math.isqrt(states.shape[1]), math.isqrt(patches)
    maps = states.float().transpose(1, 2).unflatten(2, (side, side))
    if side != target * k:
        maps = F.interpolate(maps, size=(target * k, target * k), mode="bilinear", antialias=True)
    return F.pixel_unshuffle(maps, k).flatten(2).transpose(1, 2).to(states.dtype)


class FlamingoForConditionalGeneration(FlamingoPreTrainedModel, GenerationMixin):
    """Flamingo with the language model's head: ``generate`` and a loss."""

    def __init__(self, config: FlamingoConfig) -> None:
        super().__init__(config)
        self.model = FlamingoModel(config)
        with torch.device("meta"):
            bare = AutoModelForCausalLM.from_config(config.text_config)
        head = bare.get_output_embeddings()
        self.lm_head: nn.Module = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
        prefix = f"{bare.base_model_prefix}."
        sources = [source.removeprefix(prefix) for source in (bare._tied_weights_keys or {}).values()]
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{sources[0]}"} if sources else {}
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def head(self, hidden_states: Tensor) -> Tensor:
        """[..., D] -> logits [..., V], with the scale and cap that some language models put on them."""
        text = self.config.text_config
        logits = self.lm_head(hidden_states)
        if getattr(text, "logits_scaling", None):
            logits = logits / text.logits_scaling
        if getattr(text, "logit_scale", None):
            logits = logits * text.logit_scale
        if getattr(text, "final_logit_softcapping", None):
            logits = torch.tanh(logits / text.final_logit_softcapping) * text.final_logit_softcapping
        return logits

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        image_latents: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As :meth:`FlamingoModel.forward`, with logits [B, T, V] and, given ``labels`` [B, T], the mean loss."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            image_latents=image_latents,
            return_dict=True,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Encode each picture once, before beams and samples repeat the rows."""
        pixel_values = model_kwargs.pop("pixel_values", None)
        if input_ids is not None and model_kwargs.get("image_latents") is None:
            new_ids = self._new_ids(input_ids, **model_kwargs)
            if pixel_values is None:
                self.model.check_pictures(new_ids, None)
            else:
                model_kwargs["image_latents"] = self.model.image_latents(pixel_values, new_ids)
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)

    @staticmethod
    def _new_ids(
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """The tokens after a cached prefix: generate takes all so far, or only these under a mask over all."""
        over_all = attention_mask if attention_mask is not None else position_ids  # an all-ones mask is dropped early
        if past_key_values is None or (over_all is not None and over_all.shape[-1] != input_ids.shape[1]):
            return input_ids
        return input_ids[:, past_key_values.get_seq_length() :]

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """No picture comes out of a language model: its token is ruled out before anything else looks at the scores."""
        processors = super()._get_logits_processor(*args, **kwargs)
        processors.insert(0, SuppressTokensLogitsProcessor([self.config.image_token_id], device=self.device.type))
        return processors

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Pictures enter with the first tokens; later steps find them in the cache."""
        if not is_first_iteration and kwargs.get("use_cache", True):
            kwargs["image_latents"] = None
        return super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)


AutoModel.register(FlamingoConfig, FlamingoModel)
AutoModelForImageTextToText.register(FlamingoConfig, FlamingoForConditionalGeneration)
