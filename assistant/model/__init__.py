"""The Flamingo model as transformers objects."""

from .configuration import FlamingoConfig
from .modeling import FlamingoForConditionalGeneration, FlamingoModel
from .processing import FlamingoProcessor

__all__ = ["FlamingoConfig", "FlamingoForConditionalGeneration", "FlamingoModel", "FlamingoProcessor"]
