"""The job for Slurm: what it starts, when it is put back into the queue, and that nothing else puts it there."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from distill.config.files import long_form
from distill.run.folder import Run
from distill.training.module import Distillation
from distill.workflows.job.build import build, make_trainer

SCRIPT = Path(__file__).parents[2] / "scripts/train.slurm"
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "distill",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "8",
}
TASK = {**JOB, "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NTASKS": "1"}
TASK |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Stands in for a cluster, whose commands write down their arguments; ``srun`` ends with ``$CODE``."""
    commands, called = tmp_path / "bin", tmp_path / "called"
    commands.mkdir()
    called.touch()
    for name, code in (("srun", "$CODE"), ("scontrol", "0")):
        (commands / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {called}\nexit {code}\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return lambda: called.read_text().splitlines()


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (0, False), (1, False), (2, False), (137, False)])
def test_a_job_that_was_stopped_is_put_back_into_the_queue_and_no_other(
    code: int, requeued: bool, slurm: Callable[[], list[str]]
) -> None:
    command = ["bash", str(SCRIPT), "-c", "sst2/hinton", "--name", "two words"]
    done = subprocess.run(command, env={**os.environ, **JOB, "CODE": str(code)}, check=False)
    assert done.returncode == code
    fit = "distill fit -c sst2/hinton --name two words --id slurm-4711 --resume auto"
    ranks = "--trainer.num_nodes 2 --trainer.devices 4"
    assert slurm() == [f"srun --cpus-per-task 8 {fit} {ranks}"] + ["scontrol requeue 4711"] * requeued


def test_within_a_job_torchrun_knows_the_ranks(base: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "2"}
    for name, value in {**TASK, **started, "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    base["trainer"]["devices"] = 2  # of one task of Slurm's, which starts both
    trainer = make_trainer(build(long_form(base)))
    assert isinstance(trainer._accelerator_connector.cluster_environment, TorchElasticEnvironment)
    assert trainer.world_size == 2


def test_a_task_that_is_told_to_stop_saves_and_leaves_the_queue_to_the_job(
    base: Any, slurm: Callable[[], list[str]], distill: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    original, environments = Distillation.training_step, []

    def step(self: Any, *given: Any) -> Any:
        environments.append(self.trainer._accelerator_connector.cluster_environment)
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *given)

    fit = ("fit", "-c", "base.yaml", "--id", "slurm-4711", "--resume", "auto")
    ranks = ("--trainer.num_nodes", "1", "--trainer.devices", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "training_step", step)
        with pytest.raises(SystemExit, match="143"):
            distill(*fit, *ranks)
    [environment] = environments
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    assert Run(Path("runs/base/slurm-4711")).state == "interrupted"
    assert distill(*fit, *ranks).code == 0
    assert Run(Path("runs/base/slurm-4711")).state == "finished"
    assert slurm() == []
