"""Learning-rate schedules and the optax chain, by name."""

import functools

import jax
import optax

# Each entry takes (optim config, number of updates) and returns step -> learning rate.
# Warm-up is put in front of all but one_cycle, which has its own.
SCHEDULES = {
    "constant": lambda c, n: optax.constant_schedule(c.learning_rate),
    "step": lambda c, n: optax.exponential_decay(
        c.learning_rate, c.decay_every, c.decay_factor, staircase=True
    ),
    "linear": lambda c, n: optax.linear_schedule(
        c.learning_rate, c.final_factor * c.learning_rate, n
    ),
    "cosine": lambda c, n: optax.cosine_decay_schedule(
        c.learning_rate, n, c.final_factor
    ),
    "one_cycle": lambda c, n: optax.cosine_onecycle_schedule(n, c.learning_rate),
}


def coupled(make):
    """Returns an optimiser whose weight decay is L2: added to the gradient, as torch's.

    `make(optim config, learning rate)` makes the optimiser without decay.
    """

    def chain(config, learning_rate):
        decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
        return optax.chain(decay, make(config, learning_rate))

    return chain


def decoupled(make):
    """Returns an optimiser that subtracts learning rate * decay * weight by itself."""

    def chain(config, learning_rate):
        return make(learning_rate, weight_decay=config.weight_decay, mask=decay_mask)

    return chain


def sgd(config, learning_rate, momentum: bool = True, nesterov: bool = False):
    """Returns SGD; torch's momentum is optax's trace without dampening."""
    decay = config.momentum if momentum else None
    return optax.sgd(learning_rate, momentum=decay, nesterov=nesterov)


def adam(config, learning_rate, make=optax.adam):
    """Returns an optimiser of Adam's family with the config's b1, b2 and eps."""
    return make(learning_rate, b1=config.b1, b2=config.b2, eps=config.eps)


def rmsprop(config, learning_rate):
    """Returns RMSprop as in torch: eps outside the root, momentum after the scaling."""
    return optax.rmsprop(
        learning_rate, decay=config.rms_decay, eps=config.eps, eps_in_sqrt=False
    )


def adamw(config, learning_rate, make=optax.adamw):
    """Returns AdamW or NAdamW with the config's b1, b2 and eps."""
    make = functools.partial(make, b1=config.b1, b2=config.b2, eps=config.eps)
    return decoupled(make)(config, learning_rate)


# Each entry takes (optim config, learning rate or schedule). "gradient_descent" and
# "sgd" are one update; with data.batch_size=0, the whole training set, it is the first.
OPTIMIZERS = {
    "gradient_descent": coupled(functools.partial(sgd, momentum=False)),
    "sgd": coupled(functools.partial(sgd, momentum=False)),
    "momentum": coupled(sgd),
    "nesterov": coupled(functools.partial(sgd, nesterov=True)),
    "rmsprop": coupled(rmsprop),
    "adam": coupled(adam),
    "adamax": coupled(functools.partial(adam, make=optax.adamax)),
    "nadam": coupled(functools.partial(adam, make=optax.nadam)),
    "radam": coupled(functools.partial(adam, make=optax.radam)),
    "amsgrad": coupled(functools.partial(adam, make=optax.amsgrad)),
    "adabelief": coupled(functools.partial(adam, make=optax.adabelief)),
    "adagrad": coupled(lambda config, lr: optax.adagrad(lr, eps=config.eps)),
    "adadelta": coupled(lambda config, lr: optax.adadelta(lr)),
    "adamw": adamw,
    "nadamw": functools.partial(adamw, make=optax.nadamw),
    "lion": decoupled(optax.lion),
    "lamb": decoupled(optax.lamb),
    "lars": lambda config, lr: optax.lars(
        lr,
        weight_decay=config.weight_decay,
        weight_decay_mask=decay_mask,
        trust_ratio_mask=decay_mask,
        momentum=config.momentum,
    ),
}


def create_schedule(config, num_steps: int) -> optax.Schedule:
    """Returns update number -> learning rate, for `num_steps` training steps.

    The schedule counts updates, of which there is one every `accumulate_steps` steps.
    """
    num_updates = max(1, num_steps // config.accumulate_steps)
    warmup = config.warmup_steps // config.accumulate_steps
    if config.schedule == "one_cycle" or not warmup:
        return SCHEDULES[config.schedule](config, num_updates)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, warmup),
            SCHEDULES[config.schedule](config, max(1, num_updates - warmup)),
        ],
        boundaries=[warmup],
    )


def create_optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the chain: clip by global norm, decay weights, scale, accumulate."""
    tx = OPTIMIZERS[config.name](config, schedule)
    if config.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    if config.accumulate_steps > 1:
        steps = optax.MultiSteps(tx, every_k_schedule=config.accumulate_steps)
        tx = steps.gradient_transformation()
    return tx


def decay_mask(params):
    """Returns True for kernels, False for biases and BatchNorm's scales and offsets."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
