"""Eager, SDPA, flash and flex attention give one model.

flash-attn runs on GPUs alone. Here its two functions are written out in torch, with the checks of its kernels, and
stand where transformers would load them from.
"""

import copy
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import DynamicCache
from transformers import modeling_flash_attention_utils as loader
from transformers.integrations import flex_attention as flex

from assistant.errors import InputError, MissingExtraError, ModelError
from assistant.model import attention
from assistant.model.attention import IMPLEMENTATIONS, Segments, check_implementation
from assistant.model.gated_cross_attention import GatedCrossAttentionBlock
from assistant.model.media import MediaLayer, lay_out

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask"),
]

IMAGE, PAD, WORD = 5, 0, 7
R, W = 3, 12  # latents of a picture of the tiny model, and their width


# flash-attn 2.8.3, written out


def check_tensors(q, k, v):
    """What ``mha_fwd`` and ``mha_varlen_fwd`` of csrc/flash_attn/flash_api.cpp check, but for float32."""
    assert q.dtype in (torch.float16, torch.bfloat16, torch.float32), "FlashAttention only support fp16 and bf16"
    assert k.dtype == v.dtype == q.dtype, "query, key and value must have the same dtype"
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1, "Input tensor must have contiguous last dimension"
    assert len(q) > 0, "batch size must be positive"
    assert q.shape[-1] == k.shape[-1] == v.shape[-1] <= 256, "head dimension at most 256"
    assert k.shape == v.shape and q.shape[-2] % k.shape[-2] == 0, "Number of heads in key/value must divide"


def attend(q, k, v, scale, causal):
    """q [L, H, d]; k, v [S, h, d] -> [L, H, d]; zeros for a query without a key, as the kernel writes them."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("lhd,shd->hls", q.float(), k.float()) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:  # aligned to the bottom right corner
        allowed = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        scores = scores.masked_fill(~allowed, float("-inf"))
    return torch.einsum("hls,shd->lhd", scores.softmax(-1).nan_to_num(0), v.float()).to(q.dtype)


class Flash:
    """``flash_attn_func`` and ``flash_attn_varlen_func``, and what they were called with."""

    def __init__(self):
        self.calls: list[tuple[str, int]] = []  # which, and the longest query
        self.strict = False  # only what the kernel computes in
        self.varlen = self.plain = None

    def flash_attn_func(
        self, q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
        alibi_slopes=None, deterministic=False, return_attn_probs=False,
    ):  # fmt: skip
        check_tensors(q, k, v)
        assert q.ndim == k.ndim == 4 and len(q) == len(k)
        self.note("plain", q, q.shape[1], dropout_p, window_size, softcap, alibi_slopes)
        return torch.stack([attend(*row, softmax_scale, causal) for row in zip(q, k, v, strict=True)])

    def flash_attn_varlen_func(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
        return_attn_probs=False, block_table=None,
    ):  # fmt: skip
        check_tensors(q, k, v)
        assert q.ndim == k.ndim == 3 and block_table is None
        assert type(max_seqlen_q) is type(max_seqlen_k) is int
        for cu in (cu_seqlens_q, cu_seqlens_k):
            assert cu.dtype == torch.int32, "cu_seqlens must have dtype int32"
            assert cu.is_contiguous() and cu.shape == cu_seqlens_q.shape and len(cu) > 1
        self.note("varlen", q, max_seqlen_q, dropout_p, window_size, softcap, alibi_slopes)
        output = torch.full_like(q, float("nan"))  # the kernel starts from memory that holds anything
        segments = zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True)
        for (start, end), (first, last) in segments:
            assert 0 <= start <= end <= len(q) and end - start <= max_seqlen_q
            assert 0 <= first <= last <= len(k) and last - first <= max_seqlen_k
            # A segment without keys is zeros: "we exit early and write 0", src/flash_fwd_kernel.h.
            output[start:end] = attend(q[start:end], k[first:last], v[first:last], softmax_scale, causal)
        return output

    def note(self, which, q, longest, dropout_p, window_size, softcap, alibi_slopes):
        assert (dropout_p, window_size, softcap, alibi_slopes) == (0.0, (-1, -1), 0.0, None)
        assert not self.strict or q.dtype != torch.float32, "FlashAttention only support fp16 and bf16"
        self.calls.append((which, longest))


@pytest.fixture(scope="module")
def flash():
    """transformers finds flash-attn installed, and flex attention uncompiled, for that takes a minute."""
    functions = Flash()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in vars(loader) if name.endswith("_fn")] + ["_loaded_implementation"]:
            patch.setattr(loader, name, None)
        loaded = (functions.flash_attn_func, functions.flash_attn_varlen_func, None, loader._pad_input)
        patch.setattr(loader, "_lazy_imports", lambda *args, **kwargs: (*loaded, loader._unpad_input))
        patch.setattr(transformers.PreTrainedModel, "_flash_attn_can_dispatch", lambda *args, **kwargs: True)
        patch.setattr(flex.WrappedFlexAttention, "_instance", None)
        patch.setattr(torch, "compile", lambda function, **kwargs: function)
        yield functions


@pytest.fixture(scope="module")
def models(make, flash):
    """The same tiny model with each implementation."""

    def made(attend: str):
        model, _ = make(attend=attend)
        several = {}
        for implementation in IMPLEMENTATIONS:
            several[implementation] = copy.deepcopy(model)
            several[implementation].set_attn_implementation(implementation)
        return several

    return {attend: made(attend) for attend in ("latest", "all_previous")}


@st.composite
def prompts(draw, words: int = 7) -> tuple[torch.Tensor, list[int]]:
    """Rows of words and up to five pictures, left-padded; where to cut them, the end of it token by token."""
    row = st.lists(st.sampled_from([WORD, WORD + 1, IMAGE]), min_size=1, max_size=words)
    rows = draw(st.lists(row.filter(lambda row: row.count(IMAGE) <= 5), min_size=1, max_size=3))
    length = max(map(len, rows))
    steps = draw(st.integers(0, min(3, length - 1)))
    cuts = draw(st.sets(st.integers(1, length - 1), max_size=2)) if length > 1 else set()
    cuts |= set(range(length - steps, length))
    return torch.tensor([[PAD] * (length - len(row)) + row for row in rows]), [0, *sorted(cuts), length]


def run(model, ids, cuts, use_cache=True):
    """Logits of all tokens that are no padding, read in chunks; pictures are noise, the same for the same place."""
    noise = torch.randn(*ids.shape, R, W, generator=torch.Generator().manual_seed(0))
    mask = (ids != PAD).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config.text_config) if use_cache else None
    logits = []
    for start, end in pairwise(cuts):
        marker = ids[:, start:end] == IMAGE
        shown = [noise[b, start:end][marker[b]] for b in range(len(ids))]
        latents = nn.utils.rnn.pad_sequence(shown, batch_first=True)
        output = model(
            input_ids=ids[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=cache,
            use_cache=use_cache,
            image_latents=latents if latents.shape[1] else None,
        )
        logits.append(output.logits)
    return torch.cat(logits, dim=1)[mask.bool()]


@torch.no_grad()
@pytest.mark.parametrize("attend", ["latest", "all_previous"])
@settings(max_examples=40, deadline=None)
@given(prompt=prompts())
def test_flash_is_eager_and_sdpa_in_one_go_in_chunks_and_while_decoding(models, attend, prompt):
    ids, cuts = prompt
    expected = run(models[attend]["eager"], ids, [0, ids.shape[1]])
    torch.testing.assert_close(run(models[attend]["sdpa"], ids, cuts), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run(models[attend]["flash_attention_2"], ids, cuts), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attend", ["latest", "all_previous"])
@settings(max_examples=8, deadline=None)
@given(prompt=prompts(words=5))
def test_flex_is_eager(models, attend, prompt):
    ids, cuts = prompt
    expected = run(models[attend]["eager"], ids, [0, ids.shape[1]])
    torch.testing.assert_close(run(models[attend]["flex_attention"], ids, cuts), expected, atol=1e-5, rtol=1e-5)


PADDED = torch.tensor([[IMAGE, WORD, IMAGE, WORD, IMAGE, 9], [PAD, PAD, WORD, IMAGE, WORD, 9], [PAD, 7, 8, 9, 7, 8]])


@torch.no_grad()
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_pictures_come_through_the_tower_and_the_resampler(models, implementation):
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    ask = {"input_ids": PADDED, "attention_mask": (PADDED != PAD).long(), "pixel_values": pixels}
    expected, logits = (models["latest"][name](**ask).logits for name in ("eager", implementation))
    real = PADDED != PAD
    torch.testing.assert_close(logits[real], expected[real], atol=1e-5, rtol=1e-5)


def test_gradients_through_segments_are_those_of_eager(models):
    """Also where a segment has no query or no latents."""
    gradients = []
    for implementation in ("eager", "flash_attention_2"):
        model = copy.deepcopy(models["latest"][implementation])
        run(model, PADDED, [0, 6], use_cache=False).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("gated_cross_attention" in name for name in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)


# Which kernel gets what


@pytest.fixture
def block(make, flash):
    """A gated block on its own, so that only its attention is called."""

    def made(implementation: str = "flash_attention_2", **fields) -> GatedCrossAttentionBlock:
        model, _ = make(**fields)
        model.set_attn_implementation(implementation)
        flash.calls.clear()
        return model.model.language_model.layers[0].gated_cross_attention

    return made


def read(block, ids, layers, latents=None):
    hidden = torch.randn(*ids.shape, 16, dtype=block.attention.to_q.weight.dtype)
    return block(hidden, lay_out(ids, IMAGE, latents, layers, block.attention.config.attend))


@torch.no_grad()
def test_latest_pictures_take_the_path_of_segments_and_no_mask(block, flash, monkeypatch):
    def dense(*args, **kwargs):
        raise AssertionError("a dense mask")

    block = block()
    monkeypatch.setattr(attention, "sdpa_attention_forward", dense)
    layers = [MediaLayer()]
    read(block, PADDED, layers, torch.randn(3, 3, R, W))
    assert flash.calls == [("varlen", 6)]
    read(block, torch.tensor([[7, 8]] * 3), layers)  # more text
    assert flash.calls[1:] == [("varlen", 2)]


@torch.no_grad()
def test_a_decode_step_and_a_single_picture_call_flash_plainly(block, flash):
    block = block()
    layers = [MediaLayer()]
    read(block, PADDED, layers, torch.randn(3, 3, R, W))
    flash.calls.clear()
    read(block, torch.tensor([[7]] * 3), layers)
    read(block, torch.tensor([[IMAGE, 7, 8]]), [MediaLayer()], torch.randn(1, 1, R, W))
    assert flash.calls == [("plain", 1), ("plain", 3)]


@torch.no_grad()
def test_all_previous_pictures_overlap_and_go_to_sdpa(block, flash):
    block = block(attend="all_previous")
    read(block, PADDED, [MediaLayer()], torch.randn(3, 3, R, W))
    assert flash.calls == []


def test_segments_are_rows_and_pictures_in_order():
    """Row 1: one token before the first of two pictures. Row 2: its second picture comes in a second call."""
    layers = [MediaLayer()]
    first = torch.tensor([[7, IMAGE, IMAGE, 8], [IMAGE, 7, 8, 9]])
    said = lay_out(first, IMAGE, torch.zeros(2, 2, R, W), layers, "latest").allowed("flash_attention_2")
    assert isinstance(said, Segments)
    assert said.cu_seq_lens_q.tolist() == [0, 1, 2, 4, 4, 8, 8]
    assert said.cu_seq_lens_k.tolist() == [0, 0, R, 2 * R, 2 * R, 3 * R, 4 * R]
    assert said[2:] == (4, R)
    second = torch.tensor([[7, 8], [9, IMAGE]])
    said = lay_out(second, IMAGE, torch.zeros(2, 1, R, W), layers, "latest").allowed("flash_attention_2")
    assert layers[0].numbers.tolist() == [[1, 2, 0], [1, 0, 2]]  # slots without a picture, also amid others
    assert said.cu_seq_lens_q.tolist() == [0, 0, 0, 2, 2, 2, 3, 3, 4]
    assert said.cu_seq_lens_k.tolist() == [0, 0, R, 2 * R, 3 * R, 3 * R, 4 * R, 5 * R, 6 * R]


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("ids", [PADDED[:, :1], PADDED], ids=["a decode step", "a prompt"])
def test_nothing_waits_for_the_device(block, flash, monkeypatch, implementation, ids):
    """On a device without data, reading one number on the host is an error."""
    block = block(implementation).to("meta", torch.bfloat16)
    for name in ("_flash_fn", "_flash_varlen_fn"):
        monkeypatch.setattr(loader, name, lambda q, *args, **kwargs: torch.empty_like(q))
    layer = MediaLayer()
    layer.numbers = torch.zeros(3, 3, dtype=torch.long, device="meta")
    layer.update(*torch.zeros(2, 3, 2, 3 * R, 4, device="meta", dtype=torch.bfloat16))
    with torch.device("meta"):
        output = read(block, ids.to("meta"), [layer])
    assert output.shape == (*ids.shape, 16)
    with pytest.raises((RuntimeError, NotImplementedError)):
        layer.numbers.amax().item()


@torch.no_grad()
def test_flash_gets_the_dtype_of_the_model(models, flash, monkeypatch):
    monkeypatch.setattr(flash, "strict", True)
    flash.calls.clear()
    model = copy.deepcopy(models["latest"]["flash_attention_2"]).bfloat16()
    noise = torch.randn(3, 3, R, W).bfloat16()
    assert model(input_ids=PADDED, image_latents=noise).logits.dtype == torch.bfloat16
    assert ("varlen", 6) in flash.calls


# Names


@pytest.mark.parametrize("name", ["eager", "sdpa", "flex_attention"])
def test_what_torch_brings_is_always_there(name):
    check_implementation(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("flash", "flash_attention_2"),
        ("flash_attention", "flash_attention_2"),
        ("spda", "sdpa"),
        ("Flex", "flex_attention"),
    ],
)
def test_an_unknown_name_is_an_error_that_knows_the_nearest(name, meant):
    with pytest.raises(InputError, match=rf"'{name}' is not known; did you mean {meant}\?") as error:
        check_implementation(name)
    assert all(known in str(error.value) for known in IMPLEMENTATIONS) and "\n" not in str(error.value)


def test_without_flash_attn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"^flash-attn is not installed.*'flamingo-assistant\[flash\]'$"):
        check_implementation("flash_attention_2")
    project = Path(__file__).parents[3] / "pyproject.toml"
    assert re.search(r'^flash = \["flash-attn>=', project.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("runs", [True, False])
def test_flash_attn_is_there_but_there_may_be_no_gpu(monkeypatch, runs):
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: runs)
    if runs:
        check_implementation("flash_attention_2")
    else:
        with pytest.raises(ModelError, match="needs a GPU"):
            check_implementation("flash_attention_2")
