"""The command line: overrides, and one line for each mistake."""

import dataclasses

import pytest

from tljax import command_line, settings
from tljax.config import Config, Row
from tljax.errors import ConfigError

PLAIN = """
from tljax.config import Config
def get_config():
    return Config(num_steps=7, pretrain=Config(num_steps=3))
"""


@pytest.fixture
def parse(tmp_path):
    """Returns a function that parses flags behind a config file holding `text`."""

    def run(*flags, text=PLAIN, workdir="/tmp/x"):
        path = tmp_path / "file.py"
        path.write_text(text)
        return command_line.parse(
            ["main", f"--config={path}", f"--workdir={workdir}", *flags]
        )

    return run


def test_overrides_reach_every_depth(parse):
    options = parse(
        "--config.optim.learning_rate=1e-3",
        "--config.data.classes=3,4",
        "--config.data.mean=0.1,0.2,0.3",
        "--config.baseline",
        "--config.pretrain.num_steps",
        "5",
        "--config.pretrain.model.width=8",
    )
    assert options.config.optim.learning_rate == 1e-3
    assert options.config.data.classes == ("3", "4")
    assert options.config.data.mean == (0.1, 0.2, 0.3)
    assert options.config.baseline is True
    assert options.config.num_steps == 7
    assert options.config.pretrain.num_steps == 5
    assert options.config.pretrain.model.width == 8
    assert options.workdir == "/tmp/x" and not options.dry_run


def test_pretraining_can_be_taken_out_and_put_in(parse):
    assert parse("--config.pretrain=none").config.pretrain is None
    text = "from tljax.config import Config as get_config"
    options = parse("--config.pretrain=build", "--config.pretrain.seed=4", text=text)
    assert options.config.pretrain.seed == 4


def test_a_field_of_a_pretraining_that_is_not_there(parse):
    text = "from tljax.config import Config as get_config"
    with pytest.raises(ConfigError, match=r"give --config\.pretrain=build before"):
        parse("--config.pretrain.seed=4", text=text)


def test_the_config_file_may_stand_anywhere_and_apart(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(PLAIN)
    argv = ["main", "--config.seed=2", "--dry_run", "--config", str(path)]
    options = command_line.parse(argv)
    assert options.config.seed == 2 and options.dry_run


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config.optim.lerning_rate=1"], "did you mean 'optim.learning_rate'?"),
        (["--config.pretrain.num_step=1"], "no field 'pretrain.num_step'; did you"),
        (["--config.num_steps=2.5"], "--config.num_steps=2.5: invalid literal"),
        (["--config.num_steps=many"], "--config.num_steps=many: invalid literal"),
        (["--config.baseline=perhaps"], "--config.baseline=perhaps"),
        (["--config.model.name=vgg"], "config.model.name = 'vgg' is unknown"),
        (["--workdirs=/x"], "Did you mean: workdir"),
        (["--num_steps=4"], "Did you mean: --config.num_steps ?"),
        (["--learning_rate=4"], "Did you mean: --config.optim.learning_rate ?"),
        (["--config.data=3"], "config.data is a section; set --config.data.FIELD"),
        (["7"], "unexpected argument '7'"),
        (["--workdir="], "--workdir is missing"),
    ],
)
def test_mistakes_in_flags(parse, flags, message):
    with pytest.raises(ConfigError) as raised:
        parse(*flags)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(: pass", "SyntaxError"),
        ("x = 1", "file.py has no function get_config()"),
        ("def get_config(): return 3", "returned a int, not a Config"),
        ("import not_there", "file.py:1: ModuleNotFoundError"),
        (
            "from tljax.config import Config\n"
            "def get_config():\n"
            "    return Config(num_step=3)",
            "file.py:3: TypeError",
        ),
        (
            "from tljax.config import Config\n"
            "def get_config():\n"
            "    config = Config()\n"
            "    config.optim.lerning_rate = 3\n"
            "    return config",
            "file.py:4: AttributeError",
        ),
    ],
)
def test_mistakes_in_the_file(parse, text, message):
    with pytest.raises(ConfigError) as raised:
        parse(text=text)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_misspelt_fields_in_the_file_are_recognised(parse):
    for line in ("Config(optim=Optim(lerning_rate=3))", "Config(lerning_rate=3)"):
        text = f"from tljax.config import *\ndef get_config(): return {line}"
        with pytest.raises(ConfigError, match="learning_rate"):
            parse(text=text)
    text = "from tljax.config import *\nRow('fc', unfreze_at=3)"
    with pytest.raises(ConfigError, match="'unfreeze_at'"):
        parse(text=text)


def test_missing_files():
    with pytest.raises(ConfigError, match=r"'nowhere\.py' does not exist"):
        command_line.parse(["main", "--config=nowhere.py", "--workdir=/x"])
    with pytest.raises(ConfigError, match=r"--config=FILE\.py is missing"):
        command_line.parse(["main", "--workdir=/x"])


def test_help_lists_every_field_with_default_and_choices(capsys):
    command_line.print_help()
    text = capsys.readouterr().out
    for name, field in settings.fields(Config):
        assert f"--config.{name}: " in text and repr(field.default) in text
    assert "wide_resnet101_2" in text and "one_cycle" in text
    operations, rows = text.split("\nRows for config.plan.rows")
    assert "  RandomErasing: " in operations
    for field in dataclasses.fields(Row):
        assert f"    {field.name}: " in rows
    assert "weight_decay: float | None = None" in rows
