"""oneDNN is called where it may be, with XLA's numbers, and nothing of it is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import compiled, network, parallel, programs
from tljax.config import Config, Data, Model
from tljax.models import lowering
from tljax.models.lowering import Window, choice, library, mode, processor
from tljax.run import prepare

pytestmark = pytest.mark.skipif(
    not library.is_there(), reason="XLA has no oneDNN for this CPU, or a newer one"
)

WINDOWS = (
    Window((7, 7), 2, ((3, 3), (3, 3))),
    Window((3, 3), 1, ((1, 1), (1, 1))),
    Window((1, 1), 2, ((0, 0), (0, 0))),
)
KERNELS = ((7, 7, 3, 8), (3, 3, 8, 8), (1, 1, 8, 4))


@pytest.fixture
def measured(monkeypatch):
    """Has this CPU taken for one on which the library was measured, for small calls."""
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(choice, "CALL_WORTH", 0)


def loss(kernels, images):
    """Returns a number: a stem, a 3x3 and a 1x1 at stride 2."""
    for window, kernel in zip(WINDOWS, kernels, strict=True):
        images = jnp.sin(lowering.convolve(images, kernel, window))
    return jnp.sum(images.astype(jnp.float32) ** 2)


def draw(dtype, batch=2):
    """Returns kernels and images."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=shape) * 0.3 for shape in KERNELS]
    images = rng.normal(size=(batch, 32, 33, 3))
    return [jnp.asarray(part, dtype) for part in kernels], jnp.asarray(images, dtype)


def targets(function, *arguments):
    """Returns how often a traced program calls the library."""
    return jax.jit(function).lower(*arguments).as_text().count("@__onednn$")


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("bfloat16", 4e-2)])
def test_gradients_are_xlas(dtype, bound, measured):
    """Of all images, and of each by itself."""
    kernels, images = draw(dtype)

    def gradients(kernels, images):
        each = jax.vmap(lambda image: jax.grad(loss)(kernels, image[None]))
        return jax.grad(loss, (0, 1))(kernels, images), each(images)

    with mode.changed(library=True):
        assert targets(gradients, kernels, images) > 8
        with lowering.unkept():
            found = jax.jit(lambda *both: gradients(*both))(kernels, images)
    with lowering.plain(), jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype("float64"), (kernels, images))
        expected = jax.jit(lambda *both: gradients(*both))(*wide)
    for ours, exact in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        scale = np.abs(exact).max()
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), exact, rtol=0, atol=bound * scale
        )


def step(state, batch):
    """Returns a step of gradient descent."""
    gradients = jax.grad(loss)(state, batch["image"])
    return jax.tree.map(lambda a, b: a - 0.1 * b, state, gradients)


def test_only_what_is_called_often_on_one_device_calls_it(measured):
    kernels, images = draw("float32", batch=4)
    batch = {"image": images}
    one, two = (parallel.create_mesh("cpu", number) for number in (1, 2))

    def count(mesh, **options):
        lowered = parallel.lower_step(step, kernels, batch, mesh=mesh, **options)
        return lowered.as_text().count("@__onednn$")

    assert count(one, often=True) > 3
    assert count(one) == count(two, often=True) == 0


def config_of(num_steps: int) -> Config:
    """Returns the config of a run of so many steps on one device."""
    return Config(
        num_steps=num_steps,
        num_devices=1,
        precision="bfloat16",
        model=Model(name="resnet18", width=2, stem="small"),
        data=Data(source="synthetic", image_size=8, batch_size=4, num_classes=2),
    )


@pytest.mark.parametrize("num_steps, calls", [(programs.LONG, True), (999, False)])
def test_runs_of_many_steps_call_it(num_steps, calls, measured):
    run = prepare(config_of(num_steps))
    train = programs.lower_train_step(run, run.plan.phases[0])
    for lowered in (train, programs.lower_eval_step(run)):
        assert ("@__onednn$" in lowered.as_text()) is calls


@pytest.mark.parametrize("num_images, calls", [(400, True), (399, False)])
def test_many_batches_are_predicted_by_it(num_images, calls, measured):
    run = prepare(config_of(1))
    program = network.compile_predict(
        run.config,
        run.model,
        run.transform,
        run.abstract_state().variables,
        4,
        run.storage.canvases["val"],
        run.mesh,
        num_images,
    )
    assert ("__onednn$" in program.as_text()) is calls


def test_a_cpu_that_was_not_measured_keeps_xlas_own(monkeypatch):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: False)
    mesh = parallel.create_mesh("cpu", 1)
    assert not parallel.calls_library(mesh, often=True)


def test_what_calls_it_is_not_kept_and_the_rest_is(measured, monkeypatch, tmp_path):
    """XLA would write what is not there."""
    kernels, images = draw("float32", batch=1)
    arguments = kernels, {"image": images}
    mesh = parallel.create_mesh("cpu", 1)
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path))
    kept = tmp_path / "compilation_cache"
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with compiled.cache():
            often, _ = parallel.compile_step(step, *arguments, mesh=mesh, often=True)
            assert not list(kept.iterdir())
            parallel.compile_step(step, *arguments, mesh=mesh)
            assert len(list(kept.iterdir())) == 1
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    found = often(*arguments)
    np.testing.assert_allclose(
        found[0], jax.jit(step)(*arguments)[0], rtol=1e-4, atol=1e-5
    )


def test_it_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("TLJAX_ONEDNN", "0")
    assert not library.is_there.__wrapped__()


def test_a_newer_jax_is_not_tried(monkeypatch):
    monkeypatch.setattr(library, "NEWEST", (0, 9))
    assert not library.is_there.__wrapped__()


def test_another_meaning_of_its_settings_is_noticed(monkeypatch):
    """As when strides were counted from another number: the numbers are not XLA's."""
    call = library.call

    def changed(operation, kind, config, *rest, **options):
        window = config.get("window")
        if window:
            window["pad_left"], window["pad_right"] = (
                window["pad_right"], window["pad_left"],
            )  # fmt: skip
        return call(operation, kind, config, *rest, **options)

    monkeypatch.setattr(library, "call", changed)
    assert not library.is_there.__wrapped__()
