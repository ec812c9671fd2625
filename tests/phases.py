"""Phases of plans for tests that call a step themselves."""

import jax
import jax.numpy as jnp

from tljax import plan
from tljax.plan import Phase, Row


def everything(model, image_shape, batch_norm="auto") -> Phase:
    """Returns the phase in which all parameters of a model train."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    row = Row("", batch_norm=batch_norm)
    return plan.resolve([row], plan.paths_of(variables["params"])).phases[0]
