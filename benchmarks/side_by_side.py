"""Several models of one kind trained at once: their steps are one compiled program.

Every array of a state has an axis of models in front. `vmap` gives each model its own
batch of images that all of them share, `lax.scan` takes the steps.
"""

import functools
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from tljax import allocator
from tljax.data import augment
from tljax.models import lowering
from tljax.run import Run
from tljax.state import TrainState

# Images of each model in one forward pass.
AT_ONCE = 64


def keys_of(seeds: Iterable[int]) -> jax.Array:
    """Returns a PRNG key for each seed [models]."""
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def create_states(run: Run, seeds: Iterable[int]) -> TrainState:
    """Returns the states before the first step, one for each seed."""
    create = functools.partial(
        run.task.create_state,
        image_shape=run.image_shape,
        model=run.model,
        tx=run.tx,
        phase=run.plan.phases[0],
        config=run.config,
    )
    return compiled(jax.vmap(create), keys_of(seeds))


def compiled(function: Callable, *args):
    """Returns `function(*args)`, of many models, as a compiled program computes it."""
    with lowering.side_by_side(), allocator.compiling():
        program = jax.jit(function).lower(*args).compile()
    return program(*args)


def draw_places(
    rng: np.random.Generator, places: np.ndarray, steps: int, batch_size: int
) -> np.ndarray:
    """Returns [steps, batch_size] of the places, in epochs of random order."""
    epochs = -(-steps * batch_size // len(places))
    drawn = np.concatenate([rng.permutation(places) for _ in range(epochs)])
    return drawn[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def draw_all(seeds, places, steps: int, batch_size: int) -> np.ndarray:
    """Returns `draw_places` of every seed, [seeds, steps, batch_size]."""
    rngs = map(np.random.default_rng, seeds)
    pairs = zip(rngs, places, strict=True)
    return np.stack([draw_places(rng, own, steps, batch_size) for rng, own in pairs])


def cut(rows: list[np.ndarray]) -> np.ndarray:
    """Returns rows as one array, each cut to the length of the shortest."""
    return np.stack([row[: min(map(len, rows))] for row in rows])


def train(run: Run, states: TrainState, stored, places: np.ndarray) -> TrainState:
    """Returns the states after as many steps as `places` [models, steps, batch] has."""
    begun = time.perf_counter()
    args = states, stored, places, np.ones(len(places), np.float32)
    program = compile_steps(run, *args)
    seconds = time.perf_counter() - begun
    states, losses = jax.block_until_ready(program(*args))
    models, steps = places.shape[:2]
    taken = time.perf_counter() - begun - seconds
    print(
        f"{run.config.model.name}: {models} models, {steps} steps in {taken:.1f} s, "
        f"compiled in {seconds:.1f} s, last losses {np.round(losses[:, -1], 3)}",
        flush=True,
    )
    return states


def compile_steps(run: Run, states: TrainState, stored, places, factors):
    """Returns the program `(states, stored, places, factors) -> (states, losses)`.

    `stored` are the images and labels that `places` [models, steps, batch] are of;
    losses are [models, steps]. `factors` [models] are of the learning rate.
    """

    def one(state, stored, places, factor):
        batch = {name: values[places] for name, values in stored.items()}

        def schedule(count):
            return factor * run.schedule(count)

        state, metrics = run.task.train_step(
            state,
            batch,
            model=run.model,
            tx=run.task.create_optimizer(run.config, schedule, run.plan.rows),
            schedule=schedule,
            phase=run.plan.phases[0],
            transform=run.transform,
            config=run.config,
        )
        return state, metrics["loss"]

    def take_steps(states, stored, places, factors):
        def all_models(states, places):
            every = jax.vmap(one, in_axes=(0, None, 0, 0))
            return every(states, stored, places, factors)

        states, losses = jax.lax.scan(all_models, states, places.swapaxes(0, 1))
        return states, losses.T

    with lowering.side_by_side(), lowering.inside_loop(), allocator.compiling():
        return jax.jit(take_steps).lower(states, stored, places, factors).compile()


def over_images(run: Run, function: Callable, variables, images: jax.Array, places):
    """Returns `function(variables, normalised images)` of every model, as NumPy has it.

    `places` [models, n] are those of the images that each model sees, some at a time.
    What the function returns has an axis of images in front.
    """
    models, number = places.shape
    padded = -(-number // AT_ONCE) * AT_ONCE
    chunks = np.resize(places.T, (padded, models)).reshape(-1, AT_ONCE, models)

    def one(variables, places):
        mean, std = run.transform.mean, run.transform.std
        return function(variables, augment.normalize(images[places], mean, std))

    def all_chunks(variables, chunks):
        every = jax.vmap(one, in_axes=(0, 1))
        return jax.lax.map(lambda places: every(variables, places), chunks)

    found = np.asarray(compiled(all_chunks, variables, chunks))
    found = np.moveaxis(found, 1, 0)
    return found.reshape(models, padded, *found.shape[3:])[:, :number]
