"""The state of a training run."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from tljax import plan as plan_lib
from tljax.plan import Phase


@struct.dataclass
class TrainState:
    """Everything that a step reads and replaces, and all that a checkpoint holds.

    Attributes:
      step: int32, the number of steps done.
      params: nested dict of float32 parameters.
      batch_stats: nested dict of float32 BatchNorm statistics.
      opt_state: the state of the optax chain, of those parameters that train.
      ema: moving average of what trains, {"params": row -> parameters, "batch_stats"};
        {} where none is kept.
      key: a typed PRNG key that never changes: whatever draws numbers in a step folds
        the step's number into it, so that a resumed run draws the same again.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any
    key: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """The variables as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def averaged(self) -> dict[str, Any]:
        """The variables with the moving average in place of what trains."""
        return averaged(self.variables, self.ema)


def averaged(variables: dict[str, Any], ema: Any) -> dict[str, Any]:
    """Returns variables with their moving average in place of what trains."""
    params = plan_lib.join(variables["params"], ema["params"])
    return {"params": params, "batch_stats": ema["batch_stats"]}


def begin(
    variables: dict[str, Any],
    key: jax.Array,
    phase: Phase,
    tx: optax.GradientTransformation,
    *,
    keeps_average: bool,
) -> TrainState:
    """Returns the state of variables before the first step."""
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state={},
        ema={},
        key=key,
    )
    return enter_phase(state, phase, tx, keeps_average=keeps_average)


def enter_phase(
    state: TrainState,
    phase: Phase,
    tx: optax.GradientTransformation,
    *,
    keeps_average: bool,
) -> TrainState:
    """Returns the state with which the first step of a phase begins.

    What trained before goes on as it is; what joins has a new optimiser state, and a
    moving average that begins at its weights.
    """
    trained = plan_lib.split(state.params, phase)
    opt_state = carry_over(state.opt_state, tx.init(trained))
    ema = {}
    if keeps_average:
        # Copies: a step takes over the buffers of its state, each of them once.
        fresh = jax.tree.map(
            jnp.copy, {"params": trained, "batch_stats": state.batch_stats}
        )
        ema = carry_over(state.ema, fresh)
    return state.replace(opt_state=opt_state, ema=ema)


def carry_over(old: Any, fresh: Any) -> Any:
    """Returns the tree `fresh` with the leaves of `old` wherever it has them."""
    kept = dict(jax.tree_util.tree_leaves_with_path(old))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: kept.get(path, leaf), fresh
    )


def average(ema: Any, now: Any, optim, step: jax.Array) -> Any:
    """Returns the moving average after a step, of which `step` were done before.

    `optim` is that part of a Config. Updates count, of which there is one every
    `optim.accumulate_steps` steps. The decay rises to `optim.ema_decay` as
    (1 + updates) / (10 + updates), TensorFlow's rule: at first the average would be
    nothing but the start. What does not change is kept bit by bit.
    """
    every = optim.accumulate_steps
    updates = step // every
    rate = 1 - jnp.minimum(optim.ema_decay, (1 + updates) / (10 + updates))
    rate = jnp.where((step + 1) % every == 0, rate, 0.0)
    return jax.tree.map(lambda mean, new: mean + rate * (new - mean), ema, now)
