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

    def value_and_grad(trained):
        def loss_of(trained):
            return loss_fn(plan_lib.join(state.params, trained))

        found, grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        return found, devices.mean(grads)

    trained = plan_lib.split(state.params, phase)
    (loss, (batch_stats, told)), grads = value_and_grad(trained)
    updates, opt_state = optax.with_extra_args_support(tx).update(
        grads,
        state.opt_state,
        trained,
        grad_fn=lambda there, _: value_and_grad(there)[1],  # SAM takes another.
    )
    trained = optax.apply_updates(trained, updates)
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
