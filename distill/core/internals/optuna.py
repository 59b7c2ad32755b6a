"""What optuna keeps to itself: the handle of a trial that an earlier process has begun.

Written against optuna 5.0. ``tests/core/internals/test_optuna.py`` holds what is counted on.
"""

from __future__ import annotations

from optuna import Study, Trial
from optuna.trial import FrozenTrial

__all__ = ["begun_trial"]


def begun_trial(study: Study, trial: FrozenTrial) -> Trial:
    """A trial that is running, to be gone on with: what was suggested in it is suggested again.

    Args:
        study: That the trial is of.
        trial: As ``study.get_trials`` gives it.
    """
    return Trial(study, trial._trial_id)
