"""Small runs for tests of the command `tljax.probe`."""

import functools

from tljax import probe
from tljax.config import Config, Data, Loss, Model, Optim, Plan, validate
from tljax.probing import features
from tljax.run import prepare

RECIPE = {
    "optim": Optim(
        name="adamw", learning_rate=0.1, schedule="cosine", warmup_steps=2,
        clip_norm=0.5, weight_decay=0.1, sam_radius=0.05,
    ),
    "loss": Loss(label_smoothing=0.1, balanced=True),
}  # fmt: skip


def tiny(more=None, **data):
    """Returns the config of a run of few steps that trains the head alone."""
    data = {"classes": ("0", "1", "2"), "batch_size": 50, "balanced": True} | data
    return validate(
        Config(
            num_steps=6,
            num_devices=1,
            model=Model(width=2, stem="small"),
            data=Data(**data),
            plan=Plan(preset="head"),
            **(RECIPE if more is None else more),
        )
    )


@functools.cache
def begin():
    """Returns a run, its variables with random weights, and their features."""
    run = prepare(tiny())
    variables, news = probe.begin(run)
    assert "random weights" in news
    found, skipped = features.compute(run, variables, copies=1)
    assert skipped == {}
    return run, variables, found
