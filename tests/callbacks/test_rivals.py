"""Lightning's own pruning and averages beside a callback that compresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelPruning, StochasticWeightAveraging, WeightAveraging

from distill.callbacks import GradualMagnitudePruning, LowRank, QuantizationAwareTraining
from distill.compression.base import Compression, refuse_rivals
from distill.core.utils.errors import UserError

Make = Callable[..., Any]

RIVALS: dict[str, tuple[Callable[[], Callback], str]] = {
    "ModelPruning": (lambda: ModelPruning("l1_unstructured"), "under names of its own. use GradualMagnitudePruning"),
    "WeightAveraging": (WeightAveraging, "averages masks and ranges too. use ExponentialMovingAverage"),
    "EMAWeightAveraging": (EMAWeightAveraging, "averages masks and ranges too. use ExponentialMovingAverage"),
}


def pruning() -> GradualMagnitudePruning:
    return GradualMagnitudePruning(0.5, end=4, every_n_steps=1)


@pytest.mark.parametrize("compression", [pruning, QuantizationAwareTraining])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", RIVALS)
def test_what_prunes_or_averages_by_itself_is_refused(
    name: str, first: bool, compression: Callable[[], Compression], classifier: Make, pair: Make, fit: Make
) -> None:
    rival, said = RIVALS[name]
    given = [rival(), compression()] if first else [compression(), rival()]
    with pytest.raises(UserError) as error:
        fit(pair(classifier()), *given)
    assert error.value.key == "callbacks"
    assert error.value.value == [type(callback).__name__ for callback in given]
    assert said in str(error.value)


def test_a_copy_of_the_student_is_taken_after_it_has_its_structure(classifier: Make, pair: Make, fit: Make) -> None:
    given = [StochasticWeightAveraging(0.01), LowRank(rank=2)]
    with pytest.raises(UserError, match=r"before it has the structure that is trained\. let it come last"):
        fit(pair(classifier()), *given)
    module, ours = pair(classifier()), pruning()
    average = StochasticWeightAveraging(0.01, swa_epoch_start=1)
    fit(module, ours, average, max_steps=-1, max_epochs=2, gradient_clip_val=None)
    assert ours.finish(module.student)[0]["actual"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", RIVALS)
def test_without_a_compression_they_are_no_rivals(name: str) -> None:
    refuse_rivals([RIVALS[name][0](), StochasticWeightAveraging(0.01)])
