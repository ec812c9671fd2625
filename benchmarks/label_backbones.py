"""Backbones for few labels: a small ResNet-18 trained in five ways, and dense layers.

Each is trained once for every seed, all seeds side by side, and comes as stacked
variables {"params", "batch_stats"} with an axis of seeds in front. The BatchNorm
statistics of all of them, of random ones too, are those of the clean training images.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks import side_by_side
from tljax import models
from tljax.config import Autoencoder, Config, Data, Gan, Loss, Model, Optim
from tljax.data import augment
from tljax.models import layers
from tljax.run import Run, make_plan, prepare

SOURCE, TARGET = ("0", "1", "2", "3", "4"), ("5", "6", "7", "8", "9")
WIDTH = 8
HIDDEN = 64
# Where the ResNet stands in the parameters of each.
TRUNKS = {
    "supervised": (),
    "denoising": ("encoder",),
    "masked": ("encoder",),
    "gan": ("discriminator", "trunk"),
}
STEPS = {
    "supervised": 300, "denoising": 1000, "masked": 1000, "gan": 2000, "tied": 3000,
}  # fmt: skip


class CodeClassifier(nn.Module):
    """The encoder of a tied autoencoder, BatchNorm of its codes, and a linear layer.

    Attributes:
      num_classes: that it tells apart.
      autoencoder: whose `encode` is taken.
      frozen_statistics: as in `resnet.ResNet`.
    """

    num_classes: int
    autoencoder: nn.Module
    frozen_statistics: frozenset[str] = frozenset()

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, return_features: bool = False
    ):
        """Returns logits [b, classes] of normalised images, as a ResNet does."""
        codes = self.autoencoder.encode(images)
        x = layers.BatchNorm(not train, self.frozen_statistics, name="norm")(codes)
        x = layers.linear(self.num_classes, fan_in=x.shape[-1], name="fc")(x)
        return (x, {"pooled": codes}) if return_features else x


def digits(classes: tuple[str, ...] = (), **settings) -> Data:
    """Returns the 8x8 digits."""
    return Data(source="digits", classes=classes, **settings)


def recipe(name: str, steps: int) -> Config:
    """Returns how a backbone is trained.

    Of half the patches of 2x2 pixels, a masked autoencoder sees nothing; of a denoising
    one's pixels, 0.3 are black. With 5,000 steps, the GAN was worth no more than with
    2,000 (validation images of three other seeds).
    """
    config = Config(
        num_steps=steps,
        num_devices=1,
        model=Model(name="resnet18", width=WIDTH, stem="small"),
        data=digits(batch_size=64),
        optim=Optim(name="adam", learning_rate=0.003, schedule="cosine"),
    )
    if name == "supervised":
        config.data = digits(SOURCE, batch_size=64)
        config.loss = Loss(label_smoothing=0.1)
        config.optim = Optim(
            name="momentum",
            learning_rate=0.1,
            schedule="cosine",
            warmup_steps=30,
            weight_decay=5e-4,
        )
    if name in ("denoising", "masked"):
        config.task, config.model.name = "autoencoder", "resnet_autoencoder"
        config.autoencoder = Autoencoder(latent=32, noise="masking", noise_level=0.3)
    if name == "masked":
        config.autoencoder = Autoencoder(mask_ratio=0.5, patch_size=2)
    if name == "tied":
        config.task, config.model.name = "autoencoder", "tied_autoencoder"
        config.autoencoder = Autoencoder(hidden=(HIDDEN,))
    if name == "gan":
        config.task, config.model.name = "gan", "resnet_gan"
        config.data = digits(batch_size=32)
        config.optim = Optim(
            name="adam", learning_rate=0.0004, b1=0.5, schedule="linear"
        )
        config.gan = Gan(loss="hinge", augment=("color", "translation"))
    return config


def pretrain(name: str, seeds: Iterable[int], stored, places, smoke: bool):
    """Returns variables of a backbone, [seeds, ...]; None where it begins at random.

    `places` are, for each seed, those of the images that it trains on. With `smoke`, it
    takes but two steps.
    """
    if name not in STEPS:
        return None
    steps = 2 if smoke else STEPS[name]
    run = prepare(recipe(name, steps))
    rows = side_by_side.draw_all(seeds, places, steps, run.batch_size)
    states = side_by_side.create_states(run, seeds)
    return trunk_of(name, side_by_side.train(run, states, stored, rows).variables)


def trunk_of(name: str, variables):
    """Returns params and statistics of a backbone alone."""
    if name == "tied":
        return {"params": {"autoencoder": variables["params"]}, "batch_stats": {}}
    found = {}
    for collection, tree in variables.items():
        for step in TRUNKS[name]:
            tree = tree[step]
        found[collection] = {key: value for key, value in tree.items() if key != "fc"}
    return found


def target_run(config: Config, dense: bool) -> Run:
    """Returns the run of a classifier; with `dense` that of codes."""
    run = prepare(config)
    if not dense:
        return run
    autoencoder = models.AUTOENCODERS["tied_autoencoder"](run.image_shape, (HIDDEN,))
    model = CodeClassifier(len(TARGET), autoencoder)
    plan = make_plan(config, model, run.image_shape, None)
    return run._replace(model=model, plan=plan)


def begin(run: Run, seeds, backbone):
    """Returns states that begin with a backbone, None for a random one."""
    states = side_by_side.create_states(run, seeds)
    if backbone is None:
        return states
    return states.replace(
        params=states.params | backbone["params"],
        batch_stats=states.batch_stats | backbone["batch_stats"],
    )


def recalibrated(run: Run, states, images, places: np.ndarray):
    """Returns the states with the statistics of clean images, one batch for each.

    What has seen noise, hidden patches or generated images has the statistics of
    these, and a random network has none.
    """

    def measure(variables, places):
        seen = augment.normalize(images[places], run.transform.mean, run.transform.std)
        # A layer keeps 0.9 of the old value: of zeros, a tenth of the batch's is left.
        zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        given = {"params": variables["params"], "batch_stats": zeros}
        _, updated = run.model.apply(given, seen, train=True, mutable=["batch_stats"])
        return jax.tree.map(lambda leaf: leaf / 0.1, updated["batch_stats"])

    found = side_by_side.compiled(jax.vmap(measure), states.variables, places)
    return states.replace(batch_stats=found)
