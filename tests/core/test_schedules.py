import pytest

from distill.core.schedules import Constant, Cosine, Linear, WarmUp, as_schedule, step_at
from distill.core.utils.errors import UserError


@pytest.mark.parametrize(("step", "value"), [(0, 4.0), (25, 4.0), (50, 3.0), (75, 2.0), (100, 2.0)])
def test_linear_changes_between_its_two_steps_and_is_constant_outside(step, value):
    assert Linear(4.0, 2.0, begin=0.25, until=75)(step, 100) == value


@pytest.mark.parametrize(("step", "value"), [(0, 0.0), (25, 0.1464466), (50, 0.5), (100, 1.0)])
def test_cosine_begins_and_ends_slowly(step, value):
    assert Cosine(0.0, 1.0)(step, 100) == pytest.approx(value)


def test_warm_up_reaches_its_value_after_its_steps_or_fraction_and_stays():
    assert [WarmUp(2.0, 4)(s, 100) for s in (0, 2, 4, 99)] == [0.0, 1.0, 2.0, 2.0]
    assert [WarmUp(2.0, 0.5)(s, 100) for s in (0, 25, 50, 99)] == [0.0, 1.0, 2.0, 2.0]


def test_a_change_that_takes_no_time_has_happened():
    assert Linear(1.0, 5.0, begin=3, until=3)(3, 10) == 5.0
    assert WarmUp(2.0, 0)(0, 10) == 2.0
    assert Linear(1.0, 5.0, begin=9, until=0.5)(6, 10) == 5.0


def test_a_value_depends_on_the_step_alone():
    schedule = Linear(0.0, 1.0)
    forwards = [schedule(s, 10) for s in range(11)]
    assert [schedule(s, 10) for s in reversed(range(11))] == forwards[::-1]


def test_a_number_is_a_constant_schedule_and_a_schedule_itself():
    linear = Linear(0.0, 1.0)
    assert as_schedule(linear) is linear
    assert [as_schedule(3)(s, 10) for s in (0, 10)] == [3.0, 3.0]
    assert Constant(2.0)(5, 10) == 2.0


def test_when_is_a_step_or_a_fraction_of_the_run_halves_rounded_up():
    assert [step_at(m, 5) for m in (0, 3, 1, 0.0, 0.5, 0.1, 1.0)] == [0, 3, 1, 0, 3, 1, 5]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Linear(0.0, 1.0, begin=-1), "begin"),
        (lambda: Linear(0.0, 1.0, until=1.5), "until"),
        (lambda: Linear(0.0, 1.0, begin=0.7, until=0.3), "begin"),
        (lambda: Linear(0.0, 1.0, begin=True), "begin"),
        (lambda: WarmUp(1.0, -5), "steps"),
        (lambda: WarmUp(1.0, 1.5), "steps"),
    ],
)
def test_steps_out_of_range_are_refused(make, key):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.key == key
