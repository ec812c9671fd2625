"""A trained network: its checkpoint in a workdir, and its program for new images."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from tljax import checkpoint, initial, parallel
from tljax.config import Config
from tljax.data import canvas
from tljax.data.canvas import Canvas
from tljax.data.transforms import Transform
from tljax.errors import CheckpointError, ConfigError, NonFiniteError, unknown
from tljax.metrics import read_late
from tljax.run import Saved, abstract_images, saved_transform
from tljax.tasks import TASKS

# The batches from which on a program is compiled anew where that makes it faster. On an
# Intel Xeon that of a ResNet-50 takes 1.7 s, and each batch of 8 images 50 ms less, in
# bfloat16 75 ms.
MANY = 100


def find(workdir: Path, step: str = "", entry: str = "") -> Saved:
    """Returns a checkpoint of the run in a workdir: "" the latest, "best", or a step.

    `entry` "ema" asks for the moving average in it. Raises ConfigError where it is not
    there, CheckpointError where it is damaged.
    """
    directory = workdir / "checkpoints"
    folder = checkpoint.latest(directory)
    if folder is None:
        raise ConfigError(
            f"workdir {workdir} holds no checkpoint: its run has not saved a step yet"
        )
    steps = sorted(int(path.name) for path in checkpoint.steps_in(directory))
    if step == "best":
        folder = checkpoint.best(directory)
        if folder is None:
            raise ConfigError(f"no step saved in {workdir} has been validated")
    elif step:
        folder = directory / step
        if step not in map(str, steps):
            raise ConfigError(unknown("--step", step, ["best", *steps]))
    return Saved(folder, checkpoint.read_meta(folder), entry)


class Network(NamedTuple):
    """A trained network, and what belongs to it."""

    class_names: tuple[str, ...]
    transform: Transform
    model: nn.Module
    variables: Any

    @property
    def canvas(self) -> Canvas:
        """The array that photographs of any shape are drawn on for it."""
        short, channels = self.transform.resize, channels_of(self.variables)
        return Canvas(short, canvas.MAX_ASPECT * short, channels)


def place(saved: Saved, found: Any, wanted: Any, mesh: Mesh) -> Any:
    """Returns the variables found in a checkpoint on all devices; checks them."""
    check(saved, found, wanted)
    return jax.device_put(found, parallel.replicated(mesh))


def check(saved: Saved, found: Any, wanted: Any) -> None:
    """Raises CheckpointError where variables found have other names or shapes."""
    differences = checkpoint.compare_shapes(
        checkpoint.shapes(found), checkpoint.shapes(wanted)
    )
    if differences:
        raise CheckpointError(
            f"checkpoint {saved.folder} is not of the network in config.json "
            f"(- unused, + missing, or other shapes): {'; '.join(differences)}"
        )


def restore(config: Config, saved: Saved, mesh: Mesh) -> Network:
    """Returns the network that was saved.

    Raises ConfigError where it has no classes or nobody knows the size of its images,
    CheckpointError where it is damaged or not that of the config.
    """
    transform = saved_transform(saved)
    if not 0 < transform.crop <= transform.resize:
        raise ConfigError(
            f"checkpoint {saved.folder} comes without the size of its images: "
            f"{transform.describe()}"
        )
    found = checkpoint.restore_variables(saved.folder, saved.entry)
    if "fc" not in found["params"]:
        raise ConfigError(f"the network in {saved.folder} has no head, so no classes")
    number = found["params"]["fc"]["bias"].size
    class_names = tuple(saved.meta["class_names"]) or tuple(map(str, range(number)))
    model = TASKS[config.task].create_model(config, number)
    image_shape = (transform.crop, transform.crop, channels_of(found))
    wanted = initial.shapes_of(model, image_shape)
    variables = place(saved, found, wanted, mesh)
    return Network(class_names, transform, model, variables)


def channels_of(variables: Any) -> int:
    """Returns the number of channels of the images that variables are for."""
    return variables["params"]["conv1"]["kernel"].shape[2]


def compile_predict(
    config: Config,
    model: nn.Module,
    transform: Transform,
    variables: Any,
    batch_size: int,
    canvas: Canvas,
    mesh: Mesh,
    num_images: int,
) -> jax.stages.Compiled:
    """Returns `predict(variables, batch)` compiled for batches on a canvas.

    It returns the log-probabilities [b, classes] that training evaluates, beside the
    mask of the batch. `num_images` is how many there will be.
    """
    predict = functools.partial(
        TASKS[config.task].predict, model=model, transform=transform, config=config
    )
    batch = abstract_images(batch_size, canvas)
    batch["mask"] = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
    program, _ = parallel.compile_step(
        lambda variables, batch: (predict(variables, batch), batch["mask"]),
        variables,
        batch,
        mesh=mesh,
        infers=True,
        often=num_images >= MANY * batch_size,
    )
    return program


def log_probabilities(
    program: jax.stages.Compiled,
    variables: Any,
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields log-probabilities [b, classes] and mask [b] of each batch, on the host.

    Raises NonFiniteError where one is not finite.
    """
    outputs = (
        program(variables, batch) for batch in parallel.shard_batches(batches, mesh)
    )
    for values, mask in read_late(outputs):
        if not np.isfinite(values[mask > 0]).all():
            raise NonFiniteError("the network's probabilities are not finite numbers")
        yield values, mask
