"""Settings that are right alone and at odds with one another."""

import math

from tljax.data import operations, sources
from tljax.errors import ConfigError
from tljax.models import AUTOENCODERS, GANS, MODELS
from tljax.optim import TRUST_RATIOS
from tljax.pretrained import catalog
from tljax.pretrained.weights import FORMS, LOADERS

MODELS_OF = {"classification": MODELS, "autoencoder": AUTOENCODERS, "gan": GANS}


def check(config, prefix: str) -> None:
    """Raises ConfigError where fields that are right alone are at odds."""
    for name, inner in (("pretrain", config.pretrain), ("judge", config.judge)):
        if inner is not None:
            check(inner, f"{prefix}.{name}")
    check_task(config, prefix)
    data, optim = config.data, config.optim
    if config.pretrained and config.pretrain is not None:
        raise ConfigError(
            f"{prefix}.pretrained = {config.pretrained!r} and {prefix}.pretrain are "
            "both set; a run starts from one of them"
        )
    check_pretrained(config, prefix)
    if config.shard_params and config.compile != "jit":
        raise ConfigError(
            f"{prefix}.shard_params cannot be had with {prefix}.compile = "
            f"{config.compile!r}, whose devices hold the whole state; take 'jit'"
        )
    sources.check(data.source, f"{prefix}.data.source")
    operations.check(data.augment)
    if config.loss.class_weights and not any(config.loss.class_weights):
        raise ConfigError(
            f"{prefix}.loss.class_weights = {config.loss.class_weights} weigh nothing"
        )
    if config.loss.balanced and config.loss.class_weights:
        raise ConfigError(
            f"{prefix}.loss.balanced and {prefix}.loss.class_weights are both set"
        )
    if data.val_fraction + data.test_fraction >= 1:
        raise ConfigError(
            f"{prefix}.data.val_fraction = {data.val_fraction} and test_fraction = "
            f"{data.test_fraction} leave nothing to train on"
        )
    if min(data.std, default=1) <= 0:
        raise ConfigError(f"{prefix}.data.std = {data.std} must be above 0")
    check_plan(config, prefix)
    if not config.num_epochs:
        check_steps(config, prefix)
    if optim.warmup_steps and optim.schedule == "one_cycle":
        raise ConfigError(
            f"{prefix}.optim.warmup_steps = {optim.warmup_steps} must be 0 with the "
            "one_cycle schedule, which warms up by itself"
        )


def check_task(config, prefix: str) -> None:
    """Raises ConfigError where a model is none of the task's, or settings need one."""
    models = MODELS_OF[config.task]
    if config.model.name not in models:
        raise ConfigError(
            f"{prefix}.model.name = {config.model.name!r} is no model of "
            f"{prefix}.task = {config.task!r}; choose from: {', '.join(models)}"
        )
    if config.task == "classification":
        return
    if config.pretrained or config.pretrain is not None:
        raise ConfigError(
            f"{prefix}.pretrained and {prefix}.pretrain are for {prefix}.task = "
            f"'classification'; {config.task!r} begins at random weights"
        )
    for name in ("remat", "dropout", "stochastic_depth"):
        if getattr(config.model, name):
            raise ConfigError(
                f"{prefix}.model.{name} is for {prefix}.task = 'classification', not "
                f"for {config.task!r}"
            )
    if config.plan.rows or config.plan.preset != "full":
        raise ConfigError(
            f"{prefix}.plan is for {prefix}.task = 'classification'; in "
            f"{config.task!r} everything trains"
        )
    if config.judge is not None and config.judge.task != "classification":
        raise ConfigError(
            f"{prefix}.judge.task = {config.judge.task!r} must be 'classification'"
        )
    if config.task == "gan" and not config.gan.judge and config.judge is None:
        raise ConfigError(
            f"{prefix}.task = 'gan' needs a classifier to measure samples by: set "
            f"{prefix}.judge, a run to be made first, or {prefix}.gan.judge"
        )


def check_plan(config, prefix: str) -> None:
    """Raises ConfigError where the plan is at odds with itself or the optimiser."""
    plan, optim = config.plan, config.optim
    if plan.rows and plan.preset != "full":
        raise ConfigError(
            f"{prefix}.plan.preset = {plan.preset!r} and {prefix}.plan.rows are both "
            f"set; rows stand in place of a preset; --{prefix}.plan.rows='()' takes "
            "them away"
        )
    if plan.rows and plan.batch_norm != "auto":
        raise ConfigError(
            f"{prefix}.plan.batch_norm = {plan.batch_norm!r} is for presets; with "
            f"{prefix}.plan.rows each row has its own"
        )
    if plan.preset == "bn_only" and plan.batch_norm == "frozen":
        raise ConfigError(
            f"{prefix}.plan.preset = 'bn_only' trains BatchNorm, and "
            f"{prefix}.plan.batch_norm = 'frozen' freezes it; take the preset head"
        )
    for number, row in enumerate(plan.rows):
        if row.unfreeze_at and not row.train and row.batch_norm != "train":
            raise ConfigError(
                f"{prefix}.plan.rows[{number}].unfreeze_at = {row.unfreeze_at}, but "
                "train = False: the row never trains"
            )
    if optim.decay_towards == "start":
        if not config.pretrained and config.pretrain is None:
            raise ConfigError(
                f"{prefix}.optim.decay_towards = 'start' needs weights to start from: "
                f"set {prefix}.pretrained or {prefix}.pretrain"
            )
        if not (optim.weight_decay or any(row.weight_decay for row in plan.rows)):
            raise ConfigError(
                f"{prefix}.optim.decay_towards = 'start' needs "
                f"{prefix}.optim.weight_decay above 0, how strongly weights decay"
            )
        if optim.name in TRUST_RATIOS:
            raise ConfigError(
                f"{prefix}.optim.decay_towards = 'start' cannot be had with "
                f"{prefix}.optim.name = {optim.name!r}, whose steps are as long as the "
                "weights; take adamw or momentum"
            )
    if optim.sam_radius and optim.accumulate_steps > 1:
        raise ConfigError(
            f"{prefix}.optim.sam_radius = {optim.sam_radius} needs "
            f"{prefix}.optim.accumulate_steps = 1, not {optim.accumulate_steps}: it "
            "takes a gradient of its own in each step"
        )
    entry, pretrain = config.transfer.entry, config.pretrain
    averaged = pretrain is not None and pretrain.optim.ema_decay > 0
    if pretrain is not None and entry and not (entry == "ema" and averaged):
        raise ConfigError(
            f"{prefix}.transfer.entry = {entry!r} must be 'ema' with "
            f"{prefix}.pretrain, and {prefix}.pretrain.optim.ema_decay above 0"
        )
    if config.patience and not config.eval_every:
        raise ConfigError(
            f"{prefix}.patience = {config.patience} needs {prefix}.eval_every above 0"
        )


def check_steps(config, prefix: str) -> None:
    """Raises ConfigError where settings are at odds with the number of steps."""
    optim = config.optim
    for number, row in enumerate(config.plan.rows):
        check_unfreezing(config, row.unfreeze_at, f"{prefix}.plan.rows[{number}].")
    if optim.warmup_steps >= config.num_steps:
        raise ConfigError(
            f"{prefix}.optim.warmup_steps = {optim.warmup_steps} must be below "
            f"{prefix}.num_steps = {config.num_steps}"
        )
    for name, steps in (
        ("num_steps", config.num_steps),
        ("optim.warmup_steps", optim.warmup_steps),
        ("optim.decay_every", optim.decay_every if optim.schedule == "step" else 0),
    ):
        if steps % optim.accumulate_steps:
            raise ConfigError(
                f"{prefix}.{name} = {steps} must be a multiple of "
                f"{prefix}.optim.accumulate_steps = {optim.accumulate_steps}"
            )


def check_dealing(config, batch_size: int, num_devices: int) -> None:
    """Raises ConfigError where a GAN's steps of the discriminator cannot share a batch.

    They have equal parts of it; under `pmap`, of the part that each device has.
    """
    steps = config.gan.discriminator_steps
    parts = num_devices if config.compile == "pmap" else 1
    if config.task == "gan" and batch_size % batch_unit(config, num_devices):
        each = f", of which each device has {batch_size // parts}" if parts > 1 else ""
        raise ConfigError(
            f"config.gan.discriminator_steps = {steps} must divide the batch of "
            f"{batch_size} images{each}"
        )


def batch_unit(config, num_devices: int) -> int:
    """Returns the number that every batch is a multiple of."""
    if config.task != "gan":
        return num_devices
    steps = config.gan.discriminator_steps
    if config.compile == "pmap":
        return num_devices * steps
    return math.lcm(num_devices, steps)


def check_unfreezing(config, step: int, place: str) -> None:
    """Raises ConfigError where a step is none from which on a row can train."""
    every = config.optim.accumulate_steps
    if step >= config.num_steps:
        raise ConfigError(
            f"{place}unfreeze_at = {step} must be below num_steps = {config.num_steps}"
        )
    if step % every:
        raise ConfigError(
            f"{place}unfreeze_at = {step} must be a multiple of "
            f"optim.accumulate_steps = {every}"
        )


def check_pretrained(config, prefix: str) -> None:
    """Raises ConfigError where `pretrained` names nothing, or another architecture."""
    kind, _, place = config.pretrained.partition(":")
    if config.pretrained and (kind not in LOADERS or not place):
        raise ConfigError(
            f"{prefix}.pretrained = {config.pretrained!r} must be empty or "
            + " or ".join(FORMS)
        )
    if kind == "torchvision" and catalog.find(place).model != config.model.name:
        raise ConfigError(
            f"{prefix}.pretrained = {config.pretrained!r} is a "
            f"{catalog.find(place).model}; {prefix}.model.name = {config.model.name!r}"
        )
