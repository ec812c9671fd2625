"""Which operations a model consists of: the calls that tracing it makes."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import ModuleType

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import command
from benchmarks.throughput import STEMS
from tljax import models
from tljax.tasks.classification import PRECISIONS


def define(values: flags.FlagValues) -> None:
    """Defines the flags that say which model is looked at, and at which size."""
    for name, default, doc in (
        ("model", "resnet50", "whose operations are measured"),
        ("stem", "standard", "of the model"),
        ("precision", "float32", "of all arrays, float32 or bfloat16"),
    ):
        flags.DEFINE_string(name, default, doc, flag_values=values)
    command.define_numbers(
        values,
        image_size=(224, "pixels"),
        batch_size=(8, "images"),
        repeats=(9, "turns of each form"),
    )


def check(values: flags.FlagValues) -> None:
    """Raises ConfigError where a flag is none of its choices."""
    command.check(values, model=models.MODELS, stem=STEMS, precision=PRECISIONS)


def dtype_of(values: flags.FlagValues) -> jnp.dtype:
    """Returns the dtype of all arrays."""
    return PRECISIONS[values.precision] or jnp.float32


def trace(values: flags.FlagValues, *notes: tuple[ModuleType, str, Callable]) -> None:
    """Traces a model in training; each (module, name, note) is told of its calls.

    `note` is called with the arguments of each call of module.name, before it.
    """
    model = models.create(values.model, stem=values.stem)
    shape = (values.batch_size, values.image_size, values.image_size, 3)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    init = functools.partial(model.init, train=True)
    with contextlib.ExitStack() as stack:
        for each in notes:
            stack.enter_context(noted(*each))
        jax.eval_shape(init, jax.random.key(0), images)


@contextlib.contextmanager
def noted(module: ModuleType, name: str, note: Callable) -> Iterator[None]:
    """Puts a function that calls `note` first in the place of module.name."""
    function = getattr(module, name)

    def call(*args, **options):
        note(*args, **options)
        return function(*args, **options)

    setattr(module, name, call)
    try:
        yield
    finally:
        setattr(module, name, function)
