"""What is in a run's checkpoints and weights, and what is not read out of them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.run.checkpoints import file as checkpoint
from distill.workflows import finish

Distill = Callable[..., Any]
Fitted = Callable[..., Path]

SCRIPTED = """
import torch
from torchmetrics import Metric
from distill.tasks import TextClassification

class Scripted(Metric):
    values = iter((-0.2, -0.1, -0.3))
    def update(self, *figures):
        pass
    def compute(self):
        return torch.tensor(next(self.values))

class Task(TextClassification):
    monitor = "matthews"
    def metrics(self):
        return super().metrics() | {"matthews": Scripted()}
"""


def test_the_best_of_scores_that_are_all_below_0_is_kept(
    base: dict[str, Any], fitted: Fitted, own_module: Callable[[str, str], None]
) -> None:
    own_module("scripted", SCRIPTED)
    base["model"] |= {"task": {"class_path": "scripted.Task"}, "losses": ["CrossEntropy"]}
    base["model"]["student"]["path"] = base["model"].pop("teacher")["path"]
    base["trainer"] |= {"max_steps": 6, "val_check_interval": 2, "num_sanity_val_steps": 0}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    run = fitted("--allow", "scripted")
    result = json.loads((run / "result.json").read_text())
    assert result["saved_step"] == 4
    assert result["scores"]["student"]["matthews"] == pytest.approx(-0.1)
    assert [path.name for path in (run / "checkpoints").glob("best-*")] == ["best-4.ckpt"]


def test_a_checkpoint_holds_no_hyperparameters_that_could_replace_the_yaml(fitted: Fitted) -> None:
    run = fitted()
    checkpoints = list((run / "checkpoints").glob("*.ckpt"))
    assert len(checkpoints) == 2
    for path in checkpoints:
        assert not [name for name in torch.load(path, weights_only=True) if "hyper" in name or "hparams" in name]


# ---------------------------------------------------------------------- pickles


class Exploit:
    """Makes a folder as soon as it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("called",)


def plant(folder: Path, file: str) -> None:
    """Put the exploit where the weights of the model in ``folder`` should be."""
    (folder / "model.safetensors").unlink()
    if file == "index":
        index = {"metadata": {}, "weight_map": {"classifier.weight": "shard.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "decoy.safetensors").write_bytes(b"")
        file = "shard.bin"
    if file.endswith(".bin"):
        torch.save(Exploit(), folder / file)
    else:
        (folder / file).write_bytes(pickle.dumps(Exploit()))


def test_the_exploit_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Exploit()))
    assert Path("called").is_dir()
    torch.save(Exploit(), "exploit.bin")
    with pytest.raises(FileExistsError):
        torch.load("exploit.bin", weights_only=False)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "index"])
@pytest.mark.parametrize("command", ["validate", "fit"])
def test_a_pickle_in_place_of_weights_is_refused_and_not_run(
    fitted: Fitted, command: str, file: str, distill: Distill
) -> None:
    run = fitted()
    plant(run / "student", file)
    argv = [str(run)] if command == "validate" else ["-c", "base.yaml", "--model.teacher.path", str(run)]
    code, out, err = distill(command, *argv)
    assert code == 2
    assert "model." in err
    assert "Traceback" not in out + err
    assert not Path("called").exists()


def test_validation_does_not_open_the_checkpoints(fitted: Fitted, distill: Distill) -> None:
    run = fitted()
    for path in (run / "checkpoints").iterdir():
        torch.save(Exploit(), path)
    assert distill("validate", str(run)).code == 0
    assert not Path("called").exists()


def test_a_pickle_in_place_of_the_best_checkpoint_is_not_run(
    base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = finish.restore_best

    def planted(trainer: Any, module: Any) -> Any:
        trainer.strategy.checkpoint_io.teardown()
        [best] = Path("runs/base/one/checkpoints").glob("best-*")
        checkpoint.write(Exploit(), best)
        return restore(trainer, module)

    monkeypatch.setattr(finish, "restore_best", planted)
    code, _, err = distill("fit", "-c", "base.yaml", "--id", "one")
    assert code == 1  # it has trained, and is kept
    assert "more than tensors and plain values" in err
    assert not Path("called").exists()
    assert list(Path("runs/base/one/checkpoints").glob("last-*"))
