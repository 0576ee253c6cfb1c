import pytest
import torch
from transformers import AutoModelForImageTextToText

from assistant.model.modeling import fold

IDS = torch.tensor([[1, 7, 5, 8, 9, 5, 10, 11]])


def pixels(model, count: int, seed: int = 0, frames: int | None = None) -> torch.Tensor:
    side = model.config.vision_config.image_size
    shape = (count, 3, side, side) if frames is None else (count, frames, 3, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


EXTRA = [
    ("clip", [[1, 1]], 12 + 12),
    ("clip", [[-2, 2], [0, 1]], 12 + 4 * 12 + 12),
    ("siglip", [[1, 3]], 12 + 9 * 12),
    ("dinov2", [[0, 1]], 12 + 12),
    ("efficientnet-lite", [[1, 2], [2, 3]], 12 + 4 * 8 + 9 * 16),
]


@pytest.fixture(scope="module", params=EXTRA, ids=lambda case: f"{case[0]}-{case[1]}")
def seeing_more(request, make):
    """A model that reads earlier layers, how it does, and how wide that makes its features."""
    tower, extra, width = request.param
    return make("llama", tower, vision_extra_layers=extra).model, extra, width


@torch.no_grad()
def test_extra_layers_are_channels_beside_the_patches(seeing_more, make):
    model, extra, width = seeing_more
    images = pixels(model, 2)
    patches, logits = model.model.image_features(images)
    assert patches.shape[-1] == model.config.feature_width == width
    assert (logits is None) == (not model.config.class_token)
    output = model.model.vision_tower(images, output_hidden_states=True)
    skip, last = model.config.vision_skip_tokens, 12
    torch.testing.assert_close(patches[:, 0, :, :last], output.last_hidden_state[:, skip:])
    start = last
    for layer, k in extra:
        states = output.hidden_states[layer][:, skip:]
        stop = start + states.shape[-1] * k * k
        torch.testing.assert_close(patches[:, 0, :, start:stop], fold(states, patches.shape[2], k))
        start = stop
    assert start == width


@torch.no_grad()
def test_a_picture_of_frames_has_extra_layers_in_every_frame(seeing_more):
    model = seeing_more[0].model
    clip = pixels(seeing_more[0], 2, frames=3)
    together, _ = model.image_features(clip)
    for i in range(3):
        torch.testing.assert_close(together[:, i], model.image_features(clip[:, i])[0][:, 0])


@torch.no_grad()
def test_a_model_with_extra_layers_is_saved_and_comes_back(seeing_more, tmp_path):
    model, extra, width = seeing_more
    model.save_pretrained(tmp_path)
    back = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert [list(pair) for pair in back.config.vision_extra_layers] == extra
    assert back.config.feature_width == width
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2)}
    logits = model(**ask).logits
    assert torch.equal(back(**ask).logits, logits)
    others = pixels(model, 2, seed=1)
    assert not torch.equal(model(input_ids=IDS, pixel_values=others).logits, logits)


@torch.no_grad()
@pytest.mark.parametrize("tower", ["clip", "efficientnet-lite"])
def test_without_extra_layers_features_are_those_of_the_last(make, tower):
    model, _ = make("llama", tower)
    assert model.config.feature_width == model.config.vision_config.hidden_size
    assert model.model.image_features(pixels(model, 1))[0].shape[-1] == 12


def test_widths_of_an_efficientnets_maps_are_those_it_returns(make):
    model, _ = make("llama", "efficientnet-lite")
    with torch.no_grad():
        states = model.model.vision_tower(pixels(model, 1), output_hidden_states=True).hidden_states
    assert [state.shape[-1] for state in states] == model.config.vision_config.hidden_sizes


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_map_of_a_fitting_grid_is_only_reshaped(k):
    """Patch (y, x) holds the k x k block below it, channel by channel, and each of them row by row."""
    side, channels = 2, 5
    states = torch.randn(3, (side * k) ** 2, channels)
    folded = fold(states, side * side, k)
    assert folded.shape == (3, side * side, channels * k * k)
    maps = states.view(3, side * k, side * k, channels)
    for y in range(side):
        for x in range(side):
            block = maps[:, y * k : (y + 1) * k, x * k : (x + 1) * k]  # [3, k, k, channels]
            expected = torch.stack([block[..., c].flatten(1) for c in range(channels)], dim=1).flatten(1)
            assert torch.equal(folded[:, y * side + x], expected)


def test_a_map_of_another_grid_is_resized_first():
    flat = fold(torch.full((1, 25, 2), 3.0), 9, 2)
    assert flat.shape == (1, 9, 8)
    torch.testing.assert_close(flat, torch.full_like(flat, 3.0))
    ramp = torch.arange(36.0).view(1, 36, 1) % 6  # from left to right
    folded = fold(ramp, 9, 1).view(3, 3)
    torch.testing.assert_close(folded[0], folded[2])
    assert folded[0, 0] < folded[0, 1] < folded[0, 2]
    assert folded.mean().item() == pytest.approx(2.5, abs=1e-4)


def test_a_folded_map_keeps_its_type():
    assert fold(torch.randn(1, 16, 3).bfloat16(), 4, 1).dtype == torch.bfloat16
