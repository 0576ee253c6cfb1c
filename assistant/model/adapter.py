"""Trained weights without the frozen ones: a small file that names the parts it belongs to."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from assistant.errors import ModelError

from .assembly import assemble, is_adapter_key
from .configuration import FlamingoConfig
from .modeling import FlamingoForConditionalGeneration
from .processing import FlamingoProcessor

WEIGHTS, DESCRIPTION = "adapter.safetensors", "adapter.json"


@dataclass(frozen=True)
class Part:
    """A frozen part that an adapter belongs to.

    Args:
        name: an embedded part, hub id or directory.
        fingerprint: of its weights, see :func:`fingerprint`.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Adapter:
    """What an adapter says of itself.

    Args:
        vision, language: the frozen parts.
        model: fields of ``FlamingoConfig`` besides the parts' own configurations.
        rename_tokens: unused special tokens that became the image and end-of-chunk token.
        training: free-form notes on how it was made.
    """

    vision: Part
    language: Part
    model: dict[str, Any]
    rename_tokens: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Adapter":
        """Read the description in ``folder``.

        Raises:
            ModelError: it is missing or damaged.
        """
        try:
            tree = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            return cls(**{**tree, "vision": Part(**tree["vision"]), "language": Part(**tree["language"])})
        except OSError as error:
            raise ModelError(f"{folder} holds no adapter: {DESCRIPTION} cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{folder / DESCRIPTION} is damaged ({error}); fetch or train the adapter again") from None


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and a sample of the values of all weights that are not an adapter's.

    The same weights give the same fingerprint in float32 and bfloat16 files, since values are compared in bfloat16.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if ".gated_cross_attention." in name or not tensor.is_floating_point():
            continue
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 16)].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def adapter_state(model: FlamingoForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The weights that an adapter holds."""
    return {name: tensor for name, tensor in model.state_dict().items() if is_adapter_key(name)}


def save_adapter(
    folder: Path,
    model: FlamingoForConditionalGeneration,
    vision: str,
    language: str,
    rename_tokens: dict[str, str],
    training: dict[str, Any],
) -> None:
    """Write the adapter of a model as bfloat16 safetensors and its description."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().to("cpu", torch.bfloat16).contiguous() for name, t in adapter_state(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    description = Adapter(
        Part(vision, fingerprint(model.model.vision_tower)),
        Part(language, fingerprint(model.model.language_model)),
        model_fields(model.config),
        rename_tokens,
        training,
    )
    (folder / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n", encoding="utf-8")


def model_fields(config: FlamingoConfig) -> dict[str, Any]:
    """The fields of a configuration that make the bridge; the parts bring the rest."""
    own = {
        name
        for name in FlamingoConfig.__annotations__
        if name not in ("model_type", "sub_configs", "vision_config", "text_config", "image_token_id")
    }
    tree = config.to_dict()
    return {name: tree[name] for name in sorted(own) if name in tree and name != "tie_word_embeddings"}


def load_adapter(model: FlamingoForConditionalGeneration, folder: Path) -> None:
    """Load an adapter's weights into an assembled model.

    Raises:
        ModelError: the file is damaged, or the adapter belongs to other parts than the model's.
    """
    adapter = Adapter.read(folder)
    found = {"vision": model.model.vision_tower, "language": model.model.language_model}
    for role, module in found.items():
        part: Part = getattr(adapter, role)
        if fingerprint(module) != part.fingerprint:
            raise ModelError(
                f"{folder} belongs to the {role} part {part.name} ({part.fingerprint[:12]}), and the one loaded is "
                f"{module.config._name_or_path or type(module).__name__} ({fingerprint(module)[:12]})"
            )
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read ({error}); fetch or train the adapter again") from None
    wanted = adapter_state(model)
    wrong = sorted(set(tensors) ^ set(wanted)) + sorted(
        name for name in set(tensors) & set(wanted) if tensors[name].shape != wanted[name].shape
    )
    if wrong:
        raise ModelError(f"{folder / WEIGHTS} does not fit its description: {len(wrong)} weights, first {wrong[0]}")
    model.load_state_dict(tensors, strict=False)


def load_assembled(
    folder: Path, vision: Path | str, language: Path | str, dtype: torch.dtype
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """The model of an adapter: its parts from the given places, joined, with the adapter's weights.

    Raises:
        ModelError: a part or the adapter is damaged, or they do not belong together.
    """
    adapter = Adapter.read(folder)
    exact = torch.float32 if dtype == torch.float16 else dtype  # float16 would round what the fingerprints compare
    try:
        model, processor = assemble(vision, language, dtype=exact, rename=adapter.rename_tokens, **adapter.model)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / DESCRIPTION} does not describe a model of these parts: {error}") from error
    load_adapter(model, folder)
    if dtype != exact:
        for tensor in model.state_dict(keep_vars=True).values():  # and not the rotary frequencies, which stay float32
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    return model, processor
