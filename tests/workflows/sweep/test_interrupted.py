"""A sweep that was stopped in the middle of a trial resumes in the middle of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli.main import main
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run
from distill.workflows.trials.process import run_to_end

STEPS, STOP = 5, 3  # of a trial; done when the sweep is stopped

# Run as the command of a trial: in a step, the process that runs the sweep is told to stop, and tells the trial.
STOPPED = f"""
import os, signal, sys, time
from distill.cli.main import main
from distill.training.module import Distillation

original = Distillation.training_step

def step(self, *given):
    if self.global_step == {STOP - 1}:
        told, heed = [], signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *given: (told.append(True), heed(*given)))
        os.kill(os.getppid(), signal.SIGTERM)
        while not told:
            time.sleep(0.01)
    return original(self, *given)

Distillation.training_step = step
sys.exit(main(sys.argv[1:]))
"""


def stopping(command: Sequence[str]) -> int:
    """The second trial in a process that stops in a step; the first in this one, which is quicker."""
    return run_to_end([command[0], "-c", STOPPED, *command[3:]]) if "trial-0002" in command else main(command[3:])


@pytest.mark.slow
def test_a_trial_that_was_stopped_resumes_at_its_step_and_ends_as_an_undisturbed_one(
    base: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    base["trainer"] |= {"max_steps": STEPS, "val_check_interval": 2, "log_every_n_steps": 1}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    parameters = {"model.losses.0.temperature": {"values": [1.0, 3.0]}}
    Path("mine.yaml").write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    sweep = ["sweep", "mine.yaml", "-c", "base.yaml"]
    with monkeypatch.context() as patch:
        patch.setattr("distill.workflows.sweep.run.run_to_end", stopping)
        with pytest.raises(SystemExit, match="143"):
            main(sweep)
    done, stopped = Run(Path("runs/mine/trial-0001")), Run(Path("runs/mine/trial-0002"))
    assert (done.state, stopped.state) == ("finished", "interrupted")
    assert next(iter(resume_checkpoints(stopped.checkpoints))) == STOP
    finished = done.result_file.stat().st_mtime_ns
    capfd.readouterr()
    monkeypatch.setattr("distill.workflows.sweep.run.run_to_end", lambda command: main(command[3:]))
    assert main(sweep) == 0
    assert f"resuming {stopped.folder} from step {STOP}" in capfd.readouterr().out
    assert done.result_file.stat().st_mtime_ns == finished
    assert main(["fit", "-c", "base.yaml", "--name", "mine", "--id", "whole", "--model.losses.0.temperature=3.0"]) == 0
    whole = Run(Path("runs/mine/whole"))
    assert stopped.result["scores"] == whole.result["scores"]
    for file in ("metrics.csv", "student/model.safetensors"):
        assert (stopped.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file
