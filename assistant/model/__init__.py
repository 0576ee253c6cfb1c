"""The Flamingo model as transformers objects."""

from . import efficientnet_lite  # noqa: F401  registers the tower of the embedded default
from .configuration import FlamingoConfig
from .modeling import FlamingoForConditionalGeneration, FlamingoModel
from .processing import FlamingoProcessor

__all__ = ["FlamingoConfig", "FlamingoForConditionalGeneration", "FlamingoModel", "FlamingoProcessor"]
