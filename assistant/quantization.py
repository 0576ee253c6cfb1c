"""Decoder layers and gated blocks in 4 or 8 bits, through bitsandbytes.

NF4 (QLoRA, arXiv:2305.14314) holds a weight in 4 bits and computes in the dtype of the model; LLM.int8
(arXiv:2208.07339) holds and multiplies in 8 bits, outliers apart. The vision tower, the resampler, the embeddings and
the head stay as they are: they are small, and what a picture says is lost there first. So do norms and gates.
"""

import copy
import ctypes
import difflib
import functools
import importlib
import logging
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import AutoHfQuantizer

from .errors import InputError, MissingExtraError
from .model import FlamingoForConditionalGeneration

METHODS = ("nf4", "int8")

_OUTSIDE_THE_LAYERS = r"(?!model\.language_model\.(?:\w+\.)+\d+\.).*"
"""Full names of modules that lie in no decoder layer. transformers matches it from the start of a name."""


def quantization(method: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """What transformers and :func:`quantize_layers` need to know.

    Args:
        method: one of ``METHODS``.
        dtype: of what is not quantised, and of the computation.

    Raises:
        InputError: the method is not known, or does not compute in this dtype.
        MissingExtraError: bitsandbytes or accelerate is not installed.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, 1, cutoff=0)
        raise InputError(f"quantize {method!r} is not known; did you mean {near[0]}? Known are {', '.join(METHODS)}")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise InputError(f"{method} computes in float32, bfloat16 or float16, not in {dtype}: choose one as dtype")
    for package in ("accelerate", "bitsandbytes"):
        _import(package)
    return BitsAndBytesConfig(
        load_in_4bit=method == "nf4",
        load_in_8bit=method == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[_OUTSIDE_THE_LAYERS],
    )


def quantize_layers(
    model: FlamingoForConditionalGeneration, config: BitsAndBytesConfig, device: torch.device
) -> FlamingoForConditionalGeneration:
    """Quantise a dense model in place, as transformers does while it loads one; quantised layers go to ``device``."""
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    dense = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    quantizer.preprocess_model(model, device_map={"": device})
    for name in list(dense):
        old, new = dense.pop(name), model.get_submodule(name)
        if new is not old:
            weight = old.weight.data.T if isinstance(old, Conv1D) else old.weight.data
            empty = new.weight
            new.weight = type(empty)(weight, requires_grad=False, **vars(empty)).to(device)
            new.bias = old.bias
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    return model


@torch.no_grad()
def settle(model: FlamingoForConditionalGeneration) -> None:
    """Bring the layers of a quantised model into the form in which they compute.

    bitsandbytes does it in the first forward pass, where two threads would do it at once. Its fast kernel for NF4 on a
    CPU computes in bfloat16, and fails where ``out_features`` is no multiple of 32. The memory of what was dense goes
    back to the system.
    """
    layers = _import("bitsandbytes").nn
    for module in model.modules():
        if isinstance(module, layers.Linear4bit):
            whole_blocks = module.in_features % 64 == 0
            fits = whole_blocks and module.out_features % 32 == 0 and module.compute_dtype == torch.bfloat16
            module.support_avx512bf16_for_cpu &= fits
            if module.weight.device.type == "cpu" and not whole_blocks:
                module.__class__ = _in_one_row(layers.Linear4bit)
        if isinstance(module, layers.Linear4bit | layers.Linear8bitLt):
            module.eval()(torch.ones(1, module.in_features, dtype=model.dtype, device=module.weight.device))
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()  # a view of a file would hold the whole file
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)  # glibc keeps what was freed


@functools.cache
def _in_one_row(layer_class: Any) -> Any:
    """An NF4 layer for the CPU whose rows are not whole blocks of 64 weights.

    bitsandbytes 0.50 scales some weights there by a neighbour's block; of one long row it makes no mistake.
    """
    dequantize = _import("bitsandbytes").functional.dequantize_4bit

    def forward(self: Any, x: Tensor) -> Tensor:
        scales = copy.copy(self.weight.quant_state)
        scales.shape = torch.Size((1, scales.shape.numel()))
        weight = dequantize(self.weight.data, scales).view(self.out_features, self.in_features)
        return nn.functional.linear(x, weight.to(x.dtype), self.bias)

    return type(layer_class.__name__, (layer_class,), {"forward": forward})


def held_bytes(model: nn.Module) -> int:
    """Bytes of the weights of a model, with the scales of quantised ones; what is shared counts once.

    ``get_memory_footprint`` of transformers leaves the scales out.
    """
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        weight, state = getattr(module, "weight", None), getattr(module, "state", None)
        scales = getattr(weight, "quant_state", None)
        nested = getattr(scales, "state2", None)
        for holder, names in (
            (scales, ("absmax", "code", "offset")),
            (nested, ("absmax", "code")),
            (weight, ("CB", "SCB")),
            (state, ("CB", "SCB")),
        ):
            tensors += [getattr(holder, name, None) for name in names]
    return sum({(t.data_ptr(), t.nbytes): t.nbytes for t in tensors if isinstance(t, Tensor)}.values())


def _import(package: str) -> Any:
    """An optional package.

    Raises:
        MissingExtraError: it is not installed.
    """
    # It warns of a cast at every multiplication, and of a package that it would fetch kernels with from a model hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtraError(package, "quantize") from None
