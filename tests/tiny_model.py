"""A network of seven parameters that compiles in a moment, and steps of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tljax import optim, plan, state
from tljax.config import Config, Optim
from tljax.data.transforms import Transform
from tljax.models import layers
from tljax.tasks import classification

IMAGE_SHAPE = (8, 8, 1)
NUM_CLASSES = 3
PATHS = [
    "bn1/bias",
    "bn1/scale",
    "bn2/bias",
    "bn2/scale",
    "conv1/kernel",
    "conv2/kernel",
    "fc/bias",
    "fc/kernel",
]


class TinyNet(nn.Module):
    """Two convolutions with BatchNorm, and `fc`."""

    num_classes: int = NUM_CLASSES
    frozen_statistics: frozenset[str] = frozenset()
    # Recalibration sets them to 0.
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        norm = functools.partial(layers.BatchNorm, not train, self.frozen_statistics)
        x = layers.convolution(4, 3, 2, dtype=None, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x))
        x = layers.convolution(5, 3, 2, dtype=None, name="conv2")(x)
        x = nn.relu(norm(name="bn2")(x))
        x = jnp.mean(x, axis=(1, 2))
        return layers.linear(self.num_classes, fan_in=5, name="fc")(x)


class Course:
    """Training of a TinyNet by some rows, step by step."""

    def __init__(self, rows, num_steps=6, **settings):
        self.config = Config(num_steps=num_steps, optim=Optim(**settings))
        self.plan = plan.resolve(rows, PATHS)
        self.schedule = optim.create_schedule(self.config.optim, num_steps)
        self.tx = optim.create_optimizer(
            self.config.optim, self.schedule, self.plan.rows
        )
        self.steps = {}

    def create(self):
        return classification.create_state(
            jax.random.key(3),
            IMAGE_SHAPE,
            model=TinyNet(),
            tx=self.tx,
            phase=self.plan.phases[0],
            config=self.config,
        )

    def begin(self):
        return jax.jit(self.create)()

    def enter(self, now, phase):
        keeps_average = self.config.optim.ema_decay > 0
        return state.enter_phase(now, phase, self.tx, keeps_average=keeps_average)

    def step(self, phase):
        """Returns the compiled step of a phase."""
        if phase.start not in self.steps:
            step = functools.partial(
                classification.train_step,
                model=TinyNet(),
                tx=self.tx,
                schedule=self.schedule,
                phase=phase,
                transform=Transform(),
                config=self.config,
            )
            self.steps[phase.start] = jax.jit(step)
        return self.steps[phase.start]

    def run(self, now, first, last):
        """Yields (phase, state before, state after) of the steps after `first`."""
        phase = self.plan.phase_of(max(first - 1, 0))
        for done in range(first, last):
            if self.plan.phase_of(done) != phase:
                phase = self.plan.phase_of(done)
                now = self.enter(now, phase)
            before, (now, metrics) = now, self.step(phase)(now, batch(done))
            assert metrics["finite"]
            yield phase, before, now


def batch(number, size=6):
    """Returns the batch of a step."""
    rng = np.random.default_rng(number)
    return {
        "image": rng.integers(0, 256, (size, *IMAGE_SHAPE), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, size).astype(np.int32),
    }
