"""Numbers, intervals, tables and plots that follow from labels and probabilities."""
