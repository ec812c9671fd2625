"""The state of a training run."""

from typing import Any

import jax
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """Everything that a step reads and replaces, and all that a checkpoint holds.

    Attributes:
      step: int32, the number of steps done.
      params: nested dict of float32 parameters.
      batch_stats: nested dict of float32 BatchNorm statistics.
      opt_state: the state of the optax chain.
      key: a typed PRNG key that never changes: whatever draws numbers in a step folds
        the step's number into it, so that a resumed run draws the same again.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    key: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """The variables as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}
