import copy
import gc
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig

from assistant.api import Assistant
from assistant.errors import InputError, MissingExtraError, ModelError
from assistant.model.adapter import save_adapter
from assistant.quantization import METHODS, held_bytes, quantization, quantize_layers, settle

from_pretrained = Assistant.from_pretrained

bitsandbytes = pytest.importorskip("bitsandbytes")
LAYERS = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}
CPU = torch.device("cpu")
RENAME = {"<unused0>": "<image>", "<unused1>": "<|endofchunk|>"}
FAMILIES = ["llama", "llama-tied", "qwen3", "opt", "opt-350m", "gpt-neox", "gemma3", "mpt"]

COSINE = {"nf4": 0.85, "int8": 0.99}
"""Least mean cosine of the logits of tiny random models with those of the dense ones; measured: 0.88 and 0.998."""


@pytest.fixture(scope="module")
def wide(make, text_configs) -> nn.Module:
    """A tiny LLaMA whose layers fit the NF4 kernel of the CPU."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(**{**text_configs["llama"]().to_dict(), **shape, "head_dim": 32})
    text_configs["llama-wide"] = lambda: config
    return make("llama-wide", cross_attention_head_dim=32, resampler_width=64).model


def held(layer: nn.Module) -> torch.Tensor:
    """The weight that a layer holds before it is packed, from its codes and scales alone."""
    weight = layer.weight
    if isinstance(layer, LAYERS["int8"]):
        return weight.data * (layer.state.SCB if weight.SCB is None else weight.SCB)[:, None] / 127
    state, (outputs, inputs) = weight.quant_state, (layer.out_features, layer.in_features)
    codes = torch.stack((weight.data.flatten() >> 4, weight.data.flatten() & 15), dim=1).flatten()[: outputs * inputs]
    scales = state.absmax
    if state.nested:
        coarse = state.state2.absmax.repeat_interleave(state.state2.blocksize)[: len(scales)]
        scales = state.state2.code[scales.long()] * coarse + state.offset
    return (state.code[codes.long()] * scales.repeat_interleave(64)[: len(codes)]).view(outputs, inputs)


def quantized(model: nn.Module, method: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a model in fewer bits, as ``from_pretrained`` makes it."""
    model = copy.deepcopy(model).to(dtype)
    quantize_layers(model, quantization(method, dtype), CPU)
    settle(model)
    return model


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16).to(model.dtype)
    return model(input_ids=torch.tensor([[7, 5, 9, 10, 5, 11, 12]]), pixel_values=pixels).logits.float()


def in_layers(model: nn.Module) -> set[str]:
    """Names of all linear layers inside the decoder layers, found by what a gated block stands before."""
    layers = [(name, m) for name, m in model.named_modules() if hasattr(m, "gated_cross_attention")]
    assert len(layers) == model.config.text_config.num_hidden_layers
    return {f"{name}.{own}" for name, layer in layers for own, m in layer.named_modules() if isinstance(m, nn.Linear)}


# What is quantised


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_layers_with_their_gated_blocks_are_quantised_and_nothing_else(make, family, method):
    model = make(family).model
    expected = in_layers(model)
    dense = {name: type(module) for name, module in model.named_modules() if name not in expected}
    values = {name: p.clone() for name, p in model.named_parameters() if name.rpartition(".")[0] not in expected}
    quantize_layers(model, quantization(method, torch.float32), CPU)
    found = {name for name, module in model.named_modules() if isinstance(module, LAYERS[method])}
    assert found == expected and any(".gated_cross_attention.attention.to_kv" in name for name in found)
    assert {name: type(module) for name, module in model.named_modules() if name not in expected} == dense
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in values.items())
    assert {"lm_head.weight", "model.resampler.latents"} & values.keys()


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_near_the_dense_ones_and_biases_are_kept(make, method):
    dense = make("opt").model
    model = quantized(dense, method)
    worst = 0.16 if method == "nf4" else 0.5 / 127  # half the widest gap of NF4 is 0.152 of the largest of a block
    for name in in_layers(dense):
        layer, expected = model.get_submodule(name), dense.get_submodule(name)
        assert (held(layer) - expected.weight).abs().max() < 1.01 * worst * expected.weight.abs().max()
        assert (layer.bias is None) == (expected.bias is None)
        assert layer.bias is None or torch.equal(layer.bias, expected.bias)


# Answers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "opt", "wide"])
def test_logits_stay_near_the_dense_ones(make, wide, family, method, dtype):
    dense = wide if family == "wide" else make(family).model
    got, expected = logits(quantized(dense, method, dtype)), logits(dense)
    assert torch.cosine_similarity(got, expected, dim=-1).mean() > COSINE[method]


@pytest.mark.parametrize("family", ["llama", "wide"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)], ids=str)
def test_nf4_computes_with_the_weights_that_it_holds(make, wide, family, dtype, tolerance):
    """Oracle: the dense model with the same values; in bfloat16 where a CPU has it, through the packed kernel."""
    dense = copy.deepcopy(wide if family == "wide" else make(family).model).to(dtype)
    model = copy.deepcopy(dense)
    quantize_layers(model, quantization("nf4", dtype), CPU)
    for name in in_layers(dense):
        dense.get_submodule(name).weight.data = held(model.get_submodule(name)).to(dtype)
    settle(model)
    got, expected = logits(model), logits(dense)
    assert (got - expected).norm() < tolerance * expected.norm()


class OneLayer(nn.Module):
    """The least that :func:`settle` takes."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(METHODS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(1, 130),
    st.one_of(st.integers(1, 70).map(lambda half: 2 * half), st.sampled_from([64, 128])),
    st.integers(1, 5),
    st.booleans(),
)
def test_a_layer_of_any_shape_multiplies(method, dtype, outputs, inputs, rows, bias):
    generator = torch.Generator().manual_seed(outputs * 1000 + inputs)
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    weight[0] = 0  # as a fresh output projection is
    x = torch.randn(1, rows, inputs, generator=generator).to(dtype)
    x[:, 0] = 0  # as a padded picture is
    if method == "nf4":
        layer = LAYERS[method](inputs, outputs, bias, compute_dtype=dtype, quant_type="nf4")
        layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4").to(CPU)
    else:
        layer = LAYERS[method](inputs, outputs, bias, has_fp16_weights=False, threshold=6.0)
        layer.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False).to(CPU)
    if bias:
        layer.bias.data = torch.randn(outputs, generator=generator).to(dtype)
    values = held(layer).float()
    settle(OneLayer(layer, dtype))
    expected = nn.functional.linear(x.float(), values, layer.bias.float() if bias else None)
    with torch.no_grad():
        got = layer(x)
    assert got.shape == (1, rows, outputs) and got.dtype == dtype
    scale = (x.float().norm(dim=-1)[..., None] * values.norm(dim=-1)).amax() + 1
    assert (got.float() - expected).abs().max() < (0.02 if method == "int8" or dtype != torch.float32 else 1e-5) * scale
    assert torch.equal(got[0, 0, :1].float(), expected[0, 0, :1])  # zeros stay exactly zeros


@pytest.mark.parametrize("method", METHODS)
def test_nothing_changes_in_the_first_forward(wide, method):
    """Two threads may ask at once."""

    def state(model):
        return {
            name: (m.weight.data_ptr(), vars(m.weight).get("CB"), m.training)
            for name, m in model.named_modules()
            if isinstance(m, LAYERS[method])
        }

    model = quantized(wide, method, torch.bfloat16)
    before = state(model)
    first = logits(model)
    assert state(model) == before and torch.equal(logits(model), first)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_silent(wide, method, caplog):
    logits(quantized(wide, method, torch.bfloat16))
    assert not caplog.records


# Loading


@pytest.fixture(scope="module")
def adapter(assembled, saved_parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "adapter"
    save_adapter(folder, assembled()[0], *map(str, saved_parts), RENAME, {})
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_and_a_saved_model_give_the_same(adapter, saved_model, picture, method):
    loaded = [
        from_pretrained(str(name), device="cpu", dtype="bfloat16", quantize=method)
        for name in (adapter, adapter.parent, saved_model)
    ]
    dense = from_pretrained(str(saved_model), device="cpu", dtype="bfloat16")
    answers = [one.ask("What is it?", [picture("red")], max_new_tokens=8) for one in loaded]
    assert answers[0].text and len({answer.text for answer in answers}) == 1
    with torch.no_grad():
        inputs = dense.encode("What is it?", [picture("red")])
        expected, first, *others = [one.model(**inputs).logits.float() for one in (dense, *loaded)]
    assert all(torch.equal(other, first) for other in others)
    assert torch.cosine_similarity(first, expected, dim=-1).mean() > COSINE[method]
    for one in loaded:
        found = {name for name, module in one.model.named_modules() if isinstance(module, LAYERS[method])}
        assert found == in_layers(dense.model) and not one.model.training
        assert held_bytes(one.model) == held_bytes(loaded[0].model)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_model_is_saved_and_loaded_again(adapter, saved_model, tmp_path, method):
    for name in (adapter, saved_model):
        assistant = from_pretrained(str(name), device="cpu", dtype="bfloat16", quantize=method)
        folder = tmp_path / name.name
        assistant.model.save_pretrained(folder)
        assistant.processor.save_pretrained(folder)
        again = from_pretrained(str(folder), device="cpu", dtype="bfloat16")
        inputs = assistant.encode("Who are you?")
        with torch.no_grad():
            assert torch.equal(again.model(**inputs).logits, assistant.model(**inputs).logits)
        with pytest.raises(InputError, match=f"was quantised when it was saved; load it without quantize='{method}'"):
            from_pretrained(str(folder), device="cpu", dtype="bfloat16", quantize=method)


def test_a_model_saved_quantised_needs_bitsandbytes(saved_model, tmp_path, monkeypatch):
    from_pretrained(str(saved_model), device="cpu", quantize="nf4").model.save_pretrained(tmp_path)
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ModelError, match="requires bitsandbytes"):
        from_pretrained(str(tmp_path), device="cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which files are mapped")
@pytest.mark.parametrize("method", METHODS)
def test_no_dense_file_stays_in_memory(saved_model, tmp_path, method):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    assistant = from_pretrained(str(folder), device="cpu", dtype="float32", quantize=method)
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert assistant.model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "near"), [("nf", "nf4"), ("NF4", "nf4"), ("int4", "int8"), ("8bit", "int8"), ("", "nf4"), (8, "int8")]
)
def test_an_unknown_quantisation_is_an_error_that_names_the_nearest(name, near):
    with pytest.raises(InputError, match=f"quantize {name!r} is not known; did you mean {near}. Known are nf4, int8"):
        from_pretrained("nowhere", device="cpu", quantize=name)


@pytest.mark.parametrize("method", METHODS)
def test_a_dtype_that_it_does_not_compute_in_is_an_error(method):
    with pytest.raises(InputError, match=f"{method} computes in .*not in torch.float64"):
        from_pretrained("nowhere", device="cpu", dtype=torch.float64, quantize=method)


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_without_the_extra_the_error_names_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed; .*flamingo-assistant\[quantize\]"):
        from_pretrained("nowhere", device="cpu", quantize="nf4")


# Memory


def test_the_bytes_of_a_dense_model_count_shared_weights_once(make):
    model = make("llama-tied").model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert held_bytes(model) == model.get_memory_footprint()


@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_of_a_quantised_model_count_weights_and_scales(wide, method):
    model = quantized(wide, method, torch.bfloat16)
    shapes = [(m.out_features, m.in_features) for m in model.modules() if isinstance(m, LAYERS[method])]
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    rest = held_bytes(copy.deepcopy(wide).to(torch.bfloat16)) - 2 * weights
    took = held_bytes(model) - rest
    if method == "int8":
        assert took == weights + 4 * sum(outputs for outputs, _ in shapes)
    else:  # a scale for 64 weights, in one byte or, packed for a CPU, in two; and 1 KiB for the scales of scales
        tables = 1100 * len(shapes)
        assert weights / 2 + weights / 64 <= took <= weights / 2 + weights / 32 + tables
