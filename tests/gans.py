"""Small GANs for tests that call a step themselves."""

import functools
import types

import jax
import numpy as np
from phases import everything

from tljax import optim
from tljax.config import Optim
from tljax.data.transforms import Transform
from tljax.plan import Row
from tljax.tasks import gan


def make_config(name="dcgan", width=4, optimizer=None, image_operations=(), **changes):
    """Returns what a GAN reads of a config."""
    settings = {
        "latent": 6,
        "loss": "hinge",
        "gradient_penalty": 10.0,
        "r1": 0.0,
        "spectral_norm": False,
        "conditional": False,
        "discriminator_steps": 1,
        "discriminator_rate": 1.0,
        "augment": (),
    }
    space = types.SimpleNamespace
    return space(
        model=space(name=name, width=width, stem="small", encoder="resnet18"),
        gan=space(**(settings | changes)),
        data=space(augment=image_operations),
        optim=optimizer or Optim(name="adam", learning_rate=1e-3, b1=0.5),
        precision="float32",
    )


def make_parts(config, shape=(8, 8, 1), num_classes=3):
    """Returns (model, state, step) of a GAN; `step(state, batch)` is not compiled."""
    model = gan.create_model(config, num_classes, shape)
    phase = everything(model, shape)
    schedule = optim.create_schedule(config.optim, 100)
    tx = gan.create_optimizer(config, schedule, {"row0": Row("")})
    create = functools.partial(
        gan.create_state,
        image_shape=shape,
        model=model,
        tx=tx,
        phase=phase,
        config=config,
    )
    state = jax.jit(create)(jax.random.key(0))
    step = functools.partial(
        gan.train_step,
        model=model,
        tx=tx,
        schedule=schedule,
        phase=phase,
        transform=Transform(),
        config=config,
    )
    return model, state, step


def draw_batch(size=6, shape=(8, 8, 1), num_classes=3, seed=0):
    """Returns a batch of random images with labels."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, *shape), np.uint8),
        "label": rng.integers(0, num_classes, size).astype(np.int32),
    }
