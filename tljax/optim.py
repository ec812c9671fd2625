"""Learning-rate schedules and the optax chain, by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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


DECAY_TOWARDS = ("zero", "start")
# Optimisers whose step is as long as the weights are, and which must see them whole.
TRUST_RATIOS = ("lamb", "lars")


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


def create_optimizer(
    config, schedule: optax.Schedule, rows: Mapping[str, Any] | None = None
) -> optax.GradientTransformation:
    """Returns the chain: clip by global norm, decay weights, scale; or accumulate.

    `rows` are those of a plan: parameters, gradients and state are then dicts from the
    names of the rows that train, each with a learning rate and a decay of its own,
    while the norms of clipping and of SAM are over all of them. With
    `config.sam_radius`, `update` needs a `grad_fn(params, _)`.
    """
    if rows is None:
        tx = OPTIMIZERS[config.name](config, schedule)
    else:
        tx = by_row(
            {name: create_for_row(config, schedule, row) for name, row in rows.items()}
        )
    if config.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    if config.accumulate_steps > 1:
        steps = optax.MultiSteps(tx, every_k_schedule=config.accumulate_steps)
        tx = steps.gradient_transformation()
    if config.sam_radius:
        # Foret et al. 2021 (arXiv 2010.01412).
        tx = optax.contrib.sam(tx, uphill(config.sam_radius), opaque_mode=True)
    return tx


def uphill(radius: float) -> optax.GradientTransformation:
    """Returns a step of length `radius` down the gradient, which SAM turns around.

    A gradient of 0 makes none, where optax.contrib.normalize would divide by it.
    """

    def scaled(grads, params):
        factor = radius / (optax.tree.norm(grads) + 1e-12)
        return jax.tree.map(lambda grad: -factor * grad, grads)

    return optax.stateless(scaled)


def create_for_row(
    config, schedule: optax.Schedule, row
) -> optax.GradientTransformation:
    """Returns the optimiser of the parameters of a row.

    It begins to count at the step at which the row joins, when the schedule of the run
    is already further on.
    """
    if row.weight_decay is not None:
        config = dataclasses.replace(config, weight_decay=row.weight_decay)
    begun = row.unfreeze_at // config.accumulate_steps
    tx = OPTIMIZERS[config.name](
        config, lambda count: row.learning_rate * schedule(count + begun)
    )
    return towards_start(tx) if config.decay_towards == "start" else tx


def by_row(
    transforms: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Returns each transformation for the parameters under its name.

    Names that the parameters lack have no part in it, and no state.
    """

    def init(params):
        return {name: transforms[name].init(tree) for name, tree in params.items()}

    def update(grads, state, params):
        updates, states = {}, {}
        for name, tree in grads.items():
            updates[name], states[name] = transforms[name].update(
                tree, state[name], params[name]
            )
        return updates, states

    return optax.GradientTransformation(init, update)


class TowardsStart(NamedTuple):
    """The kernels at the beginning, and the state of the optimiser within."""

    start: Any
    inner: optax.OptState


def towards_start(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` whose weight decay is towards the weights it is initialised with.

    L2-SP, Li et al. 2018 (arXiv 1802.01483): `tx` sees the way that each kernel has
    gone in place of the kernel. The last layer, `fc`, decays to zero, as there.
    """

    def start_of(path, leaf):
        decays = decay_mask(leaf) and path[0].key != "fc"
        return jnp.copy(leaf) if decays else jnp.zeros((), leaf.dtype)

    def init(params):
        start = jax.tree_util.tree_map_with_path(start_of, params)
        return TowardsStart(start, tx.init(params))

    def update(grads, state, params):
        way = jax.tree.map(jnp.subtract, params, state.start)
        updates, inner = tx.update(grads, state.inner, way)
        return updates, TowardsStart(state.start, inner)

    return optax.GradientTransformation(init, update)
