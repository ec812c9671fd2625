"""Small models on scikit-learn's digits: steps a second beside plain PyTorch.

    pip install -e '.[parity]' && python -m benchmarks.small_models

A step of such a model costs less than starting it, so what counts is how often the host
is asked. On our side images lie on the device and one call makes --steps_per_call
steps; on the other the same model, optimiser and batch size, eager, with images on the
device, the batch gathered there by drawn places. PyTorch runs on all its threads and on
one, which is often faster for so little. All sides take turns in one process. `ratio`
is ours over the best of PyTorch's, in speed, for the model where it is lowest.
`least_ms` is the work of a step at the speed of large matrix products.
"""

from collections.abc import Iterator

import numpy as np
from absl import flags
from jax import numpy as jnp

from benchmarks import command, machine, timing, torch_side, workload
from benchmarks.timing import Take
from benchmarks.work import Work

BATCH = 64
SMOKE = {"repeats": 2, "calls": 1, "steps_per_call": 1}


def digits() -> dict[str, np.ndarray]:
    """Returns scikit-learn's digits, uint8 [1797, 8, 8, 1], and labels int32."""
    from sklearn import datasets

    found = datasets.load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return {"image": images, "label": found.target.astype(np.int32)}


WORKS = {
    "digits_classifier": Work(model="resnet18", width=16, stem="small"),
    "tied_autoencoder": Work(task="autoencoder", model="tied_autoencoder"),
    "dense_gan": Work(task="gan", model="dense_gan", width=16, latent=16),
    "dcgan": Work(task="gan", model="dcgan", width=32),
}


def work_of(name: str, steps_per_call: int = 1) -> Work:
    """Returns what a model of digits has to do."""
    return WORKS[name]._replace(
        image_size=8, batch_size=BATCH, channels=1, num_classes=10, num_devices=1,
        steps_per_call=steps_per_call,
    )  # fmt: skip


def their_classifier(work: Work, batches: Iterator) -> Take:
    """Returns steps of torchvision's ResNet-18 of that width."""
    from benchmarks import torch_rival

    return torch_rival.make_take(work, "cpu", "eager", batches)


def their_tied(work: Work, batches: Iterator) -> Take:
    """Returns steps of a tied autoencoder."""
    from benchmarks import torch_small

    return timing.repeated(torch_small.make_tied(work, batches))


def their_gan(work: Work, batches: Iterator) -> Take:
    """Returns steps of a GAN."""
    from benchmarks import torch_small

    return timing.repeated(torch_small.make_gan(work, batches))


def drawn(work: Work, images: dict[str, np.ndarray]) -> Iterator:
    """Yields batches of tensors gathered at drawn places."""
    import torch

    from benchmarks import torch_rival

    pixels = torch_rival.normalized(torch.from_numpy(images["image"]), work)
    pixels, labels = pixels.contiguous(), torch.from_numpy(images["label"]).long()
    while True:
        places = torch.randint(len(labels), (work.batch_size,))
        yield pixels[places], labels[places]


# How each is written in PyTorch.
MODELS = {
    "digits_classifier": their_classifier,
    "tied_autoencoder": their_tied,
    "dense_gan": their_gan,
    "dcgan": their_gan,
}


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_list("models", list(MODELS), "to compare", flag_values=values)
    command.define_numbers(
        values,
        steps_per_call=(500, "steps that one call of ours makes"),
        repeats=(5, "turns of each side"),
        calls=(1, "that count, in a turn"),
        torch_threads=(machine.cores(), "of PyTorch, which is tried with one too"),
    )


def compare(name: str, values: flags.FlagValues, images: dict[str, np.ndarray]):
    """Returns our program, and the steps a second of all sides with our ratio."""
    import torch

    steps = values.steps_per_call
    program = workload.prepare(work_of(name, steps), images)
    theirs = MODELS[name](program.work, drawn(program.work, images))

    def on_threads(number: int) -> Take:
        def take(count: int) -> None:
            torch.set_num_threads(number)
            theirs(count * steps)

        return take

    threads = {f"torch_{n}_threads": n for n in (values.torch_threads, 1)}
    rivals = {name: on_threads(number) for name, number in threads.items()}
    times = timing.take_turns(
        {"ours": program.take} | rivals, values.repeats, values.calls
    )
    medians = {name: timing.spread(found)["median"] for name, found in times.items()}
    best = min(rivals, key=medians.get)
    speeds = {
        name: timing.significant(1000 * steps / time) for name, time in medians.items()
    }
    work = machine.flops(program.step, program.arguments)
    peak = machine.matmul_peak(program.mesh, jnp.float32)
    return program, {
        "steps_per_second": speeds,
        "least_ms": work and timing.significant(1000 * work / peak),
        "best": best,
        "compile_seconds": round(program.seconds, 2),
        **timing.ratio(times["ours"], times[best]),
    }


def run(argv: list[str]) -> None:
    """Compares what the command line asks for; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    command.check(values, models=MODELS)
    torch_side.check_torch()
    import torch

    images, rows = digits(), {}
    for name in values.models:
        program, rows[name] = compare(name, values, images)
    where = machine.describe(program.mesh)
    worst = min(rows.values(), key=lambda row: row["ratio"])
    result = {
        "benchmark": "small_models",
        "batch_size": BATCH,
        "steps_per_call": values.steps_per_call,
        **{name: worst[name] for name in ("ratio", "ratio_low", "ratio_high")},
        "models": rows,
        **where,
        "versions": where["versions"] | {"torch": torch.__version__},
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
