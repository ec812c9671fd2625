"""The classification task: loss, step and metrics against direct computations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from phases import everything
from sklearn import metrics as sklearn_metrics

from tljax import optim
from tljax.config import Config, Loss, Model, Optim
from tljax.data.transforms import Transform
from tljax.tasks import classification


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@pytest.mark.parametrize("seed", range(20))
def test_metrics_are_scikit_learns(seed):
    """Classes absent from labels, from predictions or both; one class; few examples."""
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(1, 8))
    size = int(rng.integers(1, 40))
    present = rng.choice(num_classes, int(rng.integers(1, num_classes + 1)))
    labels = rng.choice(present, size)
    predictions = np.where(
        rng.random(size) < 0.5, labels, rng.choice(num_classes, size)
    )
    confusion = sklearn_metrics.confusion_matrix(
        labels, predictions, labels=range(num_classes)
    )
    found = classification.summarize(
        {"loss": np.float64(3.0 * size), "confusion": confusion.astype(np.float64)}
    )
    average = {"average": "macro", "zero_division": 0}
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predictions),
        "precision_macro": sklearn_metrics.precision_score(
            labels, predictions, **average
        ),
        "recall_macro": sklearn_metrics.recall_score(labels, predictions, **average),
        "f1_macro": sklearn_metrics.f1_score(labels, predictions, **average),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert found["confusion_matrix"] == confusion.tolist()
    assert found["num_examples"] == size and found["loss"] == pytest.approx(3.0)


@pytest.fixture(scope="module")
def parts():
    """Returns (model, config, state) of a small classifier of five classes."""
    config = Config(model=Model(width=2, stem="small"))
    model = classification.create_model(config, 5)
    tx = optax.sgd(0.1)
    create = functools.partial(
        classification.create_state,
        image_shape=(8, 8, 1),
        model=model,
        tx=tx,
        phase=everything(model, (8, 8, 1)),
        config=config,
    )
    return model, config, jax.jit(create)(jax.random.key(1))


def test_eval_step_counts_what_the_mask_lets_through(parts):
    model, config, state = parts
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 1), np.uint8)
    labels = np.array([0, 1, 2, 2, 4, 4], np.int32)
    logits = jax.jit(model.apply)(
        state.variables, classification.augment.normalize(images, (0.5,), (0.5,))
    )
    mask = np.array([1, 1, 1, 1, 0, 1], np.float32)
    eval_step = functools.partial(
        classification.eval_step, model=model, transform=Transform(), config=config
    )
    batch = {"image": images, "label": labels, "mask": mask}
    sums = jax.jit(eval_step)(state.variables, batch)
    kept = mask == 1
    np.testing.assert_array_equal(
        sums["confusion"],
        sklearn_metrics.confusion_matrix(
            labels[kept], np.argmax(logits, -1)[kept], labels=range(5)
        ),
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(sums["loss"], losses[kept].sum(), rtol=1e-5)


def test_train_step_is_the_step_written_out(parts):
    """One SGD step with smoothing: the gradient of the mean loss, times the rate."""
    model, _, state = parts
    config = Config(
        model=Model(width=2, stem="small"),
        optim=Optim(name="sgd", learning_rate=0.1),
        loss=Loss(label_smoothing=0.2),
    )
    schedule = optim.create_schedule(config.optim, 10)
    tx = optim.create_optimizer(config.optim, schedule)
    state = state.replace(opt_state=tx.init({"row0": state.params}))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 1), np.uint8)
    labels = np.array([0, 1, 2, 2, 4, 4], np.int32)

    def loss(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            (images.astype(np.float32) / 255 - 0.5) / 0.5,
            train=True,
            mutable=["batch_stats"],
        )
        targets = jax.nn.one_hot(labels, 5) * 0.8 + 0.04
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), -1)), updated

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, updated), grads = value_and_grad(state.params)
    step = functools.partial(
        classification.train_step,
        model=model,
        tx=tx,
        schedule=schedule,
        phase=everything(model, (8, 8, 1)),
        transform=Transform(),
        config=config,
    )
    new, metrics = jax.jit(step)(state, {"image": images, "label": labels})
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    close(metrics["loss"], value)
    close(metrics["grad_norm"], optax.tree.norm(grads))
    jax.tree.map(
        lambda old, grad, now: close(now, old - 0.1 * grad),
        state.params,
        grads,
        new.params,
    )
    jax.tree.map(close, updated["batch_stats"], new.batch_stats)
    assert new.step == 1 and metrics["finite"] == 1
    assert metrics["learning_rate"] == pytest.approx(0.1)


@pytest.mark.parametrize("where", ["params", "batch_stats"])
def test_anything_not_finite_is_noticed(parts, where):
    model, config, state = parts
    schedule = optax.constant_schedule(0.1)
    tx = optax.sgd(schedule)
    poisoned = jax.tree.map(lambda leaf: leaf * jnp.inf, getattr(state, where))
    step = functools.partial(
        classification.train_step,
        model=model,
        tx=tx,
        schedule=schedule,
        phase=everything(model, (8, 8, 1)),
        transform=Transform(),
        config=config,
    )
    _, metrics = jax.jit(step)(
        state.replace(opt_state=tx.init({"row0": state.params}), **{where: poisoned}),
        {"image": np.ones((2, 8, 8, 1), np.uint8), "label": np.zeros(2, np.int32)},
    )
    assert metrics["finite"] == 0
