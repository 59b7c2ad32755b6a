"""The promises of the time line."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from distill.callbacks import QuantizationAwareTraining
from distill.core.utils.plots import DARK, Line, Panel, draw_timeline, smoothed
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig
from distill.workflows.timeline import history_panels, schedule_panels, timeline


def test_the_learning_rate_is_the_one_that_quantization_aware_training_steps_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = OptimizerConfig(lr=0.5, warmup=0, schedule="constant")
    module = Distillation(nn.Linear(2, 2), Plain(), optimizer=optimizer)
    monkeypatch.setattr(Distillation, "total_steps", 10)
    callback = QuantizationAwareTraining(begin=0.4, lr_factor=0.1)
    rates = timeline(module, [callback], [0, 3, 4, 9])["learning rate"]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05])


HISTORY = """step,train/loss,train/HintonKL,train/CrossEntropy,train/HintonKL_weighted,val/accuracy,teacher/accuracy,f1
5,1.5,2.0,1.0,1.0,,,
10,,,,,0.5,0.9,0.4
10,0.75,1.0,0.5,0.5,,,
20,,,,,0.8,,0.7
"""


def test_losses_and_the_score_are_drawn_from_the_history(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(HISTORY)
    losses, score = history_panels(tmp_path / "metrics.csv", ["accuracy"])
    assert {line.name: (line.steps, line.values) for line in losses.lines} == {
        "objective": ([5, 10], [1.5, 0.75]),
        "HintonKL": ([5, 10], [2.0, 1.0]),
        "CrossEntropy": ([5, 10], [1.0, 0.5]),
    }
    assert {line.name: (line.steps, line.values) for line in score.lines} == {
        "student": ([10, 20], [0.5, 0.8]),
        "teacher": ([0, 20], [0.9, 0.9]),
    }


def test_before_the_first_step_there_is_no_history(tmp_path: Path) -> None:
    assert history_panels(tmp_path / "metrics.csv", ["accuracy"]) == []


def test_an_objective_of_one_term_is_drawn_once(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,train/CrossEntropy\n5,1.0,1.0\n")
    [panel] = history_panels(tmp_path / "metrics.csv", [])
    assert [line.name for line in panel.lines] == ["CrossEntropy"]


def test_what_does_not_change_has_no_panel_and_phases_are_bars() -> None:
    lines = {
        "learning rate": [0.1, 0.1],
        "CrossEntropy weight": [0.3, 0.3],
        "HintonKL weight": [0.0, 0.7],
        "sparsity": [0.0, 0.8],
        "fake_quant": [0.0, 1.0],
    }
    panels = schedule_panels([0, 10], lines)
    assert [panel.title for panel in panels] == ["sparsity", "quantization", "HintonKL weight", "learning rate"]
    assert [panel.title for panel in panels if panel.phases] == ["quantization"]


def test_many_points_are_smoothed_by_the_mean_of_their_neighbours() -> None:
    assert smoothed([0.0, 3.0, 0.0, 3.0]) == [1.5, 1.0, 2.0, 1.5]
    assert smoothed([1.0]) == [1.0]


@pytest.mark.parametrize("settings", [{}, DARK])
@pytest.mark.usefixtures("painted")
def test_a_picture_is_drawn_of_one_validation_and_of_many_steps(tmp_path: Path, settings: dict[str, object]) -> None:
    steps = list(range(100))
    panels = [
        Panel("training loss", [Line("objective", steps, [1.0] * 100, noisy=True)]),
        Panel("accuracy", [Line("student", [99], [0.5], last=True)], from_zero=False),
        Panel("quantization", [Line("fake quant", steps, [float(step > 50) for step in steps])], phases=True),
    ]
    draw_timeline(panels, 100, tmp_path / "a.png", {"80% sparsity": 0, "8 bits": 90}, settings)
    drawn = (tmp_path / "a.png").read_bytes()
    draw_timeline(panels, 100, tmp_path / "b.png", {"80% sparsity": 0, "8 bits": 90}, settings)
    assert drawn == (tmp_path / "b.png").read_bytes()  # of a run that was resumed it is the same one
    assert drawn.startswith(b"\x89PNG")
