"""The order of training: a function of seed and place, whole epochs, fair classes."""

import numpy as np
import pytest

from tljax.data.order import Course, Order

LABELS = np.array([0] * 6 + [1] * 3 + [2], np.int32)


@pytest.mark.parametrize("batch_size", [1, 7, 10, 33])
def test_every_epoch_holds_every_example_once(batch_size):
    course = Course(Order(5, LABELS), batch_size)
    stream = np.concatenate([course.examples(step) for step in range(100)])
    epochs = stream[: len(stream) // 10 * 10].reshape(-1, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs[:50]}) > 1


def test_order_depends_on_seed_and_epoch():
    labels = np.zeros(50, np.int32)
    first, second = (Order(0, labels).epoch(epoch) for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(1, labels).epoch(0))
    np.testing.assert_array_equal(second, Order(0, labels).epoch(1))


@pytest.mark.parametrize("balanced", [False, True])
def test_any_step_can_be_asked_for_first(balanced):
    whole = Course(Order(3, LABELS, balanced), 4)
    row = [whole.examples(step).tolist() for step in range(30)]
    for step in (29, 0, 13):
        alone = Course(Order(3, LABELS, balanced), 4)
        assert alone.examples(step).tolist() == row[step]
        assert [alone.example(4 * step + k) for k in range(4)] == row[step]


def test_balanced_classes_have_the_same_number_of_places():
    order = Order(0, LABELS, balanced=True)
    for epoch in range(6):
        counts = np.bincount(LABELS[order.epoch(epoch)])
        assert counts.sum() == 10 and counts.max() - counts.min() <= 1
    stream = np.concatenate([order.epoch(epoch) for epoch in range(6)])
    # 60 places, 20 for each class; within a class, all equally often.
    np.testing.assert_array_equal(np.bincount(LABELS[stream]), [20, 20, 20])
    seen = np.bincount(stream)
    for label in range(3):
        times = seen[label == LABELS]
        assert times.max() - times.min() <= 1
    assert len({tuple(order.epoch(epoch)) for epoch in range(6)}) == 6


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch(processes):
    order = Order(1, np.zeros(22, np.int32))
    alone = Course(order, 8)
    shared = [Course(order, 8, process, processes) for process in range(processes)]
    for step in range(9):
        parts = [course.examples(step) for course in shared]
        np.testing.assert_array_equal(np.concatenate(parts), alone.examples(step))
        number = step * shared[1].share
        assert shared[1].example(number) == parts[1][0]
