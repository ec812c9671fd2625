"""Weights to start from: read where they lie, placed into a model's variables."""
