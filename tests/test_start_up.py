"""Before the first step: first values, programs that are kept, the clock."""

import errno
import functools
import os
import subprocess
import sys
from pathlib import Path

import gans
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import linen as nn
from phases import everything

from tljax import compiled, initial, models
from tljax.errors import ConfigError
from tljax.models import initializers
from tljax.plan import Row
from tljax.stopwatch import Stopwatch, process_age
from tljax.tasks import gan


def assert_equal(first, second):
    """Bit for bit."""
    first, second = (
        jax.tree.map(
            lambda leaf: (
                jax.random.key_data(leaf)
                if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                else leaf
            ),
            tree,
        )
        for tree in (first, second)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (1, 1, 64, 256)])
def test_kernels_are_drawn_as_flax_draws_them(key, shape):
    drawn = initializers.kaiming_normal(key, shape)
    flax = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    # From jax 0.12 on the two are multiplied in one program, and round differently.
    np.testing.assert_allclose(drawn, flax(key, shape), rtol=3e-7)
    assert abs(float(drawn.std()) - (2 / (shape[0] * shape[1] * shape[3])) ** 0.5) < 0.1


def test_first_values_are_those_of_init(key):
    images = jnp.zeros((1, 8, 8, 3))
    for model in (
        models.create("resnet18", num_classes=3, width=2, stem="small"),
        tiny_model.TinyNet(),
    ):
        init = lambda: model.init(key, images)  # noqa: B023, E731
        assert_equal(initial.evaluate(init), init())


def test_a_network_is_traced_once_for_its_variables(key):
    """Though names, shapes and values are each asked for."""
    traced = []

    class Net(nn.Module):
        @nn.compact
        def __call__(self, images):
            traced.append(images.shape)
            return nn.Dense(3)(images)

    model, shape = Net(), (4, 4, 2)
    create = lambda: initial.create_variables(model, key, shape)  # noqa: E731
    expected = model.init(key, jnp.zeros((1, *shape)))
    traced.clear()
    found = initial.shapes_of(model, shape), jax.eval_shape(create)
    assert found[0] == found[1] == jax.eval_shape(lambda: expected)
    device = jax.devices()[1]
    values = initial.evaluate(create, device=device)
    assert_equal(values, expected)
    assert {leaf.device for leaf in jax.tree.leaves(values)} == {device}
    assert traced == [(1, *shape)]


def test_the_network_is_no_part_of_its_first_values(key):
    """Kernels are drawn by programs that they share, and nothing is convolved."""
    model = models.create("resnet18", num_classes=3, width=2, stem="small")
    create = lambda: initial.create_variables(model, key, (8, 8, 3))  # noqa: E731
    equations = jax.make_jaxpr(create)().eqns
    found = {each.params["name"] for each in equations if "name" in each.params}
    assert found == {"_normal", "_uniform"}
    assert not [each for each in equations if "conv" in each.primitive.name]


def test_first_values_of_a_state():
    """With what is in it twice: a moving average, and weights that it decays to."""
    course = tiny_model.Course(
        [Row("")], ema_decay=0.9, decay_towards="start", weight_decay=0.1
    )
    assert_equal(initial.evaluate(course.create), course.create())


@pytest.mark.slow
def test_first_values_of_a_gan(key):
    """Its vectors are computed from its kernels."""
    config = gans.make_config(spectral_norm=True)
    model, _, _ = gans.make_parts(config)
    parts = {"model": model, "phase": everything(model, (8, 8, 1)), "config": config}
    tx = gan.create_optimizer(config, lambda step: 0.1, {"row0": Row("")})
    create = lambda: gan.create_state(key, (8, 8, 1), tx=tx, **parts)  # noqa: E731
    # What is drawn by itself and computed in one program rounds as in no other.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    found, expected = initial.evaluate(create), create()
    jax.tree.map(close, found.variables, expected.variables)
    assert_equal(found.params, expected.params)


def test_only_what_is_wanted_is_executed(key):
    def create():
        first = jax.random.normal(key, (3,))
        second = jax.pure_callback(lambda: 1 / 0, jax.ShapeDtypeStruct((), jnp.float32))
        return {"a": first, "b": {"c": second}}

    found = initial.evaluate(create, lambda path: path.startswith("a"))
    assert_equal(found["a"], jax.random.normal(key, (3,)))
    assert found["b"]["c"] == jax.ShapeDtypeStruct((), jnp.float32)


@pytest.fixture
def folder(tmp_path):
    """A folder with two programs in it."""
    folder = tmp_path / "compiled"
    assert compiled.open_folder(folder)
    for name in "ab":
        compiled.Store(folder).put(f"jit_{name}", b"program " + name.encode())
    return folder


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_program_is_kept_at_once(folder):
    """Whatever becomes of the process that compiled it."""
    compiled.evict(folder)
    assert entries(folder) == ["jit_a-program", "jit_b-program"]
    assert compiled.Store(folder).get("jit_a") == b"program a"
    assert compiled.Store(folder).get("jit_c") is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_program_is_compiled_again(folder, damage):
    store, path = compiled.Store(folder), folder / "jit_a-program"
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"flipped": flipped, "cut": content[:-3], "empty": b""}[damage])
    assert store.get("jit_a") is None
    assert entries(folder) == ["jit_b-program"]
    store.put("jit_a", b"program a")
    assert store.get("jit_a") == b"program a"


def test_a_program_that_a_full_disk_cuts_short_is_not_kept(folder, monkeypatch):
    write = Path.write_bytes

    def full(path, data):
        write(path, data[:-2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    compiled.Store(folder).put("jit_c", b"program c")
    assert entries(folder) == ["jit_a-program", "jit_b-program"]


def test_the_programs_used_last_are_kept(folder, monkeypatch):
    for name in "ab":
        os.utime(folder / f"jit_{name}-program", (1, 1))
    compiled.Store(folder).get("jit_a")
    (folder / "of_xla").mkdir()
    monkeypatch.setattr(compiled, "LIMIT", 20)
    compiled.evict(folder)
    assert entries(folder) == ["jit_a-program", "of_xla"]


def test_what_another_process_deletes_meanwhile_is_no_error(folder, monkeypatch):
    gone = folder / "jit_gone-program"
    listed = [*folder.iterdir(), gone]
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(listed))
    monkeypatch.setattr(compiled, "LIMIT", 20)
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path: (unlink(path), unlink(path)))
    compiled.evict(folder)
    assert sum(path.exists() for path in listed) == 1


def test_jax_asks_for_programs_here(tmp_path, monkeypatch):
    """And not any more after the context."""
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    make = compiled.find_within_jax().get_file_cache
    jax.config.update("jax_compilation_cache_dir", None)
    found = []
    get = compiled.Store.get
    monkeypatch.setattr(
        compiled.Store, "get", lambda *args: (found.append(get(*args)), found[-1])[1]
    )
    run = lambda: jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()  # noqa: E731
    try:
        for _ in range(2):
            with compiled.cache():
                run()
        # The scalar is a program too.
        kept = [each for each in found if each is not None]
        assert len(found) == 2 * len(kept) > 0
        assert len(entries(tmp_path / "compilation_cache")) == len(kept)
        run()
        assert len(found) == 2 * len(kept)
        assert compiled.find_within_jax().get_file_cache is make
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_that_others_write_to_is_refused(folder):
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="which others may write to: chmod 700"):
        compiled.open_folder(folder)


def test_a_folder_that_cannot_be_made_costs_time_alone(tmp_path):
    (tmp_path / "file").write_text("")
    assert not compiled.open_folder(tmp_path / "file" / "compiled")


def test_the_time_to_the_first_step_in_parts():
    stopwatch = Stopwatch(already=100.0)
    stopwatch.lap("import")
    stopwatch.lap("data")
    stopwatch.lap("import")
    assert stopwatch.line(compiling=3.0) == (
        "first step after 100.0 s: import 100.0, data 0.0; beside them compile 3.0"
    )
    assert 0 < process_age() < 1e5


CODE = """
import sys, jax
from tljax import entry
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
run = lambda argv: jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
print(entry.run_command(run, []), "/jax/compilation_cache/cache_hits" in hits)
"""


@pytest.mark.slow
def test_a_second_process_takes_what_the_first_compiled(tmp_path):
    env = {**os.environ, "TLJAX_HOME": str(tmp_path)}
    for name in list(env):
        if "COMPILATION_CACHE" in name or "PERSISTENT_CACHE" in name:
            del env[name]

    def run(**changes):
        process = subprocess.run(
            [sys.executable, "-c", CODE],
            env=env | changes,
            capture_output=True,
            text=True,
        )
        return process.stdout.split(), process.stderr

    off = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    assert run(**off)[0] == ["0", "False"]
    assert not (tmp_path / "compilation_cache").exists()
    assert run()[0] == ["0", "False"]
    assert run()[0] == ["0", "True"]
    for entry in (tmp_path / "compilation_cache").glob("*-program"):
        entry.write_bytes(entry.read_bytes()[:-7])
    out, err = run()
    assert (out, "Error reading" in err) == (["0", "False"], False)
    assert run()[0] == ["0", "True"]
    (tmp_path / "compilation_cache").chmod(0o777)
    out, err = run()
    assert out == ["2", "False"] and err.startswith("tljax: compiled programs are not")
    assert len(err.splitlines()) == 1
