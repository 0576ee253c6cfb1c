"""The one place where this package calls an attention implementation."""

import difflib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available

from assistant.errors import InputError, MissingExtraError, ModelError

IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2", "flex_attention")


def check_implementation(name: str) -> None:
    """Whether a model can be asked for an implementation here, before anything is loaded.

    Args:
        name: one of ``IMPLEMENTATIONS``.

    Raises:
        InputError: the name is not known.
        MissingExtraError: flash-attn is not installed.
        ModelError: flash-attn is installed and cannot run: it is too old, or there is no GPU.
    """
    if name not in IMPLEMENTATIONS:
        near = difflib.get_close_matches(str(name), IMPLEMENTATIONS, 1, cutoff=0)
        raise InputError(
            f"attn_implementation {name!r} is not known; did you mean {near[0]}? Known are {', '.join(IMPLEMENTATIONS)}"
        )
    if name == "flash_attention_2":
        if importlib.util.find_spec("flash_attn") is None:
            raise MissingExtraError("flash-attn", "flash")
        if not is_flash_attn_2_available():
            raise ModelError(
                "flash_attention_2 needs a GPU and flash-attn 2.7 or later; choose sdpa, or update flash-attn"
            )


class Segments(NamedTuple):
    """Queries and keys that lie in segments one after the other: a query attends to the keys of its own segment alone.

    The rows of a batch follow one another, so that there is one sequence of B * L queries and one of B * S keys. A
    segment may have no query, or no key: then its queries get zeros. The names are those of transformers' flash
    interface.

    Attributes:
        cu_seq_lens_q, cu_seq_lens_k: int32 [segments + 1], where segments of queries and of keys begin, and their end.
        max_length_q, max_length_k: no segment has more queries or keys.
    """

    cu_seq_lens_q: Tensor
    cu_seq_lens_k: Tensor
    max_length_q: int
    max_length_k: int

    def to(self, device: torch.device) -> "Segments":
        return self._replace(cu_seq_lens_q=self.cu_seq_lens_q.to(device), cu_seq_lens_k=self.cu_seq_lens_k.to(device))


Allowed = Tensor | Segments | BlockMask
"""Who attends to what: bool [B, 1, L, S], True where it is allowed, or what says the same to a kernel."""

Watch = Callable[[Tensor], None]
"""Is handed the weights of an attention, [B, H, L, S]."""


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


def attend_to(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Allowed | None,
    watch: Watch | None = None,
) -> Tensor:
    """Attention by the implementation that the configuration of ``module`` names.

    Args:
        module: has ``config``, ``scaling`` and ``is_causal = False``.
        query: [B, H, L, d].
        key, value: [B, H, S, d].
        mask: a tensor for any implementation, segments for flash attention, a block mask for flex attention; ``None``
            where everything attends to everything.
        watch: sees the weights; attention is eager then, whatever the configuration names, and takes a tensor as mask.

    Returns:
        [B, L, H * d].
    """
    implementation = "eager" if watch else module.config._attn_implementation
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    segments: dict[str, Any] = {}
    if isinstance(mask, Segments):
        segments, mask = mask._asdict(), None
    elif isinstance(mask, Tensor) and attention is not eager_attention_forward:
        attention = sdpa_attention_forward  # other kernels take no dense mask; SDPA is the same mathematics
    output, weights = attention(
        module, query, key, value, mask, dropout=0.0, scaling=module.scaling, is_causal=False, **segments
    )
    if watch:
        watch(weights)
    return output.flatten(2)
