"""What all tests share: no hub, and tiny models and tokenizers that are made on the spot."""

import os

# Before anything imports huggingface_hub, which reads it once: no test may reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before anything imports torch: on tensors as tiny as these, threads do nothing but wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

IMAGE_ID = 5  # the image token of tiny models without a tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = [
    "the quick brown fox jumps over a lazy dog",
    "What is in the picture? user assistant system image start end",
    "A cat, a dog and 2 birds. [INST] User: Assistant:",
] * 20


class Joined(NamedTuple):
    """A tiny Flamingo model and the language model that it was made of."""

    model: Any
    bare: Any


@pytest.fixture(scope="session")
def text_configs() -> dict[str, Callable[[], Any]]:
    """Tiny language models of every family that this project promises to take."""
    import transformers as tf

    ids = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    shape = {**ids, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    usual = {**shape, "max_position_embeddings": 64, "initializer_range": 0.3}
    grouped = {**usual, "num_key_value_heads": 1}
    gemma = {**grouped, "head_dim": 8}
    opt = {**ids, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "init_std": 0.3}
    opt["max_position_embeddings"] = 64
    return {
        "llama": lambda: tf.LlamaConfig(**grouped),
        "llama-tied": lambda: tf.LlamaConfig(**grouped, tie_word_embeddings=True),
        "qwen2": lambda: tf.Qwen2Config(**grouped),
        "qwen3": lambda: tf.Qwen3Config(**gemma),
        "opt": lambda: tf.OPTConfig(**opt, word_embed_proj_dim=16),
        "opt-350m": lambda: tf.OPTConfig(**opt, word_embed_proj_dim=12, do_layer_norm_before=False),
        "gpt-neox": lambda: tf.GPTNeoXConfig(**usual),
        "gemma": lambda: tf.GemmaConfig(**gemma),
        "gemma2": lambda: tf.Gemma2Config(**gemma, query_pre_attn_scalar=8, sliding_window=4),
        "gemma3": lambda: tf.Gemma3TextConfig(**gemma, query_pre_attn_scalar=8, sliding_window=4),
        "granite": lambda: tf.GraniteConfig(**grouped, logits_scaling=3.0),
        "mpt": lambda: tf.MptConfig(vocab_size=96, d_model=16, n_layers=3, n_heads=2, max_seq_len=64),
    }


@pytest.fixture(scope="session")
def towers() -> dict[str, Callable[[], tuple[Any, dict[str, Any]]]]:
    """Tiny vision towers, and how a Flamingo model reads them."""
    import transformers as tf

    from assistant.model.efficientnet_lite import EfficientNetLiteConfig

    shape = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    lite = {"width_coefficient": 0.25, "depth_coefficient": 0.5, "image_size": 32, "hidden_size": 12, "num_labels": 5}
    return {
        "clip": lambda: (tf.CLIPVisionConfig(**shape, intermediate_size=16), {"vision_skip_tokens": 1}),
        "siglip": lambda: (tf.SiglipVisionConfig(**shape, intermediate_size=16), {}),
        "dinov2": lambda: (tf.Dinov2Config(**shape, mlp_ratio=2), {"vision_skip_tokens": 1}),
        "efficientnet-lite": lambda: (EfficientNetLiteConfig(**lite), {"class_token": True}),
    }


@pytest.fixture(scope="session")
def bridge() -> dict[str, Any]:
    """The fields of a tiny bridge whose pictures change the text a lot."""
    return {
        "resampler_depth": 1,
        "resampler_latents": 3,
        "resampler_heads": 2,
        "resampler_head_dim": 4,
        "cross_attention_layers": [0, 2],
        "cross_attention_heads": 2,
        "cross_attention_head_dim": 4,
        "gate_init": 1.0,
        "initializer_range": 0.3,
    }


@pytest.fixture(scope="session")
def make(text_configs, towers, bridge) -> Callable[..., Joined]:
    """Make a tiny model: ``make("llama", "clip", attend="all_previous")``; the same arguments give the same weights."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    from assistant.model.assembly import join

    def made(text: str = "llama", tower: str = "clip", **fields: Any) -> Joined:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            language_model = AutoModelForCausalLM.from_config(text_configs[text]()).eval()
            vision_config, reading = towers[tower]()
            vision_tower = AutoModel.from_config(vision_config).eval()
            bare = copy.deepcopy(language_model)
            fields = {"image_token_id": IMAGE_ID, **bridge, **reading, **fields}
            return Joined(join(vision_tower, language_model, **fields), bare)

    return made


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., Any]:
    """Make a byte-level BPE tokenizer with ChatML tokens and two unused special ones, as SmolLM2's is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def made(chat_template: str | None = CHATML) -> Any:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unused0>", "<unused1>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        bpe.train_from_iterator(CORPUS, trainer)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
        )
        tokenizer.chat_template = chat_template
        return tokenizer

    return made


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(tmp_path_factory) -> Callable[..., Any]:
    """Make a tokenizer of the LLaMA v1 type: a sentencepiece BPE model with byte fallback, texts start with <s>."""
    import sentencepiece
    from transformers import LlamaTokenizer

    folder = tmp_path_factory.mktemp("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )

    def made() -> Any:
        return LlamaTokenizer.from_pretrained(folder, add_bos_token=True)

    return made


@pytest.fixture(scope="session")
def image_processor() -> Any:
    """A CLIP image processor for pictures of 16 x 16."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="session")
def saved_parts(tmp_path_factory, image_processor, byte_tokenizer) -> tuple[Path, Path]:
    """Directories of a tiny two-tower CLIP and of a tiny LLaMA with its tokenizer, as they come from a hub."""
    import torch
    from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("parts")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision_shape = {**shape, "image_size": 16, "patch_size": 8}
        clip = CLIPModel(CLIPConfig(text_config={**shape, "vocab_size": 50}, vision_config=vision_shape))
        tokenizer = byte_tokenizer()
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        ids["pad_token_id"] = tokenizer.pad_token_id
        config = LlamaConfig(
            **shape, **ids, vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.3
        )
        llama = LlamaForCausalLM(config)
    clip.save_pretrained(folder / "vision")
    image_processor.save_pretrained(folder / "vision")
    llama.save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    return folder / "vision", folder / "language"


@pytest.fixture
def picture() -> Callable[[str], Any]:
    """Make a small picture of one colour."""
    from PIL import Image

    return lambda colour: Image.new("RGB", (20, 24), colour)


@pytest.fixture(scope="session")
def assembled(saved_parts, bridge) -> Callable[[], tuple[Any, Any]]:
    """Make a tiny model and its processor from directories, as the default is made from its frozen parts."""
    import torch

    from assistant.model.assembly import assemble

    def made() -> tuple[Any, Any]:
        fields = {**bridge, "cross_attention_layers": [1], "vision_skip_tokens": 1}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return assemble(*saved_parts, rename={"<unused0>": "<image>", "<unused1>": "<|endofchunk|>"}, **fields)

    return made


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory, assembled) -> Path:
    """A directory with a whole tiny model and its processor."""
    folder = tmp_path_factory.mktemp("model")
    model, processor = assembled()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
