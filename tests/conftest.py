"""Four virtual CPU devices, strict ranks, and one compilation cache for all tests."""

import os

# Before jax is imported: it reads these once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import pytest

from tljax import entry
from tljax.config import Config, Data, Model, Optim
from tljax.evaluation import plots


def pytest_configure():
    """Has XLA write code in an older way here, which takes it less than half the time.

    Compiling is most of what tests do. With jax 0.12 there is no choice. Runs as
    processes know nothing of it.
    """
    flags = os.environ["XLA_FLAGS"]
    if jax.__version__.startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    jax.devices()  # Reads the flags, once and for all.
    os.environ["XLA_FLAGS"] = flags


@pytest.fixture(scope="session", autouse=True)
def strict_jax(tmp_path_factory):
    """Silent broadcasting between ranks is an error; programs are compiled once."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # Runs as processes are fully optimised.
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # Subprocesses of the tests share the cache.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def call_command(capfd):
    """Returns a function that runs a command here: (exit code, stdout, stderr)."""

    def call(command, *flags):
        code = entry.run_command(command.run, ["command", *map(str, flags)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def fast(monkeypatch):
    """Draws no plots, which take most of the time of a small evaluation."""
    monkeypatch.setattr(plots, "save", lambda *args: None)


@pytest.fixture
def tiny_config():
    """Returns a new config of a run that takes a second or two."""

    def make(**changes) -> Config:
        settings = {
            "num_steps": 4,
            "log_every": 1,
            "eval_every": 2,
            "checkpoint_every": 2,
            "num_devices": 1,
            "model": Model(width=2, stem="small"),
            "data": Data(source="digits", batch_size=32),
            "optim": Optim(learning_rate=0.05),
        }
        return Config(**(settings | changes))

    return make
