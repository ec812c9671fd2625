"""Memory: what is computed again, what is taken over, and too little of it."""

import functools
import os
import re
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from tljax import dry_run, host_memory, memory, models, parallel, programs, train
from tljax.config import Config
from tljax.consistency import batch_unit, check_dealing
from tljax.errors import ConfigError, RunError
from tljax.plan import Row
from tljax.run import prepare
from tljax.tasks import classification


def test_blocks_that_are_computed_again_have_the_same_gradients(key):
    """With statistics, names and dropped rows as they are; less is kept meanwhile.

    XLA's own figure cannot tell: for CPUs it joins what is computed twice.
    """
    images = jax.random.normal(key, (4, 16, 16, 3))
    found = []
    for remat in (False, True):
        model = models.resnet.ResNet(
            (1, 1),
            models.resnet.BasicBlock,
            num_classes=3,
            width=4,
            stem="small",
            stochastic_depth=0.3,
            frozen_statistics=frozenset({"layer2_0/bn1"}),
            remat=remat,
        )
        variables = jax.jit(model.init)(key, images)

        def loss_of(params, variables=variables, model=model):
            logits, updated = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return jnp.mean(logits**2), updated

        def backward(params, loss_of=loss_of):
            return jax.vjp(loss_of, params, has_aux=True)[1]

        kept = jax.tree.leaves(jax.eval_shape(backward, variables["params"]))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in kept)
        gradients = jax.jit(jax.grad(loss_of, has_aux=True))(variables["params"])
        found.append((size, variables, gradients))
    (whole, *first), (less, *second) = found
    assert less < 0.6 * whole
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, first, second)


def test_every_array_of_the_state_takes_the_place_of_the_one_before():
    """The compiled program says so: a pair for each, of an input and an output."""
    course = tiny_model.Course([Row("")], name="adam", ema_decay=0.9)
    state = course.begin()
    step = course.step(course.plan.phases[0]).__wrapped__
    program, _ = parallel.compile_step(
        step,
        state,
        tiny_model.batch(0),
        mesh=parallel.create_mesh("cpu", 1),
        donate_state=True,
    )
    header = program.as_text().split("\n")[0]
    pairs = re.findall(r"\{\d+\}: \(\d+, \{\}", header)
    # The key is the same in both states, and is not written.
    assert len(pairs) >= len(jax.tree.leaves(state)) - 1


def write_group(path, name, limit):
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(f"{limit}\n")


@pytest.mark.parametrize(
    "lines, groups, expected",
    [
        # Version 2: the least of the group's limit and of those above it.
        (["0::/a/b"], {"a": "3000", "a/b": "max"}, 3000),
        (["0::/a/b"], {"a": "3000", "a/b": "2000"}, 2000),
        # In a container: its own root, and a path that is not there.
        (["0::/"], {"": "4000"}, 4000),
        (["0::/outside/x"], {"": "4000"}, 4000),
        # Version 1, beside an empty version 2; no limit is a very large one.
        (["3:cpu,memory:/a", "1:cpu:/x", "0::/"], {"memory/a": "5000"}, 5000),
        (["3:memory:/a"], {"memory/a": 2**63 - 4096, "memory": "6000"}, 6000),
        (["0::/a"], {}, None),
        ([], {"": "10"}, None),
    ],
)
def test_a_group_of_processes_may_have_less_than_the_machine(
    lines, groups, expected, tmp_path
):
    cgroups = tmp_path / "cgroup"
    cgroups.write_text("\n".join(lines))
    for group, limit in groups.items():
        old = group.startswith("memory")
        name = "memory.limit_in_bytes" if old else "memory.max"
        write_group(tmp_path / "mount" / group, name, limit)
    found = host_memory.host_memory(cgroups, tmp_path / "mount")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found == (expected or machine)


def test_devices_of_the_host_share_its_memory(monkeypatch):
    monkeypatch.setattr(parallel, "host_memory", lambda: 4001)
    assert parallel.memory_of(parallel.create_mesh("cpu", 4)) == 1000


@pytest.fixture
def tiny(tiny_config, monkeypatch):
    """A run of a tiny network."""
    make = lambda config, num_classes, shape: tiny_model.TinyNet(num_classes)  # noqa: E731
    monkeypatch.setattr(classification, "create_model", make)
    return tiny_config(num_steps=1)


def tight(monkeypatch, is_tight=lambda: True):
    """Has devices lack half of what a step takes beside its arguments."""
    check = memory.check

    def check_memory(run, program):
        beside = program.memory_analysis().temp_size_in_bytes
        has = parallel.memory_needed(program) - beside // 2 if is_tight() else 10**12
        monkeypatch.setattr(parallel, "memory_of", lambda mesh: has)
        check(run, program)

    monkeypatch.setattr(memory, "check", check_memory)


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(
    tiny, tmp_path, monkeypatch
):
    tight(monkeypatch)
    monkeypatch.setattr(train, "make_judge", pytest.fail)  # It would be trained.
    with pytest.raises(ConfigError) as raised:
        train.train_and_evaluate(tiny, tmp_path)
    message = str(raised.value)
    assert "batch_size = 32 of images of 8 px needs about" in message
    assert re.search(r"a batch of 1[56] would fit", message)
    with pytest.raises(ConfigError, match=r"a batch of 1[56] would fit"):
        dry_run.dry_run(tiny)


@pytest.mark.parametrize(
    "task, compile_mode, devices, unit",
    [
        ("classification", "jit", 4, 4),
        ("gan", "jit", 4, 12),
        ("gan", "jit", 1, 6),
        ("gan", "pmap", 4, 24),
    ],
)
def test_a_batch_is_a_multiple_of_what_shares_it(task, compile_mode, devices, unit):
    config = Config(task=task, compile=compile_mode)
    config.gan.discriminator_steps = 6
    assert batch_unit(config, devices) == unit
    if task == "gan":
        check_dealing(config, unit, devices)
        with pytest.raises(ConfigError, match="must divide the batch"):
            check_dealing(config, unit - devices, devices)


def test_a_later_phase_that_does_not_fit_ends_the_run_in_the_first(
    tiny, tmp_path, monkeypatch, capsys
):
    """As soon as it is compiled, which is after the first step; a dry run sees it."""
    tiny.plan.rows = (Row("fc/"), Row("", unfreeze_at=3))
    tiny.num_steps = 4
    made = []
    tight(monkeypatch, lambda: made.append(1) or len(made) > 1)
    begin = programs.Programs.begin

    def begin_and_wait(self):
        begin(self)
        futures.wait([program.future for program in self.all()])

    monkeypatch.setattr(programs.Programs, "begin", begin_and_wait)
    with pytest.raises(RunError, match=r"32 of images .* a batch of 1[56] wo") as error:
        train.train_and_evaluate(tiny, tmp_path)
    assert error.value.exit_code == 1
    out = capsys.readouterr().out
    assert "first step after" in out and "step 2/4" not in out
    made.clear()
    with pytest.raises(ConfigError, match="would fit"):
        dry_run.dry_run(tiny)


def test_no_memory_left_in_a_step_is_one_line(tiny, tmp_path, monkeypatch):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nAllocator")

    def step(*args):
        raise error

    monkeypatch.setattr(programs.Program, "__call__", step)
    needed = lambda run, program, batch_size: batch_size * 1e8  # noqa: E731
    monkeypatch.setattr(memory, "needed_by", needed)
    monkeypatch.setattr(parallel, "memory_needed", lambda program: 3.25e9)
    monkeypatch.setattr(parallel, "memory_of", lambda mesh: 7e9)
    pattern = (
        r"= 32 of images of 8 px, which needs about 3\.25 GB of 7\.00 GB; take a batch "
        r"of 16, about 1\.60 GB: RESOURCE"
    )
    with pytest.raises(RunError, match=pattern) as raised:
        train.train_and_evaluate(tiny, tmp_path)
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        train.train_and_evaluate(tiny, tmp_path)


def test_what_a_smaller_batch_needs(tiny):
    """The compiler's own figure, all but."""
    run = prepare(tiny)._replace(batch_size=1024)
    (phase,) = run.plan.phases
    whole, _ = programs.compile_train_step(run, phase)
    half, _ = programs.compile_train_step(run._replace(batch_size=512), phase)
    needs = [parallel.memory_needed(program) for program in (whole, half)]
    assert needs[0] > 1.2 * needs[1]
    found = [memory.needed_by(run, whole, size) for size in (1024, 512)]
    np.testing.assert_allclose(found, needs, rtol=0.05)
