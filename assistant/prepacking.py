"""Weights laid out as oneDNN reads them fastest, for inference on a CPU."""

import itertools
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 2 * 2**30
"""Bytes of weights up to which they are packed unasked, for the packed copy lies beside them."""


class PrepackedLinear(nn.Linear):
    """A linear layer that multiplies with oneDNN, by a packed copy of its weight.

    Its weight stays the one that counts: where it was changed since, it is packed again. Where gradients are recorded,
    and on another device, it is the layer that it was.
    """

    pack = True
    """Without it oneDNN reads the weight as it lies: no copy; in float32 still twice as fast as MKL on some CPUs."""

    number: int
    """By which compiled programs know it: they take no packed weights."""

    _packed: Tensor | None = None
    _packed_from: tuple[int, int] | None = None

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if (
            torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or input.dtype != weight.dtype
            or not input.numel()
            or not weight.device.type == input.device.type == "cpu"
        ):
            return F.linear(input, weight, self.bias)
        if torch.compiler.is_compiling():
            if weight.dtype != torch.float32:  # which inductor packs itself
                return F.linear(input, weight, self.bias)
            return torch.ops.assistant.prepacked_linear(input, self.number, self.out_features)
        return self.multiply(input)

    def multiply(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return torch.ops.mkldnn._linear_pointwise(input, self._read(self.weight), self.bias, "none", [], "")

    def _read(self, weight: Tensor) -> Tensor:
        if not self.pack:
            return weight
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if self._packed is None or self._packed_from != version:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
            self._packed_from = version
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and saved; packed weights can be neither."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_packed", "_packed_from")}


_layers: "WeakValueDictionary[int, PrepackedLinear]" = WeakValueDictionary()
_numbers = itertools.count()


@torch.library.custom_op("assistant::prepacked_linear", mutates_args=())
def _prepacked_linear(input: Tensor, number: int, out_features: int) -> Tensor:
    return _layers[number].multiply(input)


@_prepacked_linear.register_fake
def _(input: Tensor, number: int, out_features: int) -> Tensor:
    return input.new_empty(*input.shape[:-1], out_features)


@torch.no_grad()
def prepack(model: nn.Module, pack: bool | None = None) -> None:
    """Make the linear layers of a model multiply with oneDNN, in place.

    Layers of other classes (quantised ones, adapters) stay as they are, and so does everything on other devices.

    Args:
        pack: copies of the weights, too; by default up to ``LARGEST`` bytes of them. Without copies only float32 gains.
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and _can_be_packed(layer.weight)]
    if pack is None:
        pack = sum(layer.weight.nbytes for layer in layers) <= LARGEST
    for layer in layers if pack else [layer for layer in layers if layer.weight.dtype == torch.float32]:
        layer.__class__ = PrepackedLinear
        assert isinstance(layer, PrepackedLinear)
        layer.pack, layer.number = pack, next(_numbers)
        _layers[layer.number] = layer
        layer._read(layer.weight)


def _can_be_packed(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
