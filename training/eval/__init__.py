"""Measure a model on pictures that were never trained on."""
