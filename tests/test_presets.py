"""Plans by name, on networks whose shapes alone are computed; the work they save."""

import jax
import pytest

from tljax import models, presets, programs
from tljax.config import Config, Data, Model, Plan
from tljax.plan import resolve
from tljax.run import parameter_paths, prepare

NUM_STEPS = 60
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


@pytest.fixture(scope="module", params=BLOCKS)
def network(request):
    """Returns (blocks of each stage, parameter paths) of a network."""
    model = models.create(request.param, num_classes=10)
    return BLOCKS[request.param], parameter_paths(model, (64, 64, 3))


def make(paths, preset, **settings):
    """Returns the resolved plan of a preset."""
    config = Plan(preset=preset, **settings)
    return resolve(presets.PRESETS[preset](config, paths, NUM_STEPS), paths, preset)


def modules(phase):
    """Returns the first parts of the paths that train in a phase."""
    return {
        path.partition("/")[0] for paths in phase.trained.values() for path in paths
    }


def trains(paths, phase, *names):
    """Returns whether what trains is all of the modules that begin with the names."""
    found = {path for paths in phase.trained.values() for path in paths}
    return found == {path for path in paths if path.startswith(names)}


STEM = ("conv1", "bn1")
STAGES = ("layer1_", "layer2_", "layer3_", "layer4_")


def test_full_and_head(network):
    _, paths = network
    (phase,) = make(paths, "full").phases
    assert trains(paths, phase, "") and not phase.frozen_statistics
    (phase,) = make(paths, "head").phases
    assert trains(paths, phase, "fc/")
    norms = {path.rpartition("/")[0] for path in paths if path.endswith("/scale")}
    assert phase.frozen_statistics == norms
    assert make(paths, "head", batch_norm="recalibrate").recalibrated == norms


@pytest.mark.parametrize("phase_steps, start", [(0, 30), (7, 7)])
def test_head_then_full(network, phase_steps, start):
    _, paths = network
    first, second = make(paths, "head_then_full", phase_steps=phase_steps).phases
    assert trains(paths, first, "fc/") and trains(paths, second, "")
    assert (first.start, second.start) == (0, start)
    assert first.frozen_statistics and not second.frozen_statistics


@pytest.mark.parametrize("phase_steps, length", [(0, 10), (4, 4)])
def test_gradual_goes_down_stage_by_stage(network, phase_steps, length):
    _, paths = network
    phases = make(paths, "gradual", phase_steps=phase_steps).phases
    assert [phase.start for phase in phases] == [length * n for n in range(6)]
    names = ["fc"]
    for phase, more in zip(phases, [(), *STAGES[::-1], STEM], strict=True):
        names += [more] if isinstance(more, str) else more
        assert trains(paths, phase, *names)


def test_layerwise_decay_is_timms(network):
    """factor^(groups above): the head is the last group, the stem the first."""
    blocks, paths = network
    found = make(paths, "layerwise_decay", factor=0.5)
    assert trains(paths, found.phases[0], "")
    order = [
        f"layer{stage}_{index}"
        for stage, number in enumerate(blocks, start=1)
        for index in range(number)
    ]
    groups = {"conv1": 0, "bn1": 0, "fc": len(order) + 1}
    groups |= {name: number for number, name in enumerate(order, start=1)}
    for name, governed in found.governed.items():
        for path in governed:
            above = len(order) + 1 - groups[path.partition("/")[0]]
            assert found.rows[name].learning_rate == 0.5**above, path


def test_bn_only(network):
    _, paths = network
    found = make(paths, "bn_only")
    trained = {path for part in found.phases[0].trained.values() for path in part}
    scales = {path for path in paths if path.endswith("/scale")}
    offsets = {path.replace("scale", "bias") for path in scales}
    assert trained == scales | offsets | {"fc/kernel", "fc/bias"}
    assert not found.phases[0].frozen_statistics


@pytest.mark.parametrize("k", [1, 2, 4, 5, 50])
def test_last_k(network, k):
    _, paths = network
    (phase,) = make(paths, "last_k", last_k=k).phases
    stem = STEM if k > 4 else ()
    assert trains(paths, phase, "fc/", *STAGES[-k:], *stem)
    below = {path.rpartition("/")[0] for path in paths if path.endswith("/scale")}
    for name in (*STAGES[-k:], *stem):
        below = {layer for layer in below if not layer.startswith(name)}
    assert phase.frozen_statistics == below


@pytest.mark.parametrize("batch_norm", ["train", "frozen_statistics", "frozen"])
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_what_is_said_of_batch_norm_holds_where_it_trains(network, preset, batch_norm):
    _, paths = network
    found = make(paths, preset, batch_norm=batch_norm)
    last = found.phases[-1]
    norms = {path.rpartition("/")[0] for path in paths if path.endswith("/scale")}
    trained = {
        path.rpartition("/")[0] for part in last.trained.values() for path in part
    }
    auto = make(paths, preset).phases[-1].frozen_statistics
    if batch_norm == "train":
        assert last.frozen_statistics == auto
    else:
        assert last.frozen_statistics == norms
    if batch_norm == "frozen":
        assert not trained & norms


def flops(preset, **settings):
    """Returns the floating-point operations of a training step of a small ResNet."""
    config = Config(
        num_steps=2,
        num_devices=1,
        model=Model(width=8, stem="small"),
        data=Data(source="synthetic", num_examples=64, image_size=16, batch_size=8),
        plan=Plan(preset=preset, **settings),
    )
    run = prepare(config)
    (phase,) = run.plan.phases
    step = jax.jit(programs.train_step(run, phase))
    args = run.abstract_state(), run.abstract_batch("train"), run.abstract_stored()
    return step.lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_what_is_frozen_has_no_backward_pass():
    """A backward pass costs two forward passes; that of a frozen prefix is not there.

    All four stages cost about the same, so that the last one trains for the forward
    pass of the network and the backward pass of a quarter of it.
    """
    full = flops("full")
    assert flops("head") < 0.45 * full
    assert flops("last_k", last_k=1) < 0.6 * full
