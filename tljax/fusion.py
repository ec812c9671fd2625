"""Products that take what comes after them into their loops: on CPUs, for inference."""

import functools
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from tljax.models.lowering import processor

# XLA has products computed by a library, YNNPACK, each alone by default. This grows
# them by what stands around, as BatchNorm and ReLU, so that the numbers between do not
# go through memory. Training is 1.3 times slower with it: statistics and gradients need
# these numbers in memory anyway. On an Intel Xeon of the fourth generation, which is
# known by its products of bfloat16, ResNets infer 1.04 to 1.10 times as fast without it
# with jax 0.10.2, 1.00 to 1.08 times with 0.12.
NAME = "xla_cpu_experimental_ynn_fusion_type"
GROWN = {NAME: "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}


def compiler_options(platform: str) -> Mapping[str, str]:
    """Returns the options for XLA of a program that infers.

    {} where they do not help, or XLA does not know them. Where XLA_FLAGS has the name,
    with whatever value, that is left as it is.
    """
    told = NAME in os.environ.get("XLA_FLAGS", "")
    helps = platform == "cpu" and not processor.multiplies_bfloat16()
    return GROWN if helps and not told and is_known() else {}


@functools.cache
def is_known() -> bool:
    """Returns whether XLA has the option, which is one of its experiments."""
    program = jax.jit(jnp.negative, compiler_options=GROWN)
    try:
        program.lower(jax.ShapeDtypeStruct((), jnp.float32)).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
