"""Tasks by name: what is learned, as plain functions in one module each.

A task has `create_model`, `create_state`, `train_step`, `eval_step` and `summarize`;
the training loop knows nothing else of it.
"""

from tljax.tasks import classification

TASKS = {"classification": classification}
