import pytest
import torch
from torch import nn

from assistant.model.attention import attend_to, split_heads


class Attending(nn.Module):
    """What the modules that attend have: a configuration and a scale."""

    is_causal = False
    scaling = 0.7

    def __init__(self, implementation: str) -> None:
        super().__init__()
        self.config = type("Config", (), {"_attn_implementation": implementation})()


def by_hand(query, key, value, mask, scaling):
    """Attention as the paper writes it, one query at a time; [B, L, H * d]."""
    batch, heads, length, width = query.shape
    output = torch.zeros(batch, length, heads, width)
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                seen = [j for j in range(key.shape[2]) if mask is None or mask[b, 0, i, j]]
                weights = torch.stack([query[b, h, i] @ key[b, h, j] * scaling for j in seen]).softmax(0)
                output[b, i, h] = sum(w * value[b, h, j] for w, j in zip(weights, seen, strict=True))
    return output.flatten(2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_every_implementation_is_the_formula(implementation, masked):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 2, 4, 3), torch.randn(2, 2, 5, 3), torch.randn(2, 2, 5, 3)
    mask = None
    if masked:
        mask = torch.rand(2, 1, 4, 5) > 0.5
        mask[..., 0] = True
    output = attend_to(Attending(implementation), query, key, value, mask)
    torch.testing.assert_close(output, by_hand(query, key, value, mask, Attending.scaling))


def test_a_masked_call_never_reaches_a_kernel_without_dense_masks(monkeypatch):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def kernel(*args, **kwargs):
        raise AssertionError("flash kernels take no dense mask")

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", kernel)
    query, mask = torch.randn(1, 1, 2, 4), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    flash = attend_to(Attending("flash_attention_2"), query, query, query, mask)
    torch.testing.assert_close(flash, attend_to(Attending("eager"), query, query, query, mask))
    with pytest.raises(AssertionError):
        attend_to(Attending("flash_attention_2"), query, query, query, None)


def test_heads_are_split_from_the_last_dimension():
    x = torch.arange(12.0).view(1, 2, 6)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 2)
    assert heads[0, 1, 1].tolist() == [8.0, 9.0]
