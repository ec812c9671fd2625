"""Training: losses, gradients, weights and statistics equal torch's in float64.

The step is the one that trains. In float32 the gradients of deep ReLU networks differ
by per cents within torch itself, so only loss and statistics are compared there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")

from phases import everything  # noqa: E402

from tljax import models, optim  # noqa: E402
from tljax.config import Config, Loss, Optim  # noqa: E402
from tljax.data import transforms  # noqa: E402
from tljax.plan import Row  # noqa: E402
from tljax.pretrained import mapping  # noqa: E402
from tljax.state import TrainState  # noqa: E402
from tljax.tasks import classification  # noqa: E402

OPTIM = Optim(name="momentum", learning_rate=1e-3, momentum=0.9, weight_decay=1e-2)
CONFIG = Config(num_steps=3, optim=OPTIM, loss=Loss(label_smoothing=0.1))


@pytest.fixture(autouse=True)
def optimise():
    """Convolutions in float64 are plain loops, which had better be compiled well."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def draw_batches(num_steps, size, batch_size=4):
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
            "label": rng.integers(0, 10, batch_size).astype(np.int32),
        }
        for _ in range(num_steps)
    ]


def condition(model, images):
    """Gives a torch model statistics that suit it, and quiet residual branches.

    Three steps of a network that blows its activations up multiply rounding by 10^5.
    """
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "downsample"):
                last = module.bn3 if hasattr(module, "bn3") else module.bn2
                last.weight.mul_(0.3)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.9
        model.train()(images)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1


def as_torch(images, dtype):
    """Returns uint8 images as torch normalises them, [b, c, h, w]."""
    mean, std = transforms.IMAGENET[2:]
    images = (images / 255.0 - np.array(mean)) / np.array(std)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(dtype)


def train_torch(model, batches, dtype, frozen):
    """Yields the loss, the state dict and the momenta after each step."""
    model = model.to(dtype).train()
    if frozen:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    kernels = [leaf for leaf in model.parameters() if leaf.ndim > 1]
    vectors = [leaf for leaf in model.parameters() if leaf.ndim == 1]
    # Weight decay is of kernels alone, as torchvision's --norm-weight-decay=0 does.
    groups = [
        {"params": kernels, "weight_decay": OPTIM.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, OPTIM.learning_rate, OPTIM.momentum)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    for batch in batches:
        images = as_torch(batch["image"], dtype)
        loss = criterion(model(images), torch.from_numpy(batch["label"]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = {key: leaf.numpy() for key, leaf in model.state_dict().items()}
        momenta = {
            key: optimizer.state[leaf]["momentum_buffer"].numpy()
            for key, leaf in model.named_parameters()
        }
        yield loss.item(), state, momenta


def train_ours(name, variables, batches, frozen):
    """Yields the loss and the state after each step, all in the weights' dtype."""
    model = models.create(name, num_classes=10)
    mode = "frozen_statistics" if frozen else "train"
    phase = everything(model, (40, 40, 3), mode)
    schedule = optim.create_schedule(OPTIM, CONFIG.num_steps)
    tx = optim.create_optimizer(OPTIM, schedule, {"row0": Row("")})
    step = functools.partial(
        classification.train_step,
        model=model,
        tx=tx,
        schedule=schedule,
        phase=phase,
        transform=transforms.IMAGENET._replace(resize=0, crop=0),  # Whole images.
        config=CONFIG,
    )
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        **variables,
        opt_state=tx.init({"row0": variables["params"]}),
        ema={},
        key=jax.random.key(0),
    )
    step = jax.jit(step, donate_argnums=0)
    for batch in batches:
        state, metrics = step(state, batch)
        yield float(metrics["loss"]), state


def to_ours(arrays, dtype):
    """Returns {path: array in our order of axes} of torch's arrays."""
    flat = {}
    for key, value in arrays.items():
        if not mapping.is_counter(key):
            axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, (0,))
            flat[mapping.path_of(key, value.ndim)] = value.transpose(axes).astype(dtype)
    return flat


def relative_errors(tree, expected):
    """Returns {path: largest difference over largest value}, a tensor each."""
    errors = {}
    for path, value in expected.items():
        found = tree
        for part in path:
            found = found[part]
        scale = np.abs(value).max() or 1.0
        errors["/".join(path)] = np.abs(np.asarray(found) - value).max() / scale
    return errors


def worst(errors):
    name = max(errors, key=errors.get)
    return f"{errors[name]:.1e} ({name})"


@pytest.mark.parametrize("frozen", [False, True], ids=["train", "frozen_statistics"])
@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"]
)
def test_three_steps_are_torchs_in_float64(name, frozen, make_torch_model):
    batches = draw_batches(num_steps=3, size=40)
    theirs = make_torch_model(name, num_classes=10)
    condition(theirs, as_torch(batches[0]["image"], torch.float32))
    start = {key: leaf.numpy().copy() for key, leaf in theirs.state_dict().items()}
    expected = train_torch(theirs, batches, torch.float64, frozen)
    with jax.enable_x64(True):
        variables = mapping.to_variables(start, name)
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        found = train_ours(name, variables, batches, frozen)
        for (loss, state), (expected_loss, arrays, momenta) in zip(
            found, expected, strict=True
        ):
            assert loss == pytest.approx(expected_loss, rel=1e-8)
            # The momentum holds the gradient, with its weight decay.
            trace = {"params": state.opt_state["row0"][1][0].trace}
            errors = {
                "momenta": relative_errors(trace, to_ours(momenta, np.float64)),
                "state": relative_errors(state.variables, to_ours(arrays, np.float64)),
            }
            for kind, values in errors.items():
                print(name, int(state.step), kind, len(values), worst(values))
                assert max(values.values()) <= 1e-8
    before = to_ours({k: v for k, v in start.items() if "running" in k}, np.float64)
    moved = max(relative_errors(state.variables, before).values())
    assert (moved == 0) if frozen else (moved > 0.1)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_loss_and_statistics_are_torchs_in_float32(name, make_torch_model):
    batches = draw_batches(num_steps=1, size=64, batch_size=8)
    theirs = make_torch_model(name, num_classes=10)
    condition(theirs, as_torch(batches[0]["image"], torch.float32))
    start = {key: leaf.numpy().copy() for key, leaf in theirs.state_dict().items()}
    ((expected_loss, arrays, _),) = train_torch(theirs, batches, torch.float32, False)
    variables = jax.tree.map(jnp.asarray, mapping.to_variables(start, name))
    ((loss, state),) = train_ours(name, variables, batches, False)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    arrays = {key: value for key, value in arrays.items() if "running" in key}
    errors = relative_errors(state.variables, to_ours(arrays, np.float32))
    print(name, len(errors), "statistics", worst(errors))
    assert max(errors.values()) <= 1e-5
