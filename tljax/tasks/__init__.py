"""Tasks by name: what is learned, as plain functions in one module each.

A task has `create_model`, `create_optimizer`, `create_state`, `know_labels`,
`train_step`, `eval_step`, `summarize`, `warn`, and SCORE: the metric by which a state
is best, and whether more of it is better (1) or less (-1). One whose outputs are images
has `draw`. The training loop knows nothing else of it.
"""

from tljax.tasks import autoencoder, classification, gan

TASKS = {
    "classification": classification,
    "autoencoder": autoencoder,
    "gan": gan,
}
