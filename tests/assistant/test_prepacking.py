import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from assistant import prepacking
from assistant.prepacking import PrepackedLinear, prepack

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def layer(width: int = 24, out: int = 40, bias: bool = True, dtype: torch.dtype = torch.float32, pack: bool = True):
    model = nn.Sequential(nn.Linear(width, out, bias=bias, dtype=dtype)).requires_grad_(False)
    prepack(model, pack)
    assert type(model[0]) is (PrepackedLinear if pack or dtype == torch.float32 else nn.Linear)
    return model[0]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    width=st.sampled_from([1, 7, 64]),
    out=st.sampled_from([1, 33, 128]),
    bias=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    pack=st.booleans(),
)
def test_it_is_a_linear_layer(shape, width, out, bias, dtype, pack):
    made, x = layer(width, out, bias, dtype, pack), torch.randn(*shape, width, dtype=dtype)
    with torch.inference_mode():
        got = made(x)
    expected = F.linear(x, made.weight, made.bias)
    torch.testing.assert_close(got, expected, atol=TOLERANCE[dtype] * width, rtol=TOLERANCE[dtype])


@torch.no_grad()
def test_a_slice_is_multiplied_as_its_copy():
    made, x = layer(), torch.randn(3, 9, 48)[:, ::2, :24]
    torch.testing.assert_close(made(x), F.linear(x.contiguous(), made.weight, made.bias), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "another", "loaded"])
def test_a_changed_weight_counts(change):
    made, x = layer(bias=False), torch.randn(2, 24)
    made(x)
    if change == "in place":
        made.weight += 1
    elif change == "another":
        made.weight = nn.Parameter(torch.randn(40, 24), requires_grad=False)
    else:
        made.load_state_dict({"weight": torch.randn(40, 24)})
    torch.testing.assert_close(made(x), x @ made.weight.T, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_layer_that_it_was():
    made, x = layer(), torch.randn(2, 24, requires_grad=True)
    made(x).sum().backward()
    torch.testing.assert_close(x.grad, made.weight.sum(0).expand(2, -1))


def test_it_is_copied_and_saved_as_any_layer():
    made, x = layer(), torch.randn(2, 24)
    with torch.no_grad():
        expected = made(x)
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            torch.testing.assert_close(other(x), expected)
    assert sorted(made.state_dict()) == ["bias", "weight"]


@torch.no_grad()
def test_a_compiled_program_multiplies_as_the_layer():
    made, x = layer(), torch.randn(1, 24)
    program = torch.compile(lambda x: made(x) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(program(x), made(x) + 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert made(x).dtype == torch.bfloat16


def test_large_models_are_not_copied_unasked(monkeypatch):
    class Other(nn.Linear):
        """What adapters and quantisation put in place of a layer."""

    def model():
        return nn.Sequential(nn.Linear(8, 8), Other(8, 8), nn.Linear(8, 8, dtype=torch.float64))

    for largest, asked, packed in ((300, None, True), (200, None, False), (200, True, True), (300, False, False)):
        monkeypatch.setattr(prepacking, "LARGEST", largest)
        made = model()
        prepack(made, asked)
        assert [type(one) for one in made] == [PrepackedLinear, Other, nn.Linear]
        assert made[0].pack == packed and (made[0]._packed is not None) == packed
