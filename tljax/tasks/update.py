"""The update of a network by the gradient of its loss."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax import plan as plan_lib
from tljax.models import devices
from tljax.plan import Phase
from tljax.state import TrainState, average


def take_step(
    trained: Any,
    loss_fn: Callable[[Any], tuple[jax.Array, Any]],
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
) -> tuple[Any, optax.OptState, tuple[jax.Array, Any], Any]:
    """Returns what trains and the optimiser's state a step on, what was found, grads.

    Found are the loss of what trains and all that `loss_fn` returns with it. Gradients
    are those of the batch of all devices.
    """

    def value_and_grad(trained):
        found, grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        return found, devices.mean(grads)

    found, grads = value_and_grad(trained)
    updates, opt_state = optax.with_extra_args_support(tx).update(
        grads,
        opt_state,
        trained,
        grad_fn=lambda there, _: value_and_grad(there)[1],  # SAM takes another.
    )
    return optax.apply_updates(trained, updates), opt_state, found, grads


def descend(
    state: TrainState,
    loss_fn: Callable[[Any], tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]],
    *,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    phase: Phase,
    config,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state one step on, and scalars of the step in the loss's dtype.

    `loss_fn` returns, for the params, the loss, statistics, and scalars to tell beside
    it. What does not train in the phase is not differentiated. The metric `finite` is 1
    where loss, gradients, and the parameters and statistics that they change all are
    numbers.
    """
    trained, opt_state, (loss, (batch_stats, told)), grads = take_step(
        plan_lib.split(state.params, phase),
        lambda trained: loss_fn(plan_lib.join(state.params, trained)),
        tx,
        state.opt_state,
    )
    ema = state.ema
    if ema:
        now = {"params": trained, "batch_stats": batch_stats}
        ema = average(ema, now, config.optim, state.step)

    grad_norm = optax.tree.norm(grads)
    state_norm = optax.tree.norm((trained, batch_stats))
    loss, told = devices.mean((loss, told))
    metrics = {
        "loss": loss,
        **told,
        "learning_rate": schedule(state.step // config.optim.accumulate_steps),
        "grad_norm": grad_norm,
        "finite": jnp.isfinite(loss + grad_norm + state_norm),
    }
    metrics = jax.tree.map(functools.partial(jnp.asarray, dtype=loss.dtype), metrics)
    state = state.replace(
        step=state.step + 1,
        params=plan_lib.join(state.params, trained),
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=ema,
    )
    return state, metrics
