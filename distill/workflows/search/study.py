"""The trials as optuna knows them: which values come next, and which knob has mattered.

What a trial's values are is a function of the search's seed, the trial's number and the trials before it: the sampler
is made anew for each. So a search that was stopped goes on with the values that it would have had.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from distill.core.internals.optuna import begun_trial
from distill.workflows.search.knobs import Knob
from distill.workflows.search.measured import Measured

__all__ = ["SAMPLERS", "Study"]

SAMPLERS = ("tpe", "random")

_STARTUP = 8
"""Trials whose values are drawn at random, those that are given among them, before a model of them is asked."""

_FEWEST = 8
"""Trials of which an importance is told."""

_NAME = "search"
_RUNGS, _FAILED = "rungs", "failed"


class Study:
    """The trials of one search, in a file of SQLite.

    Args:
        file: The file; made if it is not there.
        knobs: Those with more than one value.
        sampler: ``tpe`` or ``random``.
        seed: Of the search.
        given: Values of the first trials, by knob.
    """

    def __init__(
        self, file: Path, knobs: Sequence[Knob], sampler: str, seed: int, given: Sequence[Mapping[str, Any]]
    ) -> None:
        self.knobs = [knob for knob in knobs if not knob.fixed]
        self.fixed = {knob.name: knob.values[0] for knob in knobs if knob.fixed}
        self._sampler, self._seed, self._given = sampler, seed, given
        with _quietly():
            self._study = optuna.create_study(
                storage=f"sqlite:///{file}", study_name=_NAME, load_if_exists=True, sampler=self._sampler_of(0)
            )

    def _sampler_of(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self._seed * 1_000_003 + number) % (1 << 32)
        if self._sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, multivariate=True)

    def trials(self) -> list[FrozenTrial]:
        """All that were begun."""
        with _quietly():
            return self._study.get_trials(deepcopy=False, states=_BEGUN)

    def next(self) -> optuna.Trial:
        """The trial that was interrupted, or a new one with its values."""
        with _quietly():
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            number = running[0].number if running else len(self._study.get_trials(deepcopy=False)) - len(waiting)
            self._study.sampler = self._sampler_of(number)
            if running:
                trial = begun_trial(self._study, running[0])
                for knob in self.knobs:  # what was drawn before is known
                    _suggest(trial, knob)
                return trial
            if number < len(self._given) and not waiting:
                self._study.enqueue_trial(self._coded(self._given[number]))
            return self._study.ask(self._space())

    def whole(self, trial: FrozenTrial) -> bool:
        """Whether all its values are known: a kill may come as they are written."""
        return all(knob.name in trial.params for knob in self.knobs)

    def rungs(self, trial: FrozenTrial) -> list[Measured]:
        """What the runs of a trial came to."""
        return [Measured(**one) for one in trial.user_attrs.get(_RUNGS, ())]

    def why_failed(self, trial: FrozenTrial) -> str:
        """Why a trial has no figures; empty of one that has."""
        return str(trial.user_attrs.get(_FAILED, ""))

    def values(self, trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
        """Name of each knob -> its value in a trial."""
        return self.fixed | {knob.name: _value(knob, trial.params[knob.name]) for knob in self.knobs}

    def note(self, trial: optuna.Trial, rungs: Sequence[Measured]) -> None:
        """Keep what the runs of a trial came to, as far as it is."""
        with _quietly():
            trial.set_user_attr(_RUNGS, [one.record() for one in rungs])

    def end(self, trial: optuna.Trial, cost: float, hope: float) -> None:
        """Tell what a trial costs, and by how much it may meet the target (below 0: miss it)."""
        with _quietly():
            trial.set_constraint("target", -hope)
            self._study.tell(trial, cost)

    def fail(self, trial: optuna.Trial, why: str) -> None:
        """A trial that has no figures."""
        with _quietly():
            trial.set_user_attr(_FAILED, why)
            self._study.tell(trial, state=TrialState.FAIL)

    def importance(self) -> dict[str, dict[str, float]] | None:
        """The part of each knob in how much the trials differ (fANOVA, Hutter et al. 2014).

        Of ``quality`` at the first rung, where all were trained alike, and of ``cost``; ``None`` of fewer than eight
        trials.
        """
        done = [one for one in self.trials() if one.state == TrialState.COMPLETE]
        if len(done) < _FEWEST or not self.knobs:
            return None
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self._seed)
        found = {}
        with _quietly():
            for what, of in (("quality", _first_score), ("cost", _cost)):
                if len({of(one) for one in done}) > 1:
                    parts = optuna.importance.get_param_importances(self._study, evaluator=evaluator, target=of)
                    found[what] = {name: round(part, 4) for name, part in parts.items()}
        return found

    def _space(self) -> dict[str, BaseDistribution]:
        return {knob.name: _distribution(knob) for knob in self.knobs}

    def _coded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            knob.name: knob.values.index(values[knob.name]) if knob.values else values[knob.name] for knob in self.knobs
        }


_BEGUN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL)


def _first_score(trial: FrozenTrial) -> float:
    return float(trial.user_attrs[_RUNGS][0]["value"])


def _cost(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _distribution(knob: Knob) -> IntDistribution | FloatDistribution:
    """Of values the place in their order: a model of them then knows that 4 lies between 2 and 8."""
    if knob.values:
        return IntDistribution(0, len(knob.values) - 1)
    assert knob.low is not None
    assert knob.high is not None
    return FloatDistribution(knob.low, knob.high, log=knob.log)


def _suggest(trial: optuna.Trial, knob: Knob) -> None:
    """Draw a knob's value in a trial, unless it is drawn."""
    of = _distribution(knob)
    if isinstance(of, IntDistribution):
        trial.suggest_int(knob.name, of.low, of.high)
    else:
        trial.suggest_float(knob.name, of.low, of.high, log=of.log)


def _value(knob: Knob, drawn: Any) -> Any:
    return knob.values[drawn] if knob.values else drawn


@contextmanager
def _quietly() -> Iterator[None]:
    """Without optuna's own lines, and its warnings of what is new in it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
