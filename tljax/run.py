"""What a run consists of: its parts and its first state."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from tljax import (
    checkpoint,
    initial,
    optim,
    parallel,
    presets,
    sharding,
    terminal,
    workdirs,
)
from tljax import plan as plan_lib
from tljax.config import Config
from tljax.consistency import check_dealing, check_steps, check_unfreezing
from tljax.data import examples, sources, transforms
from tljax.data.examples import Storage
from tljax.data.splits import Source
from tljax.data.transforms import Transform
from tljax.errors import CheckpointError, ConfigError
from tljax.plan import Phase, Row, TrainingPlan
from tljax.pretrained import adapt, transplant, weights
from tljax.pretrained.weights import Weights
from tljax.state import TrainState, enter_phase
from tljax.tasks import TASKS

# Pixels of photographs where nothing else tells.
IMAGE_SIZE = 224


class Saved(NamedTuple):
    """Where a run goes on from: the folder of a checkpoint, and its `meta`.

    `entry` names the variables in it that are asked for: "", or "ema".
    """

    folder: Path
    meta: dict[str, Any]
    entry: str = ""


class Run(NamedTuple):
    """What a config stands for: data, devices, model, optimiser; nothing compiled.

    `given` are the weights to start from, None for a random start and where the run
    goes on from what is `saved`; `transform` is how images are made in it, `storage`
    how they are kept, `plan` what of the model trains when; `shapes` are those of the
    state before the first step.
    """

    config: Config
    task: Any
    mesh: Mesh
    source: Source
    batch_size: int
    saved: Saved | None
    given: Weights | None
    transform: Transform
    storage: Storage
    model: nn.Module
    plan: TrainingPlan
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    shapes: TrainState | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what the network sees."""
        return self.transform.crop, self.transform.crop, self.source.channels

    @property
    def first_step(self) -> int:
        """The steps already done."""
        return 0 if self.saved is None else int(self.saved.folder.name)

    def create_state(self) -> TrainState:
        """Returns the random state before the first step."""
        return self.task.create_state(
            jax.random.key(self.config.seed),
            self.image_shape,
            model=self.model,
            tx=self.tx,
            phase=self.plan.phases[0],
            config=self.config,
        )

    def enter_phase(self, state: TrainState, phase: Phase) -> TrainState:
        """Returns the state with which the first step of a phase begins."""
        average = self.config.optim.ema_decay > 0
        return enter_phase(state, phase, self.tx, keeps_average=average)

    def abstract_state(self, phase: Phase | None = None) -> TrainState:
        """Returns shapes and dtypes of the state in a phase, by default the first."""
        if phase is None or phase == self.plan.phases[0]:
            return self.shapes
        return jax.eval_shape(lambda state: self.enter_phase(state, phase), self.shapes)

    def placements(self, tree: Any) -> Any:
        """Returns how a state, or variables of it, lie on the devices."""
        return sharding.placements(tree, self.mesh, self.config.shard_params)

    def keeps_head(self) -> bool:
        """Returns whether the head of the given weights is taken."""
        head, class_names = self.config.transfer.head, self.source.class_names
        return transplant.keeps_head(self.given, class_names, head)

    def abstract_batch(self, split: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of a batch of a split."""
        size, canvas = (self.batch_size,), self.storage.canvases[split]
        if split == "train" and self.storage.cache == "device":
            return {"index": jax.ShapeDtypeStruct(size, jnp.int32)}
        batch = abstract_images(self.batch_size, canvas)
        if split != "train":
            batch["mask"] = jax.ShapeDtypeStruct(size, jnp.float32)
        return batch

    def abstract_stored(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the training images that lie on the device."""
        if self.storage.cache != "device":
            return {}
        num_images = len(self.source.splits["train"].labels)
        return abstract_images(num_images, self.storage.canvases["train"])

    def describe(self) -> str:
        """Returns one line on model, data and devices."""
        height, width, channels = self.image_shape
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


def call_lengths(run: Run, first_step: int) -> Iterator[int]:
    """Yields how many steps each call after `first_step` takes.

    They are `config.steps_per_call`, or fewer where something is to be done between
    steps before: a validation, a checkpoint, a new phase, the end.
    """
    config, step = run.config, first_step
    cadences = [
        every for every in (config.eval_every, config.checkpoint_every) if every
    ]
    starts = [phase.start for phase in run.plan.phases]
    while step < config.num_steps:
        ends = [step + config.steps_per_call, config.num_steps]
        ends += [step - step % every + every for every in cadences]
        ends += [start for start in starts if start > step]
        yield min(ends) - step
        step = min(ends)


def abstract_images(number: int, canvas) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of so many images with their labels."""
    images = {
        "image": jax.ShapeDtypeStruct((number, *canvas), jnp.uint8),
        "label": jax.ShapeDtypeStruct((number,), jnp.int32),
    }
    if canvas.short != canvas.long:
        images["extent"] = jax.ShapeDtypeStruct((number, 2), jnp.int32)
    return images


def prepare(
    config: Config, workdir: Path | None = None, saved: Saved | None = None
) -> Run:
    """Returns the parts of a run; raises RunError for what cannot be had.

    Where a run stands in `workdir` already, it goes on from there, or from what is
    `saved`, and the weights that it once started from are not looked at any more.
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
    parallel.check_batch_size(batch_size, mesh, num_images)
    check_dealing(config, batch_size, mesh.size)
    config = with_steps(config, num_images, batch_size)
    if workdir is not None:
        saved = find_saved(workdir)
    given = None if saved else load_given(config, source)
    transform = choose_transform(config, source, saved, given)
    storage = choose_storage(config, source, transform, mesh)
    image_shape = (transform.crop, transform.crop, source.channels)
    model = create_model(task, config, len(source.class_names), image_shape)
    plan = make_plan(config, model, image_shape, saved)
    schedule = optim.create_schedule(config.optim, config.num_steps)
    tx = task.create_optimizer(config, schedule, plan.rows)
    run = Run(
        config, task, mesh, source, batch_size, saved, given, transform, storage, model,
        plan, schedule, tx,
    )  # fmt: skip
    run = run._replace(shapes=jax.eval_shape(run.create_state))
    if given is not None:
        transplant.check(given, run.abstract_state().variables, run.keeps_head())
    return run


def with_steps(config: Config, num_images: int, batch_size: int) -> Config:
    """Returns the config with the steps of its epochs, rounded down.

    Raises ConfigError where other settings are at odds with their number.
    """
    if config.num_epochs:
        every = config.optim.accumulate_steps
        steps = config.num_epochs * num_images // (batch_size * every) * every
        config = dataclasses.replace(config, num_steps=max(steps, every))
    check_steps(config, "config")
    return config


def create_model(
    task, config: Config, num_classes: int, image_shape: tuple[int, int, int]
) -> nn.Module:
    """Returns the model; raises ConfigError where it is none for such images."""
    try:
        return task.create_model(config, num_classes, image_shape)
    except ValueError as error:
        raise ConfigError(
            f"config.model cannot be built for images of {image_shape}: {error}"
        ) from error


def make_plan(
    config: Config, model: nn.Module, image_shape, saved: Saved | None
) -> TrainingPlan:
    """Returns the plan that is saved, or that of the config.

    Raises ConfigError where it is none for this model, or the model none for images of
    `image_shape` (height, width, channels).
    """
    paths = parameter_paths(model, image_shape)
    # What `convert` has written has no plan: it has not been trained here.
    if saved is not None and "plan" in saved.meta:
        try:
            rows = [Row(**row) for row in saved.meta["plan"]]
            return plan_lib.resolve(rows, paths)
        except (TypeError, ConfigError) as error:
            raise CheckpointError(
                f"the plan in checkpoint {saved.folder} does not fit: {error}"
            ) from None
    if config.plan.rows:
        return plan_lib.resolve(config.plan.rows, paths)
    preset = config.plan.preset
    rows = presets.PRESETS[preset](config.plan, paths, config.num_steps)
    every = config.optim.accumulate_steps
    rows = [
        dataclasses.replace(row, unfreeze_at=row.unfreeze_at // every * every)
        for row in rows
    ]
    place = f"config.plan.preset = {preset!r}"
    steps = f"phase_steps = {config.plan.phase_steps}, "
    for row in rows:
        check_unfreezing(config, row.unfreeze_at, f"{place}: {steps}")
    return plan_lib.resolve(rows, paths, place)


def parameter_paths(model: nn.Module, image_shape: tuple[int, int, int]) -> list[str]:
    """Returns the paths of all parameters; raises ConfigError for images too small."""
    try:
        variables = initial.shapes_of(model, image_shape)
    except (ValueError, ZeroDivisionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"config.model cannot be built for images of {image_shape}: {reason}"
        ) from error
    return plan_lib.paths_of(variables["params"])


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
        given = weights.load(f"run:{pretrain_dir}", entry=config.transfer.entry)
    elif config.pretrain is not None:
        given = promised(config.pretrain)
    elif config.pretrained:
        name, entry = config.model.name, config.transfer.entry
        given = weights.load(config.pretrained, name, entry)
    else:
        return None
    return adapt.adapt_channels(given, source.channels, config.transfer.input_channels)


def promised(config: Config) -> Weights:
    """Returns what a run of `config` will give, with zeros that take no memory."""
    run = prepare(config)
    variables = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
        run.abstract_state().variables,
    )
    origin = "config.pretrain"
    backbone = weights.find_backbone(workdirs.as_json(config), origin)
    class_names = () if backbone.path else run.source.class_names
    given = Weights(variables, class_names, backbone.model, run.transform, origin)
    return weights.take_backbone(given, backbone)


def choose_transform(
    config: Config,
    source: sources.Source,
    saved: Saved | None,
    given: Weights | None,
) -> Transform:
    """Returns how images are made: as saved, as for the given weights, or by default.

    What is set in `config.data` comes first. Images that all have one size keep it;
    photographs get the sizes of the weights, or 224 pixels of a shorter side of 256.
    """
    if saved is not None:
        return saved_transform(saved)
    data = config.data
    belonging = Transform() if given is None else given.transform
    crop = data.image_size or source.size or belonging.crop or IMAGE_SIZE
    if source.size:
        resize = data.resize or crop
    elif crop == belonging.crop:
        resize = data.resize or belonging.resize or margin(crop)
    else:
        resize = data.resize or margin(crop)
    for name, value in (("resize", resize), ("train_resize", data.train_resize)):
        if 0 < value < crop:
            raise ConfigError(
                f"config.data.{name} = {value} is below the {crop} pixels that the "
                "network sees"
            )
    mean, std = data.mean or belonging.mean, data.std or belonging.std
    transform = Transform(resize, crop, mean, std)
    transforms.check(transform, source.channels)
    return transform


def saved_transform(saved: Saved) -> Transform:
    """Returns how images are made for what is saved; raises CheckpointError."""
    try:
        return transforms.from_json(saved.meta["transform"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {saved.folder} has no transform: {error}"
        ) from None


def margin(crop: int) -> int:
    """Returns the shorter side of which a crop is taken, as 256 is for 224."""
    return round(crop * 8 / 7)


def choose_storage(
    config: Config, source: Source, transform: Transform, mesh: Mesh
) -> Storage:
    """Returns how the images of a run are kept."""
    resizes = dict.fromkeys(source.splits, transform.resize)
    resizes["train"] = config.data.train_resize or transform.resize
    device_bytes = parallel.memory_of(mesh)
    return examples.choose_storage(
        source, config.data, resizes, device_bytes, terminal.track
    )
