"""What a run consists of: its parts, its first state, its two compiled steps."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from tljax import checkpoint, optim, parallel, workdirs
from tljax.config import Config
from tljax.data import sources, transforms
from tljax.data.transforms import Transform
from tljax.errors import CheckpointError, ConfigError
from tljax.pretrained import adapt, transplant, weights
from tljax.pretrained.weights import Weights
from tljax.state import TrainState
from tljax.tasks import TASKS


class Saved(NamedTuple):
    """Where a run goes on from: the folder of a checkpoint, and its `meta`."""

    folder: Path
    meta: dict[str, Any]


class Run(NamedTuple):
    """What a config stands for: data, devices, model, optimiser; nothing compiled.

    `given` are the weights to start from, None for a random start and where the run
    goes on from what is `saved`; `transform` is how images are made in it.
    """

    config: Config
    task: Any
    mesh: Mesh
    source: sources.Source
    batch_size: int
    saved: Saved | None
    given: Weights | None
    transform: Transform
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

    def keeps_head(self) -> bool:
        """Returns whether the head of the given weights is taken."""
        head, class_names = self.config.transfer.head, self.source.class_names
        return transplant.keeps_head(self.given, class_names, head)

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


def prepare(config: Config, workdir: Path | None = None) -> Run:
    """Returns the parts of a run; raises RunError for what cannot be had.

    Where a run stands in `workdir` already, it goes on from there, and the weights that
    it once started from are not looked at any more.
    """
    task = TASKS[config.task]
    mesh = parallel.create_mesh(config.device, config.num_devices)
    source = sources.load(config.data)
    num_images = len(source.splits["train"].labels)
    batch_size = config.data.batch_size or num_images
    if batch_size > num_images:
        raise ConfigError(
            f"config.data.batch_size = {batch_size}, but there are {num_images} "
            "training images (0 takes them all)"
        )
    parallel.check_batch_size(batch_size, mesh)
    saved = find_saved(workdir) if workdir is not None else None
    given = None if saved else load_given(config, source)
    transform = choose_transform(config, source, saved, given)
    model = task.create_model(config, len(source.class_names))
    schedule = optim.create_schedule(config.optim, config.num_steps)
    tx = optim.create_optimizer(config.optim, schedule)
    if config.transfer.batch_norm == "frozen":
        tx = optim.freeze_batch_norm(tx)
    run = Run(
        config, task, mesh, source, batch_size, saved, given, transform, model,
        schedule, tx,
    )  # fmt: skip
    if given is not None:
        transplant.check(given, run.abstract_state().variables, run.keeps_head())
    return run


def find_saved(workdir: Path) -> Saved | None:
    """Returns the latest checkpoint in a workdir, None where there is none."""
    folder = checkpoint.latest(workdir / "checkpoints")
    return None if folder is None else Saved(folder, checkpoint.read_meta(folder))


def load_given(
    config: Config, source: sources.Source, pretrain_dir: Path | None = None
) -> Weights | None:
    """Returns the weights to start from, for the channels of the source's images.

    Those of `config.pretrain` are in `pretrain_dir` once it has been made; before, they
    are zeros, of which names and shapes can be checked.
    """
    if pretrain_dir is not None:
        given = weights.load(f"run:{pretrain_dir}")
    elif config.pretrain is not None:
        given = promised(config.pretrain)
    elif config.pretrained:
        name, entry = config.model.name, config.transfer.entry
        given = weights.load(config.pretrained, name, entry)
    else:
        return None
    channels = source.image_shape[-1]
    return adapt.adapt_channels(given, channels, config.transfer.input_channels)


def promised(config: Config) -> Weights:
    """Returns what a run of `config` will give, with zeros that take no memory."""
    run = prepare(config)
    variables = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
        run.abstract_state().variables,
    )
    model = workdirs.as_json(config)["model"]
    class_names = run.source.class_names
    return Weights(variables, class_names, model, run.transform, "config.pretrain")


def choose_transform(
    config: Config,
    source: sources.Source,
    saved: Saved | None,
    given: Weights | None,
) -> Transform:
    """Returns how images are made: as saved, as for the given weights, or by default.

    `config.data.mean` and `std`, where they are set, come first.
    """
    if saved is not None:
        try:
            return transforms.from_json(saved.meta["transform"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {saved.folder} has no transform: {error}"
            ) from None
    height, _, channels = source.image_shape
    belonging = Transform() if given is None else given.transform
    mean = config.data.mean or belonging.mean
    std = config.data.std or belonging.std
    transform = Transform(height, height, mean, std)
    transforms.check(transform, channels)
    return transform


class Start(NamedTuple):
    """Where training begins or goes on.

    Attributes:
      state: the state at `step`, on the devices.
      step: steps already done.
      meta: what is saved beside every state: config, class names, transform, origin.
      news: one line on how the state came to be.
    """

    state: TrainState
    step: int
    meta: dict[str, Any]
    news: str


def begin_or_resume(run: Run) -> Start:
    """Returns the start of a run: saved beats given beats random.

    Raises CheckpointError for a checkpoint that is damaged or of another config.
    """
    meta = {
        "config": workdirs.as_json(run.config),
        "class_names": list(run.source.class_names),
        "transform": transforms.as_json(run.transform),
    }
    if run.saved is not None:
        return resume(run, run.saved, meta)
    replicated = parallel.replicated(run.mesh)
    state = jax.jit(run.create_state, out_shardings=replicated)()
    news = f"images: {run.transform.describe()}"
    if run.given is None:
        meta["started_from"] = "scratch"
        return Start(state, 0, meta, f"from scratch; {news}")
    variables, line = transplant.transplant(
        run.given, state.variables, run.keeps_head()
    )
    state = state.replace(**jax.device_put(variables, replicated))
    if run.transform[2:] != run.given.transform[2:]:
        news += f"; the weights were trained with {run.given.transform.describe()}"
    meta["started_from"] = run.given.origin
    return Start(state, 0, meta, f"{line}; {news}")


def resume(run: Run, saved: Saved, meta: dict[str, Any]) -> Start:
    """Returns the start at what is saved."""
    folder = saved.folder
    differences = workdirs.compare(saved.meta["config"], meta["config"])
    if differences:
        raise CheckpointError(
            f"checkpoint {folder} is of another run: {', '.join(differences)}"
        )
    replicated = parallel.replicated(run.mesh)
    state = checkpoint.restore(folder, run.abstract_state(), replicated)
    news = f"resumed at step {folder.name}, started from {saved.meta['started_from']}"
    return Start(state, int(folder.name), saved.meta, news)


class Programs(NamedTuple):
    """The two compiled steps, and the seconds that tracing and compiling them took."""

    train_step: jax.stages.Compiled
    eval_step: jax.stages.Compiled
    seconds: float


def compile_steps(run: Run, state: TrainState) -> Programs:
    """Returns both steps compiled for `state`, of which shapes and dtypes are used.

    Raises ConfigError where the model cannot be trained on such a batch.
    """
    config, model = run.config, run.model
    batch = run.abstract_batch()
    eval_batch = batch | {"mask": jax.ShapeDtypeStruct((run.batch_size,), jnp.float32)}
    compile_step = functools.partial(
        parallel.compile_step, mesh=run.mesh, mode=config.compile
    )
    train_step = functools.partial(
        run.task.train_step,
        model=model,
        tx=run.tx,
        schedule=run.schedule,
        transform=run.transform,
        config=config,
    )
    try:
        train_step, train_seconds = compile_step(
            train_step, state, batch, donate_state=True
        )
    except ValueError as error:
        if "BatchNorm" not in str(error):
            raise
        size = run.source.image_shape[0]
        raise ConfigError(
            f"batch {run.batch_size} of images of {size} px: {error}"
        ) from error
    eval_step, eval_seconds = compile_step(
        functools.partial(run.task.eval_step, model=model, transform=run.transform),
        state,
        eval_batch,
    )
    return Programs(train_step, eval_step, train_seconds + eval_seconds)
