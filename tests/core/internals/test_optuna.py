from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from distill.core.internals.optuna import begun_trial


@pytest.mark.slow
def test_a_trial_goes_on_in_another_process_with_what_was_drawn(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    first = optuna.create_study(storage=storage, study_name="s")
    drawn = first.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).params["x"]
    again = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
    [frozen] = again.get_trials(states=(TrialState.RUNNING,))
    trial = begun_trial(again, frozen)
    assert (trial.number, trial.suggest_float("x", 0, 1)) == (0, drawn)
    again.tell(trial, 3.0)
    assert [one.value for one in again.trials] == [3.0]
