"""The config: what it allows, what it says about what it does not."""

import dataclasses
import re
from pathlib import Path

import pytest

from tljax import config as config_lib
from tljax import settings
from tljax.config import Config, Data, Loss, Model, Optim, Plan, Row, validate
from tljax.errors import ConfigError

SOURCE = Path(config_lib.__file__).parent


def test_defaults_are_valid_and_kept():
    assert validate(Config()) == Config()


def test_every_field_is_documented():
    for name, field in settings.fields(Config):
        assert field.metadata["doc"], name


def test_every_field_is_read_somewhere():
    """A setting that nothing reads would promise what nothing does."""
    code = "\n".join(
        path.read_text()
        for path in SOURCE.rglob("*.py")
        if path.name not in ("config.py", "sections.py", "command_line.py")
    )
    owners = "config|data|model|optim|loss|transfer|plan|autoencoder|gan|settings|c"
    for name, _ in settings.fields(Config):
        last = name.rsplit(".", 1)[-1]
        assert re.search(rf"\b({owners})\.{last}\b", code), name


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_steps": 0}, "config.num_steps = 0 must be at least 1"),
        ({"num_steps": 2.0}, "config.num_steps = 2.0 must be int"),
        ({"num_steps": True}, "config.num_steps = True must be int"),
        ({"seed": "1"}, "config.seed = '1' must be int"),
        ({"baseline": 1}, "config.baseline = 1 must be bool"),
        ({"task": "classify"}, "config.task = 'classify' is unknown"),
        ({"compile": "pmapp"}, "config.compile = 'pmapp' is unknown"),
        ({"precision": "float16"}, r"did you mean .*; choose from: float32, bfloat16"),
        (
            {"model": Model(name="resnet5")},
            r"config.model.name = 'resnet5' is unknown \(did you mean 'resnet50'\?\); "
            "choose from: resnet18, resnet34",
        ),
        ({"data": Data(source="digit")}, "did you mean 'digits'"),
        (
            {"data": Data(val_fraction=0)},
            "config.data.val_fraction = 0.0 must be above",
        ),
        ({"data": Data(val_fraction=0.6, test_fraction=0.4)}, "nothing to train on"),
        ({"data": Data(std=(0.0,))}, r"config.data.std = \(0.0,\) must be above 0"),
        ({"data": Data(mean=("a",))}, r"config.data.mean\[0\] = 'a' must be float"),
        ({"data": 3}, "config.data = 3 must be Data"),
        ({"data": Model()}, r"config.data = Model\(.*\) must be Data"),
        ({"pretrain": Model()}, r"config.pretrain = Model\(.*\) must be Config"),
        (
            {"data": Data(mean=(float("inf"),))},
            r"mean\[0\] = inf must be a finite number",
        ),
        ({"seed": 2**64}, f"config.seed = {2**64} must be below {2**32}"),
        (
            {"optim": Optim(accumulate_steps=4, warmup_steps=6)},
            "config.optim.warmup_steps = 6 must be a multiple of",
        ),
        ({"optim": Optim(name="Adam")}, "did you mean 'adam'.*choose from: gradient"),
        ({"optim": Optim(learning_rate=-1)}, "learning_rate = -1.0 must be above 0"),
        ({"optim": Optim(learning_rate=float("nan"))}, "must be a finite number"),
        ({"optim": Optim(momentum=1)}, "config.optim.momentum = 1.0 must be below 1"),
        ({"loss": Loss(class_weights=(0, 0))}, r"class_weights = \(0.0, 0.0\) weigh n"),
        ({"optim": Optim(final_factor=2)}, "final_factor = 2.0 must be at most 1"),
        ({"optim": Optim(warmup_steps=1000)}, "must be below config.num_steps = 1000"),
        (
            {"optim": Optim(schedule="one_cycle", warmup_steps=3)},
            "must be 0 with the one_cycle schedule",
        ),
        (
            {"optim": Optim(accumulate_steps=3)},
            "num_steps = 1000 must be a multiple of",
        ),
        (
            {"pretrained": "torch:x"},
            "must be empty or torchvision:NAME or .* or run:WORKDIR",
        ),
        (
            {"pretrained": "run:"},
            "must be empty or torchvision:NAME or .* or run:WORKDIR",
        ),
        ({"pretrained": "run:/x", "pretrain": Config()}, "are both set"),
        ({"pretrain": Config(seed=-1)}, "config.pretrain.seed = -1 must be at least 0"),
        ({"pretrain": 3}, r"config.pretrain = 3 must be Config \| None"),
        (
            {"plan": Plan(rows=(Row(weight_decay=-1),))},
            r"config.plan.rows\[0\].weight_decay = -1.0 must be at least 0",
        ),
        (
            {"plan": Plan(rows=(Row(), Row(weight_decay="high")))},
            r"config.plan.rows\[1\].weight_decay = 'high' must be float \| None",
        ),
        ({"plan": Plan(rows=(Row(weight_decay=float("nan")),))}, "a finite number"),
        ({"plan": Plan(rows=(Row(weight_decay=True),))}, "= True must be float"),
        ({"plan": Plan(rows=("fc",))}, r"config.plan.rows\[0\] = 'fc' must be Row"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as raised:
        validate(Config(**change))
    assert "\n" not in str(raised.value)


def test_numbers_take_the_type_of_their_field():
    data = Data(mean=[1], classes=(5, "6"))
    config = validate(Config(optim=Optim(learning_rate=1), data=data))
    assert config.optim.learning_rate == 1.0
    assert isinstance(config.optim.learning_rate, float)
    assert config.data.mean == (1.0,) and config.data.classes == ("5", "6")


def test_a_decay_of_a_row_is_a_number_or_none():
    rows = [Row(weight_decay=decay) for decay in (None, 0.1, 2)]
    checked = validate(Config(plan=Plan(rows=rows))).plan.rows
    assert [row.weight_decay for row in checked] == [None, 0.1, 2.0]


def test_a_misspelt_attribute_cannot_be_set():
    with pytest.raises(AttributeError):
        Config().num_step = 3


def test_sections_are_not_shared():
    first, second = Config(), Config()
    first.optim.learning_rate = 5.0
    assert second.optim.learning_rate != 5.0
    assert dataclasses.asdict(Config()) == dataclasses.asdict(second)
