"""The one place where this package calls an attention implementation."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, which also returns its weights [B, H, L, S]."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, H * d] -> [B, H, L, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend_to(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by the implementation that the configuration of ``module`` names.

    Args:
        module: has ``config``, ``scaling`` and ``is_causal = False``.
        query: [B, H, L, d].
        key, value: [B, H, S, d].
        mask: bool [B, 1, L, S], True where attention is allowed; ``None`` for everywhere.

    Returns:
        [B, L, H * d].
    """
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    if mask is not None and attention is not eager_attention_forward:
        attention = sdpa_attention_forward  # flash kernels take no dense mask; SDPA is the same mathematics
    output, _ = attention(module, query, key, value, mask, dropout=0.0, scaling=module.scaling, is_causal=False)
    return output.flatten(2)
