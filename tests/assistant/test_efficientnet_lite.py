import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, ViTImageProcessorPil

from assistant.model.efficientnet_lite import ConvNorm, EfficientNetLiteConfig, EfficientNetLiteModel, same_padding

TINY = {"width_coefficient": 0.25, "depth_coefficient": 0.5, "image_size": 64, "hidden_size": 24, "num_labels": 7}


@pytest.fixture
def tiny() -> EfficientNetLiteModel:
    """A small network with batch norms that do something, in evaluation mode."""
    torch.manual_seed(0)
    model = EfficientNetLiteModel(EfficientNetLiteConfig(**TINY))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize(
    ("width", "depth", "channels", "depths", "million"),
    [  # the parameter counts that the authors publish for Lite0 to Lite4
        (1.0, 1.0, [16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1], 4.7),
        (1.0, 1.1, [16, 24, 40, 80, 112, 192, 320], [1, 3, 3, 4, 4, 5, 1], 5.4),
        (1.1, 1.2, [16, 24, 48, 88, 120, 208, 352], [1, 3, 3, 4, 4, 5, 1], 6.1),
        (1.2, 1.4, [24, 32, 48, 96, 136, 232, 384], [1, 3, 3, 5, 5, 6, 1], 8.2),
        (1.4, 1.8, [24, 32, 56, 112, 160, 272, 448], [1, 4, 4, 6, 6, 8, 1], 13.0),
    ],
)
def test_sizes_of_the_family(width, depth, channels, depths, million):
    with torch.device("meta"):
        model = EfficientNetLiteModel(EfficientNetLiteConfig(width_coefficient=width, depth_coefficient=depth))
    assert [stage[-1].project.conv.out_channels for stage in model.stages] == channels
    assert [len(stage) for stage in model.stages] == depths
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(million, abs=0.06)


def test_defaults_are_lite2():
    config = EfficientNetLiteConfig()
    assert (config.hidden_size, config.image_size, config.num_labels) == (1280, 260, 1000)
    assert "LABEL_0" not in config.to_json_string()


@pytest.mark.parametrize("size", [8, 9, 10, 11])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_same_padding_is_that_of_tensorflow(size, kernel, stride):
    torch.manual_seed(0)
    unit = ConvNorm(EfficientNetLiteConfig(folded=True), 1, 1, kernel, stride, activate=False)
    picture = torch.randn(size, size + 1)
    # The definition, position by position: ceil(n / stride) outputs, what is missing is zero, the odd one at the end.
    weight, bias = unit.conv.weight[0, 0], unit.conv.bias[0]
    rows, columns = math.ceil(size / stride), math.ceil((size + 1) / stride)
    above = max((rows - 1) * stride + kernel - size, 0) // 2
    before = max((columns - 1) * stride + kernel - (size + 1), 0) // 2
    expected = torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            for i in range(kernel):
                for j in range(kernel):
                    y, x = row * stride + i - above, column * stride + j - before
                    if 0 <= y < size and 0 <= x < size + 1:
                        expected[row, column] += (weight[i, j] * picture[y, x]).detach()
    torch.testing.assert_close(unit(picture[None, None])[0, 0].detach(), expected + bias.detach(), atol=1e-5, rtol=1e-5)


def test_same_padding_puts_the_odd_one_at_the_end():
    assert same_padding((260, 130), kernel=3, stride=2) == (0, 1, 0, 1)
    assert same_padding((65, 65), kernel=5, stride=2) == (2, 2, 2, 2)


def test_shapes_and_order_of_the_output(tiny):
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        output = tiny(pixels, output_hidden_states=True)
    assert output.last_hidden_state.shape == (2, 2 * 3, 24)
    assert output.pooler_output.shape == (2, 24)
    assert output.logits.shape == (2, 7)
    assert len(output.hidden_states) == 8
    assert [state.shape[1] for state in output.hidden_states] == [32 * 48, 16 * 24, 8 * 12, 24, 24, 6, 6, 6]
    assert output.hidden_states[-1] is output.last_hidden_state
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean(1))
    assert output.last_hidden_state.min() >= 0
    assert output.last_hidden_state.max() <= 6
    assert tiny(pixels, output_hidden_states=False).hidden_states is None


def test_patches_run_row_by_row(tiny):
    pixels = torch.zeros(1, 3, 256, 320)
    changed = pixels.clone()
    changed[:, :, -16:, :16] = 3.0  # the bottom left
    with torch.no_grad():
        difference = (tiny(changed).last_hidden_state - tiny(pixels).last_hidden_state).abs().sum(-1)[0]
    grid = difference.view(8, 10)
    assert grid[7, 0] > 0
    assert grid[0, 9] == 0


def test_folded_is_unfolded(tiny):
    folded = tiny.fold()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels).logits, tiny(pixels).logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            folded(pixels).last_hidden_state, tiny(pixels).last_hidden_state, atol=1e-4, rtol=1e-4
        )
    assert folded.config.folded and not tiny.config.folded
    assert not any("norm" in name for name in folded.state_dict())
    with pytest.raises(ValueError, match="folded already"):
        folded.fold()


def test_batch_is_singles(tiny):
    pixels = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together = tiny(pixels).last_hidden_state
        alone = torch.cat([tiny(one[None]).last_hidden_state for one in pixels])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_weight(tiny):
    tiny.train()(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in tiny.parameters())


@pytest.mark.parametrize("fold", [False, True])
def test_save_and_load_through_the_auto_classes(tiny, tmp_path, fold):
    model = tiny.fold() if fold else tiny
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, EfficientNetLiteModel)
    assert AutoConfig.from_pretrained(tmp_path).num_labels == 7
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).logits, model(pixels).logits, atol=1e-6, rtol=1e-6)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(pixels).last_hidden_state.dtype == torch.bfloat16


def test_the_image_processor_gives_x_minus_127_by_128(tmp_path):
    ViTImageProcessorPil(
        size={"height": 260, "width": 260}, resample=3, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3
    ).save_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 320, 3), dtype=np.uint8))
    pixels = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(picture, return_tensors="np")["pixel_values"]
    squashed = np.asarray(picture.resize((260, 260), Image.Resampling.BICUBIC), dtype=np.float32)
    np.testing.assert_allclose(pixels[0], (squashed.transpose(2, 0, 1) - 127) / 128, atol=1e-6)


@pytest.mark.parametrize("name", ["eager", "sdpa", "flex_attention"])
def test_it_stands_in_models_of_any_attention(tiny, name):
    pixels = torch.randn(1, 3, 64, 64)
    before = tiny(pixels).last_hidden_state
    tiny.set_attn_implementation(name)
    assert torch.equal(tiny(pixels).last_hidden_state, before)
