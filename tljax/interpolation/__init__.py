"""Weights between a run and its start, and averages of runs: how they are judged."""
