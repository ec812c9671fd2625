"""Small autoencoders for tests that call a step themselves."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
from phases import everything

from tljax import optim
from tljax.config import Optim
from tljax.data.transforms import Transform
from tljax.tasks import autoencoder

SHAPE = (8, 8, 1)
TRANSFORM = Transform(crop=8, mean=(0.4,), std=(0.3,))


def make_config(name="conv_autoencoder", **settings):
    """Returns a config of a tiny autoencoder."""
    defaults = {
        "hidden": (5,),
        "activation": "sigmoid",
        "weight_penalty": 0.0,
        "latent": 3,
        "noise": "none",
        "noise_level": 0.3,
        "kl_weight": 0.0,
        "mask_ratio": 0.0,
        "patch_size": 0,
    }
    return SimpleNamespace(
        model=SimpleNamespace(name=name, width=2, stem="small", encoder="tiny"),
        autoencoder=SimpleNamespace(**(defaults | settings)),
        optim=Optim(name="sgd", learning_rate=0.1)
        if name == "tied_autoencoder"
        else Optim(name="adam", learning_rate=0.02, ema_decay=0.9),
        data=SimpleNamespace(augment=()),
        precision="float32",
    )


def draw_batch(number=6):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (number, *SHAPE), np.uint8)
    return {"image": images, "label": np.arange(number, dtype=np.int32)}


@functools.cache
def start(name="conv_autoencoder", **settings):
    """Returns (config, model, state, train_step compiled) of settings."""
    config = make_config(name, **settings)
    model = autoencoder.create_model(config, 10, SHAPE)
    schedule = optim.create_schedule(config.optim, 10)
    tx = optim.by_row({"row0": optim.create_optimizer(config.optim, schedule)})
    parts = {"model": model, "tx": tx, "phase": everything(model, SHAPE)}
    create = functools.partial(
        autoencoder.create_state, image_shape=SHAPE, config=config, **parts
    )
    step = functools.partial(
        autoencoder.train_step,
        schedule=schedule,
        transform=TRANSFORM,
        config=config,
        **parts,
    )
    return config, model, jax.jit(create)(jax.random.key(0)), jax.jit(step)


def normalized(images):
    return (images.astype(np.float32) / 255 - 0.4) / 0.3
