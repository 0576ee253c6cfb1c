"""From the files inside the packages to plain HF directories that load in a second.

Nothing here downloads. The conversions use no GGUF support of transformers, which changes from release to release, so
the same file gives the same weights everywhere.
"""

import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast, ViTImageProcessorPil

from assistant.errors import ModelError
from assistant.model.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel

LLAMA_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # the GGUF token type


def convert(source: Path, target: Path) -> None:
    """Write the HF directory ``target`` from a ``.gguf`` (LLaMA type) or a ``.pth`` (EfficientNet-Lite2) file.

    Raises:
        ModelError: the file holds something else.
    """
    if source.suffix == ".gguf":
        convert_llama_gguf(source, target)
    elif source.suffix == ".pth":
        convert_efficientnet_lite(source, target, EfficientNetLiteConfig())
    else:
        raise ModelError(f"no conversion is known for {source.name}; known are .gguf and .pth")


def convert_llama_gguf(source: Path, target: Path) -> None:
    """A LLaMA-type GGUF file with a byte-level BPE tokenizer, as bf16 safetensors, configuration and tokenizer files.

    Raises:
        ModelError: the file is no GGUF file, or of another architecture or tokenizer type.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(source)
    except ValueError as error:
        raise ModelError(f"{source.name} is no GGUF file: {error}") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kinds = fields.get("general.architecture"), fields.get("tokenizer.ggml.model")
    if kinds != ("llama", "gpt2"):
        raise ModelError(f"{source.name}: architecture and tokenizer are {kinds}, expected ('llama', 'gpt2')")

    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in reader.tensors:
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name)
        if match is None or match[2] not in LLAMA_TENSORS:
            raise ModelError(f"{source.name}: the tensor {tensor.name!r} is not known in a LLaMA-type model")
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        if match[2] in heads:
            values = rotary_halves(values, heads[match[2]])
        layer = f"model.layers.{match[1]}." if match[1] else ""
        weights[f"{layer}{LLAMA_TENSORS[match[2]]}.weight"] = values.to(torch.bfloat16).contiguous()

    tokens = {f"{kind}_token_id": fields.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    tokens["pad_token_id"] = fields.get("tokenizer.ggml.padding_token_id")
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads["attn_q"],
        num_key_value_heads=heads["attn_k"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings="lm_head.weight" not in weights,
        **tokens,
    )
    write_model(weights, config, target)
    GenerationConfig(**tokens).save_pretrained(target)
    gguf_tokenizer(fields).save_pretrained(target)


def write_model(weights: dict[str, torch.Tensor], config: PreTrainedConfig, target: Path) -> None:
    """``model.safetensors`` and ``config.json`` in ``target``, which is made when it is not there."""
    target.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(target)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    # safetensors writes a file that only its owner may read; a shared home is read by others.
    shutil.copymode(target / "config.json", target / "model.safetensors")


def rotary_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo the row order that GGUF gives to query and key weights: rotary pairs side by side there, in halves here.

    The inverse of ``LlamaModel.permute`` in llama.cpp's ``convert_hf_to_gguf.py``.
    """
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def gguf_tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer, with its chat template, that a GGUF file holds."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    split: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if fields["tokenizer.ggml.pre"] == "smollm":  # every digit is a token, and spaces before one stay together
        split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split])
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    named = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=fields.get("tokenizer.chat_template"),
        **{
            f"{short}_token": tokens[fields[f"tokenizer.ggml.{name}_token_id"]]
            for name, short in named.items()
            if f"tokenizer.ggml.{name}_token_id" in fields
        },
    )


def convert_efficientnet_lite(source: Path, target: Path, config: EfficientNetLiteConfig) -> None:
    """An EfficientNet-Lite checkpoint (the names of ``efficientnet_pytorch``), with its batch norms folded.

    Raises:
        ModelError: the file does not hold the weights of an EfficientNet-Lite of this size.
    """
    model = EfficientNetLiteModel(config).eval()
    try:
        weights = torch.load(source, map_location="cpu", weights_only=True)
        model.load_state_dict(rename_efficientnet(weights, [len(stage) for stage in model.stages]))
    except (pickle.UnpicklingError, RuntimeError, LookupError, ValueError, AttributeError, EOFError) as error:
        size = f"width {config.width_coefficient} and depth {config.depth_coefficient}"
        raise ModelError(f"{source.name} does not hold the weights of an EfficientNet-Lite of {size}") from error
    folded = model.fold()
    folded.config.architectures = [type(folded).__name__]
    folded.config.dtype = "float32"
    write_model(folded.state_dict(), folded.config, target)
    ViTImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size},
        resample=3,  # bicubic
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    ).save_pretrained(target)


def rename_efficientnet(weights: dict[str, torch.Tensor], depths: list[int]) -> dict[str, torch.Tensor]:
    """The names of ``efficientnet_pytorch``, whose blocks are counted through, to ours, which count within a stage."""
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    parts = {
        "_conv_stem": "stem.conv",
        "_conv_head": "head.conv",
        "_fc": "classifier",
        "_expand_conv": "expand.conv",
        "_depthwise_conv": "depthwise.conv",
        "_project_conv": "project.conv",
    }
    norms = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}
    outer_norms = {"_bn0": "stem.norm", "_bn1": "head.norm"}
    renamed = {}
    for name, tensor in weights.items():
        *outer, part, kind = name.split(".")
        if outer:
            stage, block = blocks[int(outer[1])]
            renamed[f"stages.{stage}.{block}.{(parts | norms)[part]}.{kind}"] = tensor
        else:
            renamed[f"{(parts | outer_norms)[part]}.{kind}"] = tensor
    return renamed
