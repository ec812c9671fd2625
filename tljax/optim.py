"""Learning-rate schedules and the optax chain, by name."""

from typing import Any

import jax
import optax
from flax import traverse_util

# Each entry takes (optim config, number of updates) and returns update -> rate. Warm-up
# is put in front of all but one_cycle, which has its own.
SCHEDULES = {
    "constant": lambda c, n: optax.constant_schedule(c.learning_rate),
    "step": lambda c, n: optax.exponential_decay(
        c.learning_rate,
        c.decay_every // c.accumulate_steps,
        c.decay_factor,
        staircase=True,
    ),
    "linear": lambda c, n: optax.linear_schedule(
        c.learning_rate, c.final_factor * c.learning_rate, n
    ),
    "cosine": lambda c, n: optax.cosine_decay_schedule(
        c.learning_rate, n, c.final_factor
    ),
    "one_cycle": lambda c, n: optax.cosine_onecycle_schedule(n, c.learning_rate),
}


# What fine-tuning does with BatchNorm: train it; normalise with the statistics of the
# weights; leave its scales and offsets alone as well.
BATCH_NORMS = ("train", "frozen_statistics", "frozen")


def decay_mask(params: Any) -> Any:
    """Returns True for kernels, False for biases and BatchNorm's scales and offsets."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def l2(config, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` behind weight decay that is added to the gradient, as torch does."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask), tx
    )


def decoupled(config) -> dict[str, Any]:
    """Returns the arguments of weight decay by learning rate * decay * weight."""
    return {"weight_decay": config.weight_decay, "mask": decay_mask}


def betas(config) -> dict[str, float]:
    """Returns the decay rates of Adam's family."""
    return {"b1": config.b1, "b2": config.b2}


def moments(config) -> dict[str, float]:
    """Returns the decay rates and the eps of Adam's family."""
    return betas(config) | {"eps": config.eps}


# Each entry takes (optim config, learning rate or schedule). "gradient_descent" and
# "sgd" are one update; with data.batch_size=0, the whole training set, it is the first.
OPTIMIZERS = {
    "gradient_descent": lambda c, lr: l2(c, optax.sgd(lr)),
    "sgd": lambda c, lr: l2(c, optax.sgd(lr)),
    "momentum": lambda c, lr: l2(c, optax.sgd(lr, c.momentum)),
    "nesterov": lambda c, lr: l2(c, optax.sgd(lr, c.momentum, nesterov=True)),
    # torch adds eps to the root, optax by default under it.
    "rmsprop": lambda c, lr: l2(
        c, optax.rmsprop(lr, c.rms_decay, c.eps, eps_in_sqrt=False)
    ),
    "adagrad": lambda c, lr: l2(c, optax.adagrad(lr, eps=c.eps)),
    "adadelta": lambda c, lr: l2(c, optax.adadelta(lr)),
    "adam": lambda c, lr: l2(c, optax.adam(lr, **moments(c))),
    "adamax": lambda c, lr: l2(c, optax.adamax(lr, **moments(c))),
    "nadam": lambda c, lr: l2(c, optax.nadam(lr, **moments(c))),
    "radam": lambda c, lr: l2(c, optax.radam(lr, **moments(c))),
    "amsgrad": lambda c, lr: l2(c, optax.amsgrad(lr, **moments(c))),
    "adabelief": lambda c, lr: l2(c, optax.adabelief(lr, **moments(c))),
    "adamw": lambda c, lr: optax.adamw(lr, **moments(c), **decoupled(c)),
    "nadamw": lambda c, lr: optax.nadamw(lr, **moments(c), **decoupled(c)),
    "lamb": lambda c, lr: optax.lamb(lr, **moments(c), **decoupled(c)),
    "lion": lambda c, lr: optax.lion(lr, **betas(c), **decoupled(c)),
    "lars": lambda c, lr: optax.lars(
        lr, c.weight_decay, decay_mask, trust_ratio_mask=decay_mask, momentum=c.momentum
    ),
}


def create_schedule(config, num_steps: int) -> optax.Schedule:
    """Returns update number -> learning rate, for `num_steps` training steps.

    There is one update every `accumulate_steps` steps. `config` is the `optim` part of
    a Config.
    """
    num_updates = num_steps // config.accumulate_steps
    warmup = config.warmup_steps // config.accumulate_steps
    schedule = SCHEDULES[config.schedule](config, num_updates - warmup)
    if not warmup:
        return schedule
    rise = optax.linear_schedule(0.0, config.learning_rate, warmup)
    return optax.join_schedules([rise, schedule], boundaries=[warmup])


def create_optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the chain: clip by global norm, decay weights, scale; or accumulate."""
    tx = OPTIMIZERS[config.name](config, schedule)
    if config.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    if config.accumulate_steps > 1:
        steps = optax.MultiSteps(tx, every_k_schedule=config.accumulate_steps)
        tx = steps.gradient_transformation()
    return tx


def freeze_batch_norm(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` for all but BatchNorm's scales and offsets, which never change."""

    def labels(params):
        flat = traverse_util.flatten_dict(params)
        frozen = {path[:-1] for path in flat if path[-1] == "scale"}
        return traverse_util.unflatten_dict(
            {path: "frozen" if path[:-1] in frozen else "trained" for path in flat}
        )

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)
