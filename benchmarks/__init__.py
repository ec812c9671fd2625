"""Measurements of tljax, each printing one JSON line last."""
