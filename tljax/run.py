"""What a run consists of: its parts, its first state, its two compiled steps."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from tljax import checkpoint, optim, parallel, workdirs
from tljax.config import Config
from tljax.data import augment, sources
from tljax.errors import CheckpointError, ConfigError
from tljax.pretrained import transplant, weights
from tljax.state import TrainState
from tljax.tasks import TASKS


class Run(NamedTuple):
    """What a config stands for: data, devices, model, optimiser; nothing compiled."""

    config: Config
    task: Any
    mesh: Mesh
    source: sources.Source
    batch_size: int
    model: nn.Module
    schedule: optax.Schedule
    tx: optax.GradientTransformation

    def create_state(self) -> TrainState:
        """Returns the random state before the first step."""
        return self.task.create_state(
            jax.random.key(self.config.seed),
            self.source.image_shape,
            model=self.model,
            tx=self.tx,
        )

    def abstract_state(self) -> TrainState:
        """Returns shapes and dtypes of the state; raises ConfigError if it has none."""
        try:
            return jax.eval_shape(self.create_state)
        except (ValueError, ZeroDivisionError) as error:
            reason = str(error).split("\n")[0]
            raise ConfigError(
                f"config.model cannot be built for images of {self.source.image_shape}"
                f": {reason}"
            ) from error

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of a training batch."""
        image_shape = (self.batch_size, *self.source.image_shape)
        return {
            "image": jax.ShapeDtypeStruct(image_shape, jnp.uint8),
            "label": jax.ShapeDtypeStruct((self.batch_size,), jnp.int32),
        }

    def describe(self) -> str:
        """Returns one line on model, data and devices."""
        height, width, channels = self.source.image_shape
        sizes = ", ".join(
            f"{len(split.labels):,} {name}"
            for name, split in self.source.splits.items()
        )
        params = self.abstract_state().params
        parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        return (
            f"{self.config.model.name}, {parameters:,} parameters; "
            f"{self.config.data.source}, {sizes} images of {height}x{width}x{channels} "
            f"in {len(self.source.class_names)} classes; batch {self.batch_size} on "
            f"{self.mesh.size} {self.mesh.devices.flat[0].platform} device(s)"
        )


def prepare(config: Config) -> Run:
    """Returns the parts of a run; raises RunError for what cannot be had."""
    task = TASKS[config.task]
    mesh = parallel.create_mesh(config.device, config.num_devices)
    source = sources.load(config.data)
    augment.check_statistics(config.data, source.image_shape[-1])
    num_images = len(source.splits["train"].labels)
    batch_size = config.data.batch_size or num_images
    if batch_size > num_images:
        raise ConfigError(
            f"config.data.batch_size = {batch_size}, but there are {num_images} "
            "training images (0 takes them all)"
        )
    parallel.check_batch_size(batch_size, mesh)
    model = task.create_model(config, len(source.class_names))
    schedule = optim.create_schedule(config.optim, config.num_steps)
    tx = optim.create_optimizer(config.optim, schedule)
    return Run(config, task, mesh, source, batch_size, model, schedule, tx)


def check_origin(run: Run) -> None:
    """Raises ConfigError where the weights to start from do not fit or are not there.

    Those of `config.pretrain` need not be trained for that: their shapes are enough.
    """
    config = run.config
    if config.pretrain is not None:
        variables = prepare(config.pretrain).abstract_state().variables
        model = workdirs.as_json(config.pretrain)["model"]
        given = weights.Weights(variables, (), model, "config.pretrain")
    elif config.pretrained:
        given = weights.load(config.pretrained)
    else:
        return
    transplant.check(given, run.abstract_state().variables)


class Start(NamedTuple):
    """Where training begins or goes on.

    Attributes:
      state: the state at `step`, on the devices.
      step: steps already done.
      meta: what is saved beside every state: config, class names, origin.
      news: one line on how the state came to be.
    """

    state: TrainState
    step: int
    meta: dict[str, Any]
    news: str


def begin_or_resume(run: Run, origin: str, workdir: Path) -> Start:
    """Returns the start of a run: resume beats pretrained beats scratch.

    `origin` names weights as `config.pretrained` does; "" is a random start. Raises
    CheckpointError for a checkpoint that is damaged or of another config, ConfigError
    for weights that do not fit.
    """
    meta = {
        "config": workdirs.as_json(run.config),
        "class_names": list(run.source.class_names),
    }
    folder = checkpoint.latest(workdir / "checkpoints")
    if folder is not None:
        return resume(run, folder, meta)
    replicated = parallel.replicated(run.mesh)
    create = jax.jit(run.create_state, out_shardings=replicated)
    if not origin:
        return Start(create(), 0, meta | {"started_from": "scratch"}, "from scratch")
    given = weights.load(origin)
    transplant.check(given, run.abstract_state().variables)
    state = create()
    variables, news = transplant.transplant(
        given, state.variables, run.source.class_names
    )
    state = state.replace(**jax.device_put(variables, replicated))
    return Start(state, 0, meta | {"started_from": given.origin}, news)


def resume(run: Run, folder: Path, meta: dict[str, Any]) -> Start:
    """Returns the start at the state saved in `folder`."""
    saved = checkpoint.read_meta(folder)
    differences = workdirs.compare(saved["config"], meta["config"])
    if differences:
        raise CheckpointError(
            f"checkpoint {folder} is of another run: {', '.join(differences)}"
        )
    replicated = parallel.replicated(run.mesh)
    state = checkpoint.restore(folder, run.abstract_state(), replicated)
    news = f"resumed at step {folder.name}, started from {saved['started_from']}"
    return Start(state, int(folder.name), saved, news)


class Programs(NamedTuple):
    """The two compiled steps, and the seconds that tracing and compiling them took."""

    train_step: jax.stages.Compiled
    eval_step: jax.stages.Compiled
    seconds: float


def compile_steps(run: Run, state: TrainState) -> Programs:
    """Returns both steps compiled for `state`, of which shapes and dtypes are used."""
    config, model = run.config, run.model
    batch = run.abstract_batch()
    eval_batch = batch | {"mask": jax.ShapeDtypeStruct((run.batch_size,), jnp.float32)}
    compile_step = functools.partial(
        parallel.compile_step, mesh=run.mesh, mode=config.compile
    )
    train_step, train_seconds = compile_step(
        functools.partial(
            run.task.train_step,
            model=model,
            tx=run.tx,
            schedule=run.schedule,
            config=config,
        ),
        state,
        batch,
        donate_state=True,
    )
    eval_step, eval_seconds = compile_step(
        functools.partial(run.task.eval_step, model=model, config=config),
        state,
        eval_batch,
    )
    return Programs(train_step, eval_step, train_seconds + eval_seconds)
