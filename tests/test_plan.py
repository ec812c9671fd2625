"""Rows of a plan: what each governs, and what a phase then changes, bit by bit."""

import re

import jax
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import PATHS, Course

from tljax import plan
from tljax.errors import ConfigError
from tljax.plan import Row, resolve

BACKBONE = [path for path in PATHS if not path.startswith("fc")]


def test_the_first_row_that_matches_holds():
    found = resolve([Row("conv2/"), Row("conv"), Row("")], PATHS)
    assert found.governed["row0"] == ("conv2/kernel",)
    assert found.governed["row1"] == ("conv1/kernel",)
    rest = {path for path in PATHS if not path.startswith("conv")}
    assert set(found.governed["row2"]) == rest


def test_a_pattern_is_of_the_beginning_of_a_path():
    """And of no other place: kernel matches nothing, .*/kernel all kernels."""
    with pytest.raises(ConfigError, match="matches no parameter"):
        resolve([Row("kernel"), Row("")], PATHS)
    found = resolve([Row(".*/kernel"), Row("")], PATHS)
    assert found.governed["row0"] == tuple(p for p in PATHS if p.endswith("kernel"))


@pytest.mark.parametrize(
    "rows, message",
    [
        ([Row("fc("), Row("")], r"rows[0].pattern = 'fc(' is no regular expression: "),
        (
            [Row(""), Row("fc")],
            "rows[1].pattern = 'fc' matches nothing that the rows before it have left",
        ),
        (
            [Row("layer4"), Row("")],
            "rows[0].pattern = 'layer4' matches no parameter; their paths begin with "
            "bn1, bn2, conv1, conv2, fc",
        ),
        (
            [Row("fc")],
            "no row matches bn1/bias, bn1/scale, bn2/bias, bn2/scale, conv1/kernel "
            "and 1 more; a last Row('', train=False) freezes the rest",
        ),
        ([Row("", train=False)], "every parameter is frozen; nothing would train"),
        (
            [Row("bn", batch_norm="frozen"), Row("", train=False)],
            "every parameter is frozen; nothing would train",
        ),
        (
            [Row("fc", unfreeze_at=20), Row("", unfreeze_at=10)],
            "every parameter is frozen until step 10; set unfreeze_at",
        ),
    ],
)
def test_mistakes_are_one_line_with_what_would_be_right(rows, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        resolve(rows, PATHS)
    assert str(raised.value).startswith("config.plan.rows")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "row, frozen, trains, recalibrated",
    [
        (Row("bn1"), [], True, False),
        (Row("bn1", train=False), [0, 5], False, False),
        (Row("bn1", batch_norm="train"), [], True, False),
        (Row("bn1", train=False, batch_norm="train"), [], False, False),
        (Row("bn1", batch_norm="frozen_statistics"), [0, 5], True, False),
        (Row("bn1", batch_norm="frozen"), [0, 5], False, False),
        (Row("bn1", batch_norm="recalibrate"), [0, 5], True, True),
        (Row("bn1", train=False, batch_norm="recalibrate"), [0, 5], False, True),
        (Row("bn1", unfreeze_at=5), [0], True, False),
        (Row("bn1", unfreeze_at=5, batch_norm="frozen"), [0, 5], False, False),
    ],
)
def test_what_becomes_of_batch_norm(row, frozen, trains, recalibrated):
    """`frozen` are the phases that normalise with running statistics."""
    found = resolve([row, Row("conv1", unfreeze_at=5), Row("")], PATHS)
    assert [phase.start for phase in found.phases] == [0, 5]
    for phase in found.phases:
        expected = {"bn1"} if phase.start in frozen else set()
        assert phase.frozen_statistics == expected
    last = found.phases[-1].trained
    assert last.get("row0") == (("bn1/bias", "bn1/scale") if trains else None)
    assert found.recalibrated == ({"bn1"} if recalibrated else set())


def test_scales_and_offsets_in_mode_frozen_are_left_out_of_their_row():
    found = resolve([Row("", batch_norm="frozen")], PATHS)
    kept = tuple(path for path in PATHS if not path.startswith("bn"))
    assert found.phases[0].trained == {"row0": kept}
    assert found.governed == {"row0": tuple(PATHS)}


def test_the_phase_of_a_step():
    found = resolve([Row("fc"), Row("conv", unfreeze_at=3), Row("bn")], PATHS)
    assert [found.phase_of(step).start for step in (0, 2, 3, 4, 99)] == [0, 0, 3, 3, 3]


patterns = st.sampled_from(
    ["fc", "conv", "conv1/", "bn1", "bn", ".*/kernel", ".*/bias", "(conv2|bn2)/", ""]
)
drawn_rows = st.lists(
    st.builds(
        Row,
        patterns,
        train=st.booleans(),
        unfreeze_at=st.sampled_from([0, 0, 3, 7]),
        batch_norm=st.sampled_from(plan.BATCH_NORMS),
    ),
    max_size=4,
).map(lambda rows: [*rows, Row("")])


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(drawn_rows)
def test_any_rows_govern_every_parameter_once(rows):
    """What is refused is refused rightly; phases only ever add parameters."""
    owners = {
        path: next(n for n, row in enumerate(rows) if re.match(row.pattern, path))
        for path in PATHS
    }
    try:
        found = resolve(rows, PATHS)
    except ConfigError as error:
        idle = set(range(len(rows))) - set(owners.values())
        assert idle or "every parameter is frozen" in str(error)
        return
    governed = [path for paths in found.governed.values() for path in paths]
    assert sorted(governed) == PATHS
    before = set()
    for phase in found.phases:
        trained = {path for paths in phase.trained.values() for path in paths}
        assert trained and trained >= before
        before = trained
        for path in PATHS:
            row, layer = rows[owners[path]], path.rpartition("/")[0]
            frozen = layer.startswith("bn") and plan.batch_norm_of(row) == "frozen"
            begun = row.unfreeze_at <= phase.start
            assert (path in trained) == (row.train and begun and not frozen)
        for layer in ("bn1", "bn2"):
            both = [rows[owners[f"{layer}/{name}"]] for name in ("bias", "scale")]
            moves = all(
                row.unfreeze_at <= phase.start and plan.batch_norm_of(row) == "train"
                for row in both
            )
            assert (layer in phase.frozen_statistics) != moves
    assert {phase.start for phase in found.phases} == {
        0,
        *(row.unfreeze_at for row in rows),
    }


def test_split_and_join_are_inverse():
    params = traverse_util.unflatten_dict(
        {path: np.full(2, number) for number, path in enumerate(PATHS)}, sep="/"
    )
    found = resolve([Row("fc"), Row(".*/kernel"), Row("", train=False)], PATHS)
    (phase,) = found.phases
    trained = plan.split(params, phase)
    assert set(trained) == {"row0", "row1"}
    assert set(trained["row1"]) == {"conv1", "conv2"}
    moved = plan.join(params, jax.tree.map(lambda leaf: leaf + 100, trained))
    for number, path in enumerate(PATHS):
        value = traverse_util.flatten_dict(moved, sep="/")[path][0]
        assert value == number + (100 if path.startswith(("fc", "conv")) else 0)


# Optimiser settings, and the numbers that the state then holds for each parameter.
OPTIMISERS = [
    ({"name": "momentum"}, 1),
    ({"name": "adam", "learning_rate": 0.01, "schedule": "cosine"}, 2),
    ({"name": "momentum", "accumulate_steps": 2}, 2),
    ({"name": "adamw", "clip_norm": 0.1, "weight_decay": 0.1}, 2),
    ({"name": "sgd", "sam_radius": 0.1}, 0),
    ({"name": "nesterov", "ema_decay": 0.9, "warmup_steps": 2}, 1),
    ({"name": "momentum", "decay_towards": "start", "weight_decay": 0.1}, 1),
    (
        {
            "name": "adamw",
            "decay_towards": "start",
            "weight_decay": 0.1,
            "ema_decay": 0.9,
            "clip_norm": 1.0,
            "accumulate_steps": 2,
        },
        3,
    ),
]


def draw_rows(seed):
    """Returns rows of which some train from step 0, some join, and some never train."""
    rng = np.random.default_rng(seed)
    rows = [Row("fc", unfreeze_at=0)]
    for pattern in ("(conv2|bn2)/", "(conv1|bn1)/")[:: rng.choice([1, -1])]:
        modes = ("auto", "train", "frozen_statistics", "frozen")
        rows.append(
            Row(
                pattern,
                train=bool(rng.random() < 0.75),
                learning_rate=float(rng.choice([0.3, 1.0])),
                weight_decay=[None, 0.2][rng.integers(2)],
                unfreeze_at=int(rng.choice([0, 2, 4])),
                batch_norm=str(rng.choice(modes)),
            )
        )
    return rows


def leaves(tree):
    """Returns the leaves of nested dicts by their paths, on the host."""
    return jax.device_get(traverse_util.flatten_dict(tree, sep="/"))


def held(opt_state):
    """Returns {parameter: how many numbers} that an optimiser's state holds."""
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if leaf.ndim:
            name = "/".join(names[1:])
            sizes[name] = sizes.get(name, 0) + leaf.size
    return sizes


@pytest.mark.parametrize("seed", range(len(OPTIMISERS)))
def test_only_what_a_plan_says_changes(seed):
    """Parameters, statistics, optimiser and average through all phases, bit by bit."""
    chosen, copies = OPTIMISERS[seed]
    course = Course(draw_rows(seed), **chosen)
    joined = {}
    for phase, before, after in course.run(course.begin(), 0, 6):
        trained = {path for paths in phase.trained.values() for path in paths}
        old, new = leaves(before.params), leaves(after.params)
        for path in PATHS:
            if path not in trained:
                np.testing.assert_array_equal(old[path], new[path], path)
            else:
                joined.setdefault(path, (phase.start, old[path]))
        old, new = leaves(before.batch_stats), leaves(after.batch_stats)
        for path in old:
            same = np.array_equal(old[path], new[path])
            assert same == (path.rpartition("/")[0] in phase.frozen_statistics), path
        sizes = {path: leaf.size for path, leaf in leaves(after.params).items()}
        expected = {path: copies * sizes[path] for path in trained if copies}
        if course.config.optim.decay_towards == "start":
            for path in trained & {"conv1/kernel", "conv2/kernel"}:
                expected[path] += sizes[path]
        assert held(after.opt_state) == expected
        if after.ema:
            assert set(held(after.ema["params"])) == trained
    for path, (start, first) in joined.items():
        assert start == course.plan.rows[owner(course.plan, path)].unfreeze_at
        assert not np.array_equal(first, leaves(after.params)[path]), path


def owner(found, path):
    """Returns the name of the row that governs a parameter."""
    return next(name for name, paths in found.governed.items() if path in paths)


@pytest.mark.parametrize("seed", [3, 5, 7])
def test_a_state_that_is_put_away_goes_on_as_if_it_had_not_been(seed):
    """Its tree is that of the phase it was made in; the rest of it are numbers."""
    course = Course(draw_rows(seed), **OPTIMISERS[seed][0])
    states = [state for _, _, state in course.run(course.begin(), 0, 6)]
    for done in (1, 2, 3, 4):
        phase = course.plan.phase_of(done - 1)
        wanted = jax.eval_shape(lambda p=phase: course.enter(course.begin(), p))
        saved = jax.device_get(
            jax.tree.leaves(states[done - 1].replace(key=np.zeros(())))
        )
        back = jax.tree.unflatten(jax.tree.structure(wanted), saved)
        back = jax.device_put(back.replace(key=states[0].key))
        *_, (_, _, last) = course.run(back, done, 6)
        first, last = (
            jax.tree.leaves(s.replace(key=np.zeros(()))) for s in (states[-1], last)
        )
        for one, other in zip(first, last, strict=True):
            np.testing.assert_array_equal(one, other)
