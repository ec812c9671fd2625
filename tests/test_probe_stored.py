"""Features that `tljax.probe` keeps: what they are kept by, and damage."""

import json

import jax
import numpy as np
import pytest
from probes import begin, tiny

from tljax import probe
from tljax.config import RandomCrop
from tljax.probing import features, options, stored
from tljax.run import prepare


@pytest.fixture(scope="module")
def begun():
    return begin()


def test_features_are_kept_by_what_they_are_of(begun, tmp_path):
    run, variables, found = begun
    key = stored.key_of(run, variables, 1)
    assert stored.load(tmp_path, key) == (None, {}, "")
    stored.save(tmp_path, key, found, {"a.png": "no image"})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["features.json", "features.npz"]
    splits, skipped, _ = stored.load(tmp_path, key)
    assert skipped == {"a.png": "no image"}
    for name, split in splits.items():
        np.testing.assert_array_equal(split.values, found[name].values)
        np.testing.assert_array_equal(split.labels, found[name].labels)
    # Only the head may differ.
    params = variables["params"] | {"fc": {"kernel": 0, "bias": 0}}
    assert stored.key_of(run, variables | {"params": params}, 1) == key
    params = variables["params"] | {"conv1": {"kernel": np.zeros((3, 3))}}
    stats = jax.tree.map(lambda leaf: leaf + 1, variables["batch_stats"])
    others = [
        ("weights", run, variables | {"params": params}, 1),
        ("weights", run, variables | {"batch_stats": stats}, 1),
        ("copies", run, variables, 2),
        ("data", prepare(tiny(classes=("0", "1"))), variables, 1),
        ("splits", reverse(run, "names"), variables, 1),
        ("splits", reverse(run, "labels"), variables, 1),
        ("transform", prepare(tiny(mean=(0.4,))), variables, 1),
        ("eval_views", prepare(tiny(eval_views="center_flip")), variables, 1),
    ]
    for name, *parts in others:
        splits, _, reason = stored.load(tmp_path, stored.key_of(*parts))
        assert splits is None and name in reason, name


def reverse(run, field):
    """Returns a run whose validation has its names or labels the other way round."""
    val = run.source.splits["val"]
    val = val._replace(**{field: getattr(val, field)[::-1]})
    source = run.source._replace(splits=run.source.splits | {"val": val})
    return run._replace(source=source)


def test_augmented_copies_are_kept_by_their_augmentation(begun):
    _, variables, _ = begun
    keys = [
        stored.key_of(prepare(tiny(augment=augment, batch_size=size)), variables, 2)
        for augment, size in (
            ((RandomCrop(padding=1),), 50),
            ((RandomCrop(padding=2),), 50),
            ((RandomCrop(padding=2),), 30),
        )
    ]
    assert keys[0] != keys[1] != keys[2]
    assert json.loads(json.dumps(keys[0])) == keys[0]


@pytest.mark.parametrize(
    "name, content",
    [
        ("features.npz", lambda data: data[:-40]),
        ("features.npz", lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:]),
        ("features.npz", None),
        ("features.json", lambda data: data[:-10]),
        ("features.json", lambda data: b"[]"),
        ("features.json", lambda data: b'{"key": 3}'),
        ("features.json", lambda data: data.replace(b'"sha256"', b'"sha255"')),
    ],
)
def test_damaged_features_are_made_again(
    begun, tmp_path, name, content, monkeypatch, capsys
):
    run, variables, found = begun
    asked = options.Options(tmp_path, 1, None, 5, 10)
    monkeypatch.setattr(features, "compute", lambda *_: (found, {}))
    path = tmp_path / "features" / name
    path.parent.mkdir()
    probe.get_features(run, variables, asked)
    before = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content(before))
    _, about = probe.get_features(run, variables, asked)
    assert "damaged: they are computed again" in capsys.readouterr().out
    assert path.read_bytes() == before and not about["stored"]
    splits, about = probe.get_features(run, variables, asked)
    assert about["stored"] and set(splits) == set(found)
