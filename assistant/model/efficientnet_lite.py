"""EfficientNet-Lite 0 to 4 as a vision tower: inverted residual blocks, ReLU6, no squeeze-and-excitation.

Tan and Le, "EfficientNet" (arXiv:1905.11946), section 4; the Lite changes are those of TensorFlow's
``tpu/models/official/efficientnet/lite``: squeeze-and-excitation and swish are gone, and the stem, the head and the
depth of the first and last stage are not scaled. Pixels come in as ``(x - 127) / 128`` of 0..255.

Importing this module registers the classes with ``AutoConfig`` and ``AutoModel``.

Shapes: N pictures, H x W pixels, P patches (the last map, row by row), Dv vision width.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

# The unscaled network, stage by stage: repeats, kernel, stride, expansion, output channels (EfficientNet-B0, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    """Size of an EfficientNet-Lite; the defaults are Lite2.

    ``(width_coefficient, depth_coefficient, image_size)`` of the family: Lite0 (1.0, 1.0, 224), Lite1 (1.0, 1.1, 240),
    Lite2 (1.1, 1.2, 260), Lite3 (1.2, 1.4, 280), Lite4 (1.4, 1.8, 300).

    Args:
        hidden_size: Dv, the width of the head and of the patches that the tower returns.
        stem_size: channels after the first convolution.
        folded: whether the batch norms are folded into the convolutions (see ``EfficientNetLiteModel.fold``).
    """

    model_type = "efficientnet_lite"

    width_coefficient: float = 1.1
    depth_coefficient: float = 1.2
    image_size: int = 260
    num_channels: int = 3
    stem_size: int = 32
    hidden_size: int = 1280
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01
    initializer_range: float = 0.01
    # A plain field, so that a thousand placeholder names do not fill every configuration that holds this one.
    num_labels: int = 1000
    folded: bool = False

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels of each map in ``EfficientNetLiteOutput.hidden_states``."""
        return [*(round_channels(channels * self.width_coefficient) for *_, channels in STAGES), self.hidden_size]


@dataclass
class EfficientNetLiteOutput(ModelOutput):
    """What the tower returns.

    Args:
        last_hidden_state: ``[N, P, Dv]``, the last map after the head convolution, row by row from the top left.
        pooler_output: ``[N, Dv]``, its mean over the patches.
        logits: ``[N, num_labels]``, class scores.
        hidden_states: the map after each of the seven stages as ``[N, P_i, C_i]``, then ``last_hidden_state``.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch norm unless folded, ReLU6 unless ``activate`` is false."""

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        # With stride 1 "same" padding is even, and the convolution's own is the faster way to it.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=config.folded)
        self.norm: nn.Module = (
            nn.Identity()
            if config.folded
            else nn.BatchNorm2d(outputs, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)
        )
        self.activate = activate

    def forward(self, maps: Tensor) -> Tensor:
        if self.conv.stride[0] > 1:
            maps = F.pad(maps, same_padding(maps.shape[-2:], self.conv.kernel_size[0], self.conv.stride[0]))
        maps = self.norm(self.conv(maps))
        return F.relu6(maps, inplace=True) if self.activate else maps


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; the input is added where the shape stays the same."""

    def __init__(
        self, config: EfficientNetLiteConfig, inputs: int, outputs: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = ConvNorm(config, inputs, width) if expansion > 1 else None
        self.depthwise = ConvNorm(config, width, width, kernel, stride, groups=width)
        self.project = ConvNorm(config, width, outputs, activate=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        out = maps if self.expand is None else self.expand(maps)
        out = self.project(self.depthwise(out))
        return out + maps if self.residual else out


class EfficientNetLiteModel(PreTrainedModel):
    """The whole network with its classifier. Stochastic depth and dropout, which only its training used, are absent."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # it has no attention that could differ
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["InvertedResidual"]

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = ConvNorm(config, config.num_channels, config.stem_size, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        inputs = config.stem_size
        for number, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            if 0 < number < len(STAGES) - 1:
                repeats = math.ceil(repeats * config.depth_coefficient)
            outputs = round_channels(channels * config.width_coefficient)
            stage = nn.Sequential()
            for block in range(repeats):
                stage.append(InvertedResidual(config, inputs, outputs, kernel, stride if block == 0 else 1, expansion))
                inputs = outputs
            self.stages.append(stage)
        self.head = ConvNorm(config, inputs, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> EfficientNetLiteOutput | tuple[Tensor, ...]:
        """Encode pictures.

        Args:
            pixel_values: ``[N, 3, H, W]``, ``(x - 127) / 128`` of 0..255; any size works, ``config.image_size`` is
                what the weights were made for.
            output_hidden_states: also return the map after each stage.

        Returns:
            ``EfficientNetLiteOutput``; P is ``ceil(H / 32) * ceil(W / 32)``.
        """
        keep = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states: tuple[Tensor, ...] = ()
        # Depthwise convolutions are several times faster on a CPU when the channels lie next to each other.
        maps = pixel_values.to(dtype=self.dtype, memory_format=torch.channels_last)
        maps = self.stem(maps)  # [N, C, H / 2, W / 2]
        for stage in self.stages:
            maps = stage(maps)
            if keep:
                states += (maps.flatten(2).transpose(1, 2),)
        patches = self.head(maps).flatten(2).transpose(1, 2)  # [N, P, Dv]
        pooled = patches.mean(dim=1)
        output = EfficientNetLiteOutput(
            last_hidden_state=patches,
            pooler_output=pooled,
            logits=self.classifier(pooled),
            hidden_states=(*states, patches) if keep else None,
        )
        return output if return_dict is not False else output.to_tuple()

    @torch.no_grad()
    def fold(self) -> "EfficientNetLiteModel":
        """A copy for inference, whose batch norms (with their running statistics) are folded into the convolutions.

        Raises:
            ValueError: the model is folded already.
        """
        if self.config.folded:
            raise ValueError("the batch norms of this model are folded already")
        precise = copy.deepcopy(self).double().eval()
        for module in precise.modules():
            if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv = fuse_conv_bn_eval(module.conv, module.norm)
                module.norm = nn.Identity()
        precise.config.folded = True
        return precise.to(self.dtype)


def same_padding(size: tuple[int, ...], kernel: int, stride: int) -> tuple[int, int, int, int]:
    """TensorFlow's "same" padding as ``F.pad`` takes it: (left, right, top, bottom), the odd one right and down."""
    rows, columns = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in size)
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def round_channels(channels: float) -> int:
    """The multiple of 8 nearest to ``channels``, but never less than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


AutoConfig.register("efficientnet_lite", EfficientNetLiteConfig)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel)
