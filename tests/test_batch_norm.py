"""Recalibrated BatchNorm: the statistics of the images, in the chosen layers alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import batch_norm, models, parallel
from tljax.data.operations import HorizontalFlip, RandomCrop
from tljax.data.transforms import Transform

MODEL = models.create("resnet18", num_classes=3, width=2, stem="small")
SOME = ("layer1_0/bn2", "layer2_0/downsample_1")


@pytest.fixture(scope="module")
def variables():
    """Returns variables whose statistics are far from 0 and 1."""
    found = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32),
        jax.device_get(found),
    )


def draw_batches(number, size=8):
    rng = np.random.default_rng(1)
    return [
        {
            "image": rng.integers(0, 256, (size, 8, 8, 1), np.uint8),
            "label": rng.integers(0, 3, size).astype(np.int32),
        }
        for _ in range(number)
    ]


def run(variables, names, batches, num_devices=1, stored=None, operations=()):
    """Returns the recalibrated variables, on the host."""
    mesh = parallel.create_mesh("cpu", num_devices)
    stored = stored or {}
    program = batch_norm.compile_add(
        variables,
        names,
        batches[0],
        stored,
        mesh=mesh,
        model=MODEL,
        transform=Transform(crop=8),
        operations=operations,
        key=jax.random.key(3),
    )
    placed = functools.partial(jax.device_put, device=parallel.replicated(mesh))
    sent = (parallel.shard_batch(batch, mesh) for batch in batches)
    found = batch_norm.measure(
        program, placed(variables), names, sent, placed(stored), mesh
    )
    return jax.device_get(found)


def layers(variables):
    return batch_norm.by_layer(variables["batch_stats"])


def test_the_first_layer_has_the_statistics_of_its_input(variables):
    """A direct computation in float64: equal weights a batch, unbiased variances."""
    batches = draw_batches(3)
    found = layers(run(variables, ("bn1",), batches))["bn1"]
    kernel = variables["params"]["conv1"]["kernel"].astype(np.float64)
    means, variances = [], []
    for batch in batches:
        images = 2 * (batch["image"] / 255) - 1
        images = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), (1, 2))
        convolved = np.einsum("bhwcij,ijcf->bhwf", windows, kernel)
        means.append(convolved.mean((0, 1, 2)))
        variances.append(convolved.var((0, 1, 2), ddof=1))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(found["mean"], np.mean(means, 0))
    close(found["var"], np.mean(variances, 0))


def test_only_chosen_layers_change_and_all_else_keeps_its_bits(variables):
    found = run(variables, SOME, draw_batches(2))
    jax.tree.map(np.testing.assert_array_equal, found["params"], variables["params"])
    before, after = layers(variables), layers(found)
    assert set(SOME) < set(after)
    for name, statistics in after.items():
        for kind in ("mean", "var"):
            same = np.array_equal(statistics[kind], before[name][kind])
            assert same == (name not in SOME), (name, kind)


def test_recalibrating_twice_moves_nothing(variables):
    """The statistics of a batch do not depend on those that were there before."""
    names, batches = tuple(layers(variables)), draw_batches(2)
    once = run(variables, names, batches)
    twice = run(once, names, batches)
    for row in batch_norm.drift(once["batch_stats"], twice["batch_stats"]):
        assert abs(row.mean_largest) < 1e-6 and abs(row.deviation_largest) < 1e-6
    rows = batch_norm.drift(variables["batch_stats"], once["batch_stats"])
    assert min(max(row.mean_rms, row.deviation_rms) for row in rows) > 0.1


@pytest.mark.slow
def test_any_number_of_devices_and_images_on_the_device(variables):
    """Augmented: what is drawn for a batch is a function of its number."""
    batches = draw_batches(2)
    names = tuple(layers(variables))
    augmented = functools.partial(
        run, variables, names, operations=(RandomCrop(padding=2), HorizontalFlip())
    )
    one = layers(augmented(batches))
    four = layers(augmented(batches, num_devices=4))
    stored = {
        name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]
    }
    places = [{"index": np.arange(n, n + 8, dtype=np.int32)} for n in (0, 8)]
    gathered = layers(augmented(places, num_devices=4, stored=stored))
    plain = layers(run(variables, names, batches))
    for name, statistics in one.items():
        for kind in ("mean", "var"):
            expected = statistics[kind]
            close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
            close(four[name][kind], expected)
            np.testing.assert_array_equal(gathered[name][kind], four[name][kind])
    assert not np.allclose(plain["bn1"]["mean"], one["bn1"]["mean"], rtol=1e-3)
    first, again = (layers(augmented(batches[:1] * n))["bn1"]["mean"] for n in (1, 2))
    assert not np.allclose(first, again, rtol=1e-3)


def test_a_layer_that_the_model_freezes_is_refused(variables):
    frozen = MODEL.clone(frozen_statistics=frozenset({"bn1"}))
    with pytest.raises(ValueError, match=r"does not train the statistics of \['bn1'\]"):
        jax.eval_shape(
            lambda variables: batch_norm.batch_statistics(
                frozen, variables, jnp.zeros((2, 8, 8, 1)), ["bn1"]
            ),
            variables,
        )


def test_frozen_layers_are_as_they_predict_while_others_are_measured(variables):
    """So a layer sees what the layers before it make with their running statistics."""
    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 1))
    name = "layer1_0/bn2"
    others = frozenset(layers(variables)) - {name}
    model = MODEL.clone(frozen_statistics=others)

    @jax.jit
    def measure(variables):
        found = batch_norm.batch_statistics(model, variables, images, [name])[name]
        _, state = MODEL.apply(
            variables,
            images,
            capture_intermediates=lambda module, _: module.name == "conv2",
        )
        return found, state["intermediates"]["layer1_0"]["conv2"]["__call__"][0]

    found, inside = measure(variables)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(found["mean"], inside.mean((0, 1, 2)))
    close(found["var"], inside.var((0, 1, 2), ddof=1))


def test_drift_counts_in_deviations():
    before = {"bn1": {"mean": np.zeros(2), "var": np.array([4.0, 1.0])}}
    after = {"bn1": {"mean": np.array([-1.0, 0.0]), "var": np.array([4.0, np.e**2])}}
    (row,) = batch_norm.drift(before, after)
    assert (row.layer, row.channels) == ("bn1", 2)
    assert row.mean_largest == pytest.approx(-0.5, rel=1e-5) and row.mean_channel == 0
    assert row.mean_rms == pytest.approx(0.5 / np.sqrt(2), rel=1e-5)
    assert row.deviation_largest == pytest.approx(1, rel=1e-4)
    assert row.deviation_channel == 1
    assert row.deviation_rms == pytest.approx(1 / np.sqrt(2), rel=1e-4)
    head, cells = batch_norm.drift_rows([row])
    assert dict(zip(head, cells, strict=True)) == row._asdict()
    assert tuple(head) == row._fields


def test_a_dead_channel_has_a_finite_drift():
    dead = {"bn1": {"mean": np.zeros(1), "var": np.zeros(1)}}
    (row,) = batch_norm.drift(dead, dead)
    assert (row.mean_rms, row.deviation_rms) == (0, 0)


def test_the_table_has_a_line_a_layer_in_the_order_of_the_network():
    names = ["layer3_10/bn1", "layer3_2/bn1", "bn1"]
    stats = {"mean": np.zeros(1), "var": np.ones(1)}
    tree = {"bn1": stats, "layer3_10": {"bn1": stats}, "layer3_2": {"bn1": stats}}
    rows = batch_norm.drift(tree, tree)
    assert [row.layer for row in rows] == names[::-1]
    heads = list(batch_norm.lines(rows))
    assert len(heads) == 5 and len({len(line) for line in heads}) == 1
    many = [rows[0]._replace(layer=f"bn{n}", mean_rms=float(n)) for n in range(30)]
    shown = list(batch_norm.lines(many))
    assert shown[2].startswith("bn10 ") and shown[-2].startswith("bn29 ")
    assert shown[-1] == "the 20 of 30 layers that have moved most"
