import gguf
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from assistant.errors import ModelError
from assistant.model.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from assistant.parts.convert import LLAMA_TENSORS, convert, convert_efficientnet_lite, rename_efficientnet

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>"]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = [*CONTROL, *ALPHABET, "ĠĠ", "th", "Ġth"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


def small_llama(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def write_gguf(path, model: LlamaForCausalLM, architecture: str = "llama") -> None:
    """What llama.cpp's converter writes for this model, in full precision."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(["Ġ Ġ", "t h", "Ġ th"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = {ours: theirs for theirs, ours in LLAMA_TENSORS.items()}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem = name.removesuffix(".weight")
        layer = ""
        if stem.startswith("model.layers."):
            _, _, number, stem = stem.split(".", 3)
            layer = f"blk.{number}."
        values = tensor.float().numpy()
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}.get(
            stem
        )
        if heads:  # LlamaModel.permute of convert_hf_to_gguf.py
            rows, columns = values.shape
            values = values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        writer.add_tensor(f"{layer}{names[stem]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_gives_the_model_that_it_was_made_from(tmp_path, tied):
    model = small_llama(tied)
    write_gguf(tmp_path / "small.gguf", model)
    convert(tmp_path / "small.gguf", tmp_path / "made")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    assert loaded.dtype == torch.bfloat16
    assert getattr(loaded.config, "quantization_config", None) is None
    assert loaded.config.tie_word_embeddings is tied
    assert (loaded.generation_config.eos_token_id, loaded.generation_config.pad_token_id) == (2, 2)
    ids = torch.arange(20)[None]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    with torch.no_grad():
        torch.testing.assert_close(loaded.float()(ids).logits, model.float()(ids).logits, atol=1e-5, rtol=1e-5)


def test_the_tokenizer_of_a_gguf_file(tmp_path):
    write_gguf(tmp_path / "small.gguf", small_llama(True))
    convert(tmp_path / "small.gguf", tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (
        1,
        2,
        2,
        0,
    )
    assert tokenizer.model_max_length == 128

    def pieces(text: str) -> list[str]:
        return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])

    assert pieces("<|im_start|>th th<file_sep>") == ["<|im_start|>", "th", "Ġth", "<file_sep>"]
    assert pieces("th  5 17") == ["th", "ĠĠ", "5", "Ġ", "1", "7"]
    text = "naïve 日本 🐈\n\tth  <|im_end|> x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "th"}], tokenize=False)
    assert chat == "<|im_start|>th<|im_end|>"


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.gguf").write_bytes(b"not a model" * 100)
    with pytest.raises(ModelError, match=r"text\.gguf"):
        convert(tmp_path / "text.gguf", tmp_path / "made")
    (tmp_path / "text.pth").write_bytes(b"not a model" * 100)
    with pytest.raises(ModelError, match=r"text\.pth"):
        convert(tmp_path / "text.pth", tmp_path / "made")
    torch.save({"_fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"other\.pth"):
        convert(tmp_path / "other.pth", tmp_path / "made")
    write_gguf(tmp_path / "other.gguf", small_llama(True), architecture="gptneox")
    with pytest.raises(ModelError, match="gptneox"):
        convert(tmp_path / "other.gguf", tmp_path / "made")
    with pytest.raises(ModelError, match=r"known are \.gguf and \.pth"):
        convert(tmp_path / "model.onnx", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def theirs(name: str, depths: list[int]) -> str:
    """Our name of an EfficientNet-Lite tensor in ``efficientnet_pytorch``."""
    top = {"stem.conv": "_conv_stem", "stem.norm": "_bn0", "head.conv": "_conv_head", "head.norm": "_bn1"}
    top["classifier"] = "_fc"
    inner = {"expand.conv": "_expand_conv", "expand.norm": "_bn0", "depthwise.conv": "_depthwise_conv"}
    inner |= {"depthwise.norm": "_bn1", "project.conv": "_project_conv", "project.norm": "_bn2"}
    stem, kind = name.rsplit(".", 1)
    if stem in top:
        return f"{top[stem]}.{kind}"
    _, stage, block, part = stem.split(".", 3)
    return f"_blocks.{sum(depths[: int(stage)]) + int(block)}.{inner[part]}.{kind}"


def test_an_efficientnet_checkpoint(tmp_path):
    torch.manual_seed(0)
    config = EfficientNetLiteConfig(width_coefficient=0.25, image_size=64, hidden_size=16, num_labels=5)
    model = EfficientNetLiteModel(config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.5, 2.0)
    depths = [len(stage) for stage in model.stages]
    weights = {theirs(name, depths): tensor for name, tensor in model.state_dict().items()}
    assert set(rename_efficientnet(weights, depths)) == set(model.state_dict())
    torch.save(weights, tmp_path / "w.pth")
    convert_efficientnet_lite(tmp_path / "w.pth", tmp_path / "made", config)

    loaded = AutoModel.from_pretrained(tmp_path / "made").eval()
    assert loaded.config.folded
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).logits, model(pixels).logits, atol=1e-5, rtol=1e-4)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "made", backend="pil")
    assert dict(processor.size) == {"height": 64, "width": 64}
    assert list(processor.image_mean) == [127 / 255] * 3
    assert list(processor.image_std) == [128 / 255] * 3
