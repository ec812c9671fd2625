"""Judges: trained networks by whose features and classes generated images are measured.

A distance is named after its network, `fd_NETWORK`: only with FID's own Inception is it
called FID.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tljax import network, parallel, workdirs
from tljax.data import augment, examples, loader, views
from tljax.data.examples import Examples
from tljax.errors import ConfigError
from tljax.models.inception import FidInception
from tljax.pretrained import inception
from tljax.run import Run

FORMS = ("run:WORKDIR", "inception:PATH.pth")


class Judge(NamedTuple):
    """A network that looks at images, and what it has seen of the real ones.

    Attributes:
      name: of the network.
      look: compiled `look(images)`: of uint8 [b, h, w, c] the features [b, d] and the
        log-probabilities [b, classes], of no classes where it is no classifier.
      sample: compiled `sample((variables, key), labels)`: uint8 [b, h, w, c].
      batch_size: b.
      labels: int32 [n], the classes of which samples are asked.
      real: float32 [m, d], features of the training images.
      counts: int [classes], training images of each class.
    """

    name: str
    look: Callable[..., Any]
    sample: jax.stages.Compiled
    batch_size: int
    labels: np.ndarray
    real: np.ndarray
    counts: np.ndarray


def open_judge(run: Run, split: Examples, workdir: Path) -> Judge:
    """Returns the judge of a run, which has seen the training images, `split`.

    It is the one in WORKDIR/judge where `config.judge` is set. Raises ConfigError for
    one that cannot look at such images.
    """
    config = run.config
    place = config.gan.judge if config.judge is None else f"run:{workdir / 'judge'}"
    name, see, variables = open_network(place, run)
    size, crop = run.batch_size, run.transform.crop
    images = jax.ShapeDtypeStruct((size, crop, crop, run.source.channels), jnp.uint8)
    look, _ = parallel.compile_step(see, variables, images, mesh=run.mesh, infers=True)
    look = functools.partial(look, variables)
    draw = functools.partial(run.task.sample, model=run.model)
    sample, _ = parallel.compile_step(
        lambda parts, labels: augment.as_bytes(draw(*parts, labels)),
        (run.abstract_state().variables, jax.eval_shape(lambda: jax.random.key(0))),
        jax.ShapeDtypeStruct((size,), jnp.int32),
        mesh=run.mesh,
        shard_params=run.config.shard_params,
    )
    labels = split.split.labels
    counts = np.bincount(labels, minlength=len(run.source.class_names))
    rounds = -(-config.gan.num_samples // size)
    asked = np.resize(np.arange(len(counts), dtype=np.int32), rounds * size)
    judge = Judge(name, look, sample, size, asked, np.zeros(()), counts)
    real, _ = look_at(judge, real_images(run, split), len(labels), run.mesh)
    return judge._replace(real=real)


def open_network(place: str, run: Run) -> tuple[str, Callable[..., Any], Any]:
    """Returns name, `see(variables, images)` and variables of a network.

    Raises ConfigError for one that is not there, or cannot look at a run's images.
    """
    kind, _, path = place.partition(":")
    if kind not in OPENERS or not path:
        raise ConfigError(f"config.gan.judge = {place!r} must be {' or '.join(FORMS)}")
    return OPENERS[kind](path, run)


def open_classifier(path: str, run: Run) -> tuple[str, Callable[..., Any], Any]:
    """Returns of a classifier what `open_network` does."""
    workdir = workdirs.as_path(path)
    config = workdirs.load_classifier(workdir)
    found = network.restore(config, network.find(workdir), run.mesh)
    channels = network.channels_of(found.variables)
    if channels != run.source.channels:
        raise ConfigError(
            f"config.gan.judge: {workdir} looks at images of {channels} channels, not "
            f"of {run.source.channels}"
        )

    size = found.transform.crop

    def see(variables, images):
        shape = (len(images), size, size, channels)
        seen = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
        seen = augment.normalize(seen, found.transform.mean, found.transform.std)
        logits, features = found.model.apply(variables, seen, return_features=True)
        return features["pooled"], jax.nn.log_softmax(logits)

    source = config.data.source.replace(":", "_").replace("/", "_")
    name = f"{config.model.name}_{source}"
    return name, see, found.variables


def open_inception(path: str, run: Run) -> tuple[str, Callable[..., Any], Any]:
    """Returns of an Inception what `open_network` does."""
    variables, name = inception.load(workdirs.as_path(path))
    if run.source.channels not in (1, 3):
        raise ConfigError(
            f"config.gan.judge = 'inception:{path}' looks at images of 1 or 3 "
            f"channels, not of {run.source.channels}"
        )

    def see(variables, images):
        features = FidInception().apply(variables, images.astype(jnp.float32) / 255)
        return features, jnp.zeros((len(images), 0))

    variables = jax.device_put(variables, parallel.replicated(run.mesh))
    return name, see, variables


# How each kind of judge is opened; FORMS says how it is written.
OPENERS = {"run": open_classifier, "inception": open_inception}


def show_classes(judge: Judge, run: Run, result: dict[str, Any], path: Path) -> None:
    """Draws the classes that samples are taken for, where the judge knows classes."""
    result = result.get("ema", result)
    if "class_histogram" in result:
        from tljax.evaluation import plots, sheets  # Matplotlib takes long to import.

        counts = np.array(result["class_histogram"])
        names = run.source.class_names
        plots.save(path, sheets.class_bars, counts, judge.counts, names)


def real_images(run: Run, split: Examples) -> Iterator[np.ndarray]:
    """Yields the training images as evaluation sees them, uint8 [b, h, w, c]."""
    center = jax.jit(functools.partial(views.center, size=run.transform.crop))
    readers = examples.readers_of(run.config.data, split.drawings.canvas.bytes)
    for batch in loader.eval_batches(split, run.batch_size, readers):
        yield np.asarray(center({**batch}))


def look_at(
    judge: Judge, batches: Iterator[Any], number: int, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features [n, d] and log-probabilities [n, classes] of n images."""
    sharding = parallel.batch_sharding(mesh)
    seen = [
        jax.device_get(judge.look(jax.device_put(images, sharding)))
        for images in batches
    ]
    features, logs = (np.concatenate(each)[:number] for each in zip(*seen, strict=True))
    return features, logs


def measure(judge: Judge, run: Run, variables: Any) -> dict[str, Any]:
    """Returns how near samples come to the training images.

    "fd" is the Frechet distance, of whichever network; beside it all measures under
    their own names. The distance falls with the number of images, so there are two more
    that can be compared: "fd_half" of samples and one half of the real images, and
    "fd_real_halves" of both halves, which a perfect generator would have; all of equal
    numbers.
    """
    from tljax.evaluation import generative  # scikit-learn takes long to import.

    number = run.config.gan.num_samples
    features, logs = look_at(judge, samples(judge, run, variables), number, run.mesh)
    scores = generative.scores(judge.real, features, judge.name)
    equal = min(len(judge.real) // 2, number)
    sides = features, judge.real[::2], judge.real[1::2]
    sampled, half, other = (generative.moments(side[:equal]) for side in sides)
    frechet, _ = generative.names(judge.name)
    found = {
        "fd": scores[frechet],
        "fd_half": generative.frechet_distance(sampled, half),
        "fd_real_halves": generative.frechet_distance(half, other),
        **scores,
    }
    if logs.shape[1]:
        found |= generative.class_scores(logs, judge.counts)
    return found


def samples(judge: Judge, run: Run, variables: Any) -> Iterator[jax.Array]:
    """Yields batches of samples, the same latents every time."""
    key = jax.random.key(run.config.seed)
    sharding = parallel.batch_sharding(run.mesh)
    for start in range(0, len(judge.labels), judge.batch_size):
        labels = judge.labels[start : start + judge.batch_size]
        parts = variables, jax.random.fold_in(key, start)
        yield judge.sample(parts, jax.device_put(labels, sharding))
