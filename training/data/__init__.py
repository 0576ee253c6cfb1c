"""Training pictures and evaluation sets, built from packages of public registries."""
