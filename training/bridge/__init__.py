"""Bridge pretraining: teach the resampler and the gated blocks between two frozen models."""
