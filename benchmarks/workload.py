"""What is measured: the very step of a run, made with few imports.

`tljax.run` knows data sets, files and reports, and imports what those need. Here a bare
accelerator machine will do: jax, flax, optax, absl, numpy and ml_collections. A test
holds the program to that of `tljax.programs`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.work import Work, settings, transform_of
from tljax import initial, optim, parallel, plan, presets
from tljax.data import views
from tljax.errors import ConfigError, RunError
from tljax.tasks import TASKS, classification

# Images to choose from, in batches.
BATCHES = 2


class Program(NamedTuple):
    """A compiled step with all that it needs.

    Attributes:
      step: of one step, before it was compiled, with `arguments` (shapes and dtypes).
      compiled: what runs, `steps_per_call` steps at once.
      seconds: that tracing and compiling took.
      take: makes so many calls and waits for them.
    """

    work: Work
    mesh: Mesh
    step: Callable[..., Any]
    arguments: tuple[Any, ...]
    compiled: jax.stages.Compiled
    seconds: float
    take: Callable[[int], None]


def prepare(work: Work, images: dict[str, np.ndarray] | None = None) -> Program:
    """Returns the program of `work`, compiled, on images made up unless given.

    `images` is {"image": uint8 [n, h, w, c], "label": int32 [n]}. Raises ConfigError
    for what cannot be run.
    """
    mesh = parallel.create_mesh(work.devices, work.num_devices)
    parallel.check_batch_size(work.batch_size, mesh)
    if work.steps_per_call > 1 and work.phase != "train":
        raise ConfigError("--steps_per_call is for --phase=train")
    images = make_images(work) if images is None else images
    stored = images if work.input == "device" else {}
    with usable(work), enough_memory(work, ConfigError):
        step, state = STEPS[work.phase](work)
        one = next(batches(work, images, 1))
        arguments = tuple(map(shapes, (state, one, stored)))
        first = shapes(next(batches(work, images, work.steps_per_call)))
        compiled, seconds = parallel.compile_step(
            step,
            arguments[0],
            first,
            arguments[2],
            mesh=mesh,
            mode=work.compile,
            steps_per_call=work.steps_per_call,
            donate_state=work.phase == "train",
            infers=work.phase == "infer",
            often=work.often,
        )
        take = make_take(work, mesh, compiled, state, images, stored)
    return Program(work, mesh, step, arguments, compiled, seconds, take)


def train(work: Work) -> tuple[Callable[..., Any], Any]:
    """Returns `train_step(state, batch, stored)` and the state before step 1."""
    config, task = settings(work), TASKS[work.task]
    shape = (work.image_size, work.image_size, work.channels)
    model = task.create_model(config, work.num_classes, shape)
    paths = plan.paths_of(initial.shapes_of(model, shape)["params"])
    rows = presets.PRESETS[config.plan.preset](config.plan, paths, config.num_steps)
    resolved = plan.resolve(rows, paths)
    schedule = optim.create_schedule(config.optim, config.num_steps)
    tx = task.create_optimizer(config, schedule, resolved.rows)
    parts = {"model": model, "tx": tx, "phase": resolved.phases[0], "config": config}
    create_state = functools.partial(task.create_state, image_shape=shape, **parts)
    state = jax.eval_shape(create_state, jax.random.key(0))
    step = functools.partial(
        task.train_step, schedule=schedule, transform=transform_of(work), **parts
    )
    return lambda state, batch, stored: step(state, views.gather(batch, stored)), state


def infer(work: Work) -> tuple[Callable[..., Any], Any]:
    """Returns `predict(variables, batch, stored)`, log-probabilities, and variables."""
    config = settings(work)
    model = classification.create_model(config, work.num_classes)
    shape = (work.image_size, work.image_size, work.channels)
    variables = initial.shapes_of(model, shape)
    predict = functools.partial(
        classification.predict,
        model=model,
        transform=transform_of(work),
        config=config,
    )
    return lambda there, batch, stored: predict(
        there, views.gather(batch, stored)
    ), variables


STEPS = {"train": train, "infer": infer}


def make_images(work: Work) -> dict[str, np.ndarray]:
    """Returns noise with labels, for BATCHES batches."""
    rng = np.random.default_rng(0)
    number = BATCHES * work.batch_size
    shape = (number, work.image_size, work.image_size, work.channels)
    labels = rng.integers(0, work.num_classes, number, np.int32)
    return {"image": rng.integers(0, 256, shape, np.uint8), "label": labels}


def batches(
    work: Work, images: dict[str, np.ndarray], steps: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches in random order without end: places, or the images themselves.

    With more than one of `steps`, they are stacked, [steps, b, ...], and come with
    their number, as a run has them.
    """
    rng = np.random.default_rng(1)
    shape = (steps, work.batch_size) if steps > 1 else (work.batch_size,)
    number = {"steps": np.int32(steps)} if steps > 1 else {}
    while True:
        places = rng.integers(0, len(images["label"]), shape, np.int32)
        if work.input == "device":
            yield {"index": places} | number
        else:
            yield {name: values[places] for name, values in images.items()} | number


def make_take(work: Work, mesh: Mesh, compiled, state, images, stored):
    """Returns the function that makes so many calls and waits for them."""
    state, stored = parallel.replicate((draw(state), stored), mesh)
    coming = parallel.shard_batches(batches(work, images, work.steps_per_call), mesh)

    def take(count: int) -> None:
        nonlocal state
        with enough_memory(work, RunError):
            for _ in range(count):
                found = compiled(state, next(coming), stored)
                if work.phase == "train":
                    state, found = found
            jax.block_until_ready(found)

    return take


def draw(abstract: Any) -> Any:
    """Returns arrays for shapes: what layers begin with, drawn without compiling.

    Kernels have He's variance, scales and variances are 1, all else is 0.
    """
    rng = np.random.default_rng(0)

    def leaf(path, like):
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        names = [getattr(key, "name", getattr(key, "key", "")) for key in path]
        if "opt_state" in names:
            return np.zeros(like.shape, like.dtype)
        if names[-1] == "kernel":
            fan_out = np.prod(like.shape) / like.shape[-2]
            values = rng.standard_normal(like.shape, np.float32)
            return values * np.float32((2 / fan_out) ** 0.5)
        return np.full(like.shape, names[-1] in ("scale", "var"), like.dtype)

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def shapes(tree: Any) -> Any:
    """Returns shapes and dtypes of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@contextlib.contextmanager
def usable(work: Work) -> Iterator[None]:
    """Turns what a model says of images it cannot be built for into ConfigError."""
    try:
        yield
    except (ValueError, ZeroDivisionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"--model={work.model} with --image_size={work.image_size} and "
            f"--batch_size={work.batch_size}: {reason}"
        ) from error


@contextlib.contextmanager
def enough_memory(work: Work, kind: type[RunError]) -> Iterator[None]:
    """Turns memory that ran out into one line of the `kind`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise kind(
            f"out of memory with --batch_size={work.batch_size} and "
            f"--image_size={work.image_size}: {str(error).splitlines()[0]}"
        ) from error
