"""What a run on two ranks promises of its being resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.callbacks.last import saved
from distill.checkpoint import read
from distill.module import Distillation
from distill.run import Run

Ranks = Callable[..., Any]

STEPS, STOP = 8, 5  # of two epochs of 55 samples in batches of 2 x 8; done when it is stopped


@pytest.fixture(scope="module")
def ranks(script: Callable[..., Any]) -> Ranks:
    """Starts the two ranks on a phase of ``ranks.py``, in a folder."""
    return lambda phase, folder: script(Path(__file__).with_name("ranks.py"), phase, folder)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: dict[str, Any],
    changed: Callable[..., dict[str, Any]],
    joint: list[dict[str, Any]],
    ranks: Ranks,
) -> Path:
    """A folder with two runs: one undisturbed, and one that ended as its second rank alone was told to."""
    folder = tmp_path_factory.mktemp("ranks")
    # Without dropout, whose masks are drawn anew for each rank: what is left are sums in another order.
    shutil.copytree(recipe["model"]["teacher"]["path"], folder / "teacher")
    config = json.loads((folder / "teacher/config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "teacher/config.json").write_text(json.dumps(config))
    changes = {
        "model": {"teacher": {"path": str(folder / "teacher")}},
        "data": {"train_samples": 55},
        "trainer": {
            "max_epochs": 2,
            "max_steps": -1,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
            "devices": "auto",
        },
        "callbacks": joint,
        "runs": str(folder / "runs"),
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(changed(recipe, changes)))
    done = ranks("train", folder)
    assert done.returncode == 143, done.stderr[-3000:]
    assert done.stderr.count("to go on: distill resume") == 1
    assert next(iter(saved(folder / "runs/base/stopped/checkpoints"))) == STOP
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs, tmp_path / "copy"))


def final(folder: Path, name: str) -> dict[str, Any]:
    return read(folder / f"runs/base/{name}/checkpoints/last-{STEPS}.ckpt")


def test_a_run_that_one_of_two_ranks_was_told_to_stop_ends_with_the_same_bits(
    copy: Path, ranks: Ranks, differences: Callable[[Any, Any], list[str]]
) -> None:
    done = ranks("resume", copy)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(final(copy, "stopped")["teacher"]["remembered"]) == 2
    assert differences(final(copy, "stopped"), final(copy, "whole")) == []
    whole, stopped = ((copy / f"runs/base/{name}/metrics.csv").read_bytes() for name in ("whole", "stopped"))
    assert stopped == whole


@pytest.mark.slow
def test_a_finished_run_on_two_ranks_is_extended(copy: Path, ranks: Ranks) -> None:
    done = ranks("extend", copy)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Run(copy / "runs/base/whole").result["steps"] == STEPS * 3 // 2


def test_one_rank_goes_on_with_the_batches_of_two_and_says_that_the_bits_are_others(
    copy: Path, distill: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, original = [], Distillation.training_step

    def step(self: Any, raw_batch: Any, batch_idx: int) -> Any:
        seen.append(sorted(raw_batch.ids))
        return original(self, raw_batch, batch_idx)

    monkeypatch.setattr(Distillation, "training_step", step)
    assert distill("resume", str(copy / "runs/base/stopped")).code == 0
    assert "1 ranks instead of 2" in caplog.text
    assert "the bits will not be those" in caplog.text
    both = [json.loads((copy / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert seen == [sorted(first + second) for first, second in zip(*both, strict=True)][STOP:]
    ours, theirs = final(copy, "stopped"), final(copy, "whole")
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert ours["loops"] == theirs["loops"]
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=1e-4, atol=1e-4, msg=name)
