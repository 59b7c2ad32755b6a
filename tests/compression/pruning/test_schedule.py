import pytest

from distill.compression.pruning import SparsitySchedule
from distill.compression.pruning.schedule import GradualSchedule
from distill.core.utils.errors import UserError


def test_the_cubic_passes_the_points_computed_by_hand():
    # s = 0.8 - 0.8 (1 - p)^3 with p = 0, 1/4, 1/2, 3/4, 1
    schedule = SparsitySchedule(final=0.8, begin=100, end=500, every=1)
    found = [schedule(step, 1000) for step in (0, 99, 100, 200, 300, 400, 500, 999, 1000)]
    assert found == pytest.approx([0, 0, 0, 0.4625, 0.7, 0.7875, 0.8, 0.8, 0.8], abs=1e-12)


def test_the_cubic_begins_at_the_initial_sparsity():
    # s = 0.9 - 0.4 (1 - p)^3
    schedule = SparsitySchedule(final=0.9, initial=0.5, begin=0.0, end=1.0, every=1)
    assert [schedule(step, 10) for step in (0, 5, 10)] == pytest.approx([0.5, 0.85, 0.9], abs=1e-12)


def test_linear_and_one_shot_pass_the_points_computed_by_hand():
    linear = SparsitySchedule(final=0.6, initial=0.2, begin=0.1, end=0.5, every=1, curve="linear")
    assert [linear(step, 100) for step in (9, 10, 20, 30, 50, 99)] == pytest.approx([0, 0.2, 0.3, 0.4, 0.6, 0.6])
    once = SparsitySchedule(final=0.6, begin=0.9, every=1, curve="one_shot")
    assert [once(step, 100) for step in (0, 89, 90, 100)] == [0, 0, 0.6, 0.6]


def test_a_table_holds_from_each_milestone_to_the_next():
    table = SparsitySchedule(final=0.8, table={0.5: 0.4, 0.25: 0.1, 1.0: 0.7})
    assert [table(step, 8) for step in range(9)] == [0, 0, 0.1, 0.1, 0.4, 0.4, 0.4, 0.4, 0.7]
    assert [step for step in range(9) if table.updates_at(step, 8)] == [2, 4, 8]
    steps = SparsitySchedule(final=0.8, table={3: 0.5})
    assert [steps(step, 5) for step in range(6)] == [0, 0, 0, 0.5, 0.5, 0.5]


def test_between_updates_it_keeps_its_value_and_the_end_is_one():
    schedule = SparsitySchedule(final=0.8, begin=2, end=9, every=3, curve="linear")
    assert [step for step in range(20) if schedule.updates_at(step, 20)] == [2, 5, 8, 9]
    assert [schedule(step, 20) for step in (5, 6, 7)] == [pytest.approx(0.8 * 3 / 7)] * 3
    assert schedule(9, 20) == 0.8


def test_updates_continue_until_masks_are_frozen():
    schedule = SparsitySchedule(final=0.8, begin=0, end=4, every=2, freeze=9)
    assert [step for step in range(20) if schedule.updates_at(step, 20)] == [0, 2, 4, 6, 8]
    assert {schedule(step, 20) for step in range(4, 20)} == {0.8}


def test_by_default_there_are_fifty_updates_a_run_or_one_in_twenty_steps():
    schedule = SparsitySchedule(final=0.8, begin=0.0, end=1.0)
    assert [step for step in range(10_000) if schedule.updates_at(step, 10_000)] == list(range(0, 10_000, 200))
    assert [step for step in range(401) if schedule.updates_at(step, 400)] == list(range(0, 401, 20))


def test_it_never_falls_and_ends_exactly_at_the_final_sparsity():
    for total in (1, 2, 3, 7, 100, 1001):
        for curve in ("cubic", "linear", "one_shot"):
            schedule = SparsitySchedule(final=0.7, initial=0.1, begin=0.13, end=0.77, every=3, curve=curve)
            found = [schedule(step, total) for step in range(total + 1)]
            assert found == sorted(found)
            assert found[-1] == 0.7


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"final": 1.0}, "final_sparsity"),
        ({"final": -0.1}, "final_sparsity"),
        ({"final": float("nan")}, "final_sparsity"),
        ({"final": 80}, "final_sparsity"),
        ({"initial": 1.5}, "initial_sparsity"),
        ({"initial": 0.9}, "initial_sparsity"),
        ({"begin": -1}, "begin"),
        ({"begin": 0.9, "end": 0.5}, "begin"),
        ({"begin": 10, "end": 5}, "begin"),
        ({"end": 1.5}, "end"),
        ({"end": 10, "begin": 0, "freeze": 5}, "end"),
        ({"freeze": 2.0}, "freeze"),
        ({"every": 0}, "every_n_steps"),
        ({"table": {}}, "schedule"),
        ({"table": {0: 0.5, 10: 0.4}}, "schedule"),
        ({"table": {0: 0.5, 0.5: 0.6}}, "schedule"),
        ({"table": {0: 1.5}}, "schedule.0"),
        ({"table": {2.0: 0.5}}, "schedule"),
    ],
)
def test_what_is_out_of_range_or_order_is_refused(wrong, key):
    with pytest.raises(UserError) as error:
        SparsitySchedule(**({"final": 0.8} | wrong))
    assert error.value.key == key


@pytest.mark.parametrize(
    ("begin", "end", "fits", "key"), [(60, 0.5, 1000, "begin"), (0, 200, 1000, "end"), (0.9, 50, 50, "begin")]
)
def test_milestones_that_only_the_length_of_the_run_makes_wrong_are_refused_with_it(begin, end, fits, key):
    schedule = SparsitySchedule(final=0.8, begin=begin, end=end)
    with pytest.raises(UserError) as error:
        schedule.check(100)
    assert error.value.key == key
    schedule.check(fits)


def test_progress_is_the_part_of_the_way_by_each_curve():
    # p = 0, 1/4, 1/2, 1 at steps 20, 30, 40, 60
    parts = {"cubic": [0, 0, 37 / 64, 7 / 8, 1], "linear": [0, 0, 1 / 4, 1 / 2, 1], "one_shot": [0, 1, 1, 1, 1]}
    for curve, expected in parts.items():
        progress = GradualSchedule(begin=0.2, end=0.6, every=1, curve=curve).progress
        assert [progress(step, 100) for step in (19, 20, 30, 40, 60)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("total", "begin", "end", "every"),
    [(10_000, 0.0, 0.5, 200), (500, 0.0, 0.5, 20), (30, 0.0, 0.5, 1), (100, 0.0, 0.5, 5), (10_000, 0.0, 0.1, 100)],
)
def test_by_itself_it_updates_at_least_ten_times(total: int, begin: float, end: float, every: int) -> None:
    progress = GradualSchedule(begin=begin, end=end)
    steps = [step for step in range(total + 1) if progress.updates_at(step, total)]
    assert steps[1] - steps[0] == every
    assert len(steps) >= 10
    assert progress.progress(steps[1], total) < 0.5
