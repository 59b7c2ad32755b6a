"""What a run whose student is sharded over two ranks promises of its checkpoints and of what it saves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from distill.models.saved_student import load
from distill.run.checkpoints.file import read, shard_path
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run
from distill.workflows.evaluate import reopen
from distill.workflows.resume import _reshard_batches

pytestmark = pytest.mark.slow

RANKS = Path(__file__).with_name("ranks.py")
STEPS, STOP = 8, 5  # of two epochs of 110 samples in batches of 2 x 8, two to a step; done when it is stopped


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any], script: Callable[..., Any]) -> Path:
    """A folder with two runs: one undisturbed, and one that ended as its second rank alone was told to."""
    folder = tmp_path_factory.mktemp("sharded")
    # Without dropout, whose masks are drawn anew for each rank: what one process adds to it is another order of sums.
    shutil.copytree(recipe["model"]["teacher"]["path"], folder / "teacher")
    config = json.loads((folder / "teacher/config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "teacher/config.json").write_text(json.dumps(config))
    hint = {"class_path": "FitNetHint", "init_args": {"regressor": "always"}}
    changes = {
        "model": {"teacher": {"path": str(folder / "teacher")}, "losses": [*recipe["model"]["losses"], hint]},
        "data": {"train_samples": 110},
        "trainer": {
            "strategy": "sharded",
            "devices": "auto",
            "max_epochs": 2,
            "max_steps": -1,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 0.5,
        },
        "runs": str(folder / "runs"),
    }
    recipe = {name: recipe[name] | changes.get(name, {}) for name in recipe} | {"runs": changes["runs"]}
    (folder / "base.yaml").write_text(yaml.safe_dump(recipe))
    assert script(RANKS, folder, code=143).err.count("to resume: distill resume") == 1
    return folder


@pytest.fixture(scope="module")
def resumed(runs: Path, tmp_path_factory: pytest.TempPathFactory, script: Callable[..., Any]) -> tuple[Path, str]:
    """A copy of the folder with three runs that two ranks resumed, and what was said: the one that was stopped,
    and two of whose newest checkpoint a rank's file was not there, or not all of it."""
    folder = Path(shutil.copytree(runs, tmp_path_factory.mktemp("resumed") / "copy"))
    for name in ("missing", "cut"):
        shutil.copytree(folder / "runs/base/stopped", folder / "runs/base" / name)
    shard_path(newest(folder, "missing"), 1).unlink()
    shutil.copytree(newest(folder, "missing"), newest(folder, "missing").with_name(".last-8.ckpt.1234.new"))
    path = shard_path(newest(folder, "cut"), 0)
    path.write_bytes(path.read_bytes()[:-100])
    done = script(RANKS, folder, "stopped", "missing", "cut")
    return folder, done.out + done.err


def newest(folder: Path, name: str) -> Path:
    return next(iter(resume_checkpoints(folder / "runs/base" / name / "checkpoints").values()))


def test_every_rank_writes_its_part_of_weights_and_moments_and_rank_0_all_else(runs: Path) -> None:
    first, second = (read(shard_path(newest(runs, "whole"), rank)) for rank in (0, 1))
    whole = read(newest(runs, "whole"))
    assert second.keys() == {"shard", "state_dict", "optimizer_states"}
    assert "loops" in first
    for name, value in whole["state_dict"].items():
        parts = [part["state_dict"][name] for part in (first, second)]
        if isinstance(value, Tensor) and value.dim():
            assert torch.equal(torch.cat([part["shard"] for part in parts]), value)
            assert parts[0]["shard"].shape[0] == (value.shape[0] + 1) // 2
    moments = second["optimizer_states"][0]["state"][0]
    assert moments["exp_avg"]["shard"].shape == moments["exp_avg_sq"]["shard"].shape


def test_the_newest_two_and_the_best_are_kept(runs: Path) -> None:
    names = sorted(path.name for path in (runs / "runs/base/whole/checkpoints").iterdir())
    assert names == [f"best-{Run(runs / 'runs/base/whole').result['saved_step']}.ckpt", "last-4.ckpt", "last-8.ckpt"]


def test_the_saved_student_has_the_weights_of_the_best_checkpoint(runs: Path) -> None:
    run = Run(runs / "runs/base/whole")
    best = read(run.checkpoints / f"best-{run.result['saved_step']}.ckpt")["state_dict"]
    shipped = load_file(run.student / "model.safetensors")
    assert shipped.keys() == {name.removeprefix("student.") for name in best if name.startswith("student.")}
    assert all(torch.equal(value, best[f"student.{name}"]) for name, value in shipped.items())
    assert json.loads((run.student / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]


def differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Where two checkpoints differ; the time taken and the name of the saving are no part of what was trained."""
    if isinstance(a, Tensor):
        if not (a.dtype == b.dtype and torch.equal(a, b)):
            yield place
    elif isinstance(a, dict):
        if a.keys() != b.keys():
            yield place
        for name in a.keys() & b.keys() - {"seconds", "saving"}:
            yield from differences(a[name], b[name], f"{place}.{name}")
    elif isinstance(a, (list, tuple)) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{place}.{index}")
    elif a != b:
        yield f"{place}: {a!r} or {b!r}"


@pytest.mark.parametrize("name", ["stopped", "missing", "cut"])
def test_a_run_that_resumes_ends_with_the_same_bits(name: str, resumed: tuple[Path, str]) -> None:
    folder, _ = resumed
    ours, theirs = (folder / "runs/base" / run for run in (name, "whole"))
    for rank in (0, 1):
        a, b = (read(shard_path(run / f"checkpoints/last-{STEPS}.ckpt", rank)) for run in (ours, theirs))
        assert list(differences(a, b)) == []
    for file in ("metrics.csv", "student/model.safetensors"):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes()
    assert Run(ours).result["scores"] == Run(theirs).result["scores"]


def test_a_checkpoint_that_lacks_a_part_is_passed_over_with_a_line(resumed: tuple[Path, str]) -> None:
    folder, said = resumed
    assert f"stopped from step {STOP}" in said
    assert f"missing/checkpoints/last-{STOP}.ckpt/rank-1.ckpt is not there: it is put aside" in said
    assert f"cut/checkpoints/last-{STOP}.ckpt/rank-0.ckpt is cut off or was altered: it is put aside" in said
    for name in ("missing", "cut"):
        assert f"{name} from step 4" in said
        assert (folder / f"runs/base/{name}/checkpoints/last-{STOP}.damaged").is_dir()
        assert list((folder / f"runs/base/{name}/checkpoints").glob(".*")) == []


def test_one_process_that_is_not_sharded_resumes_with_what_two_ranks_have_saved(
    runs: Path, tmp_path: Path, distill: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "copy"))
    run = folder / "runs/base/stopped"
    assert distill("resume", str(run), "--trainer.strategy", "auto", "--trainer.devices", "1").code == 0
    assert "1 ranks instead of 2" in caplog.text
    ours, theirs = read(run / f"checkpoints/last-{STEPS}.ckpt"), read(newest(folder, "whole"))
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_one_process_scores_quantizes_and_scans_the_unsharded_student_of_a_sharded_run(
    runs: Path, tmp_path: Path, distill: Callable[..., Any]
) -> None:
    folder = Path(shutil.copytree(runs / "runs/base/whole", tmp_path / "runs/base/whole"))
    run, job = reopen(folder, "validate")
    assert job.arguments["strategy"] == "auto"
    assert job.arguments["devices"] == 1
    assert run.config["trainer"]["strategy"] == "sharded"
    assert reopen(folder, "validate", overrides=[("trainer.strategy", "ddp")])[1].arguments["strategy"] == "ddp"
    assert distill("quantize", str(folder), "--id", "small").code == 0
    small = tmp_path / "runs/base-quantized/small/student"
    layer = load(small).bert.encoder.layer[0].attention.self.query
    steps = layer.weight.double() / layer.weight_scale.double().reshape(-1, 1)
    assert (steps - steps.round()).abs().max() < 1e-3
    code, _, err = distill("quantize", str(folder), "--id", "parts", "--trainer.strategy", "sharded")
    assert code == 2
    assert "trainer.strategy = 'sharded': this is done by one process" in err
    assert not (tmp_path / "runs/base-quantized/parts").exists()


def test_a_line_says_that_bits_differ_where_only_the_strategy_has_changed(caplog: pytest.LogCaptureFixture) -> None:
    class Sharded:
        pass

    def told(before: str) -> str:
        caplog.clear()
        trainer = SimpleNamespace(world_size=2, is_global_zero=True, strategy=Sharded())
        job = SimpleNamespace(data=SimpleNamespace(batch_size=8))
        _reshard_batches(job, trainer, 2, 8, before)  # type: ignore[arg-type]
        assert job.data.batch_size == 8
        return caplog.text

    assert "Sharded instead of DDPStrategy" in told("DDPStrategy")
    assert told("Sharded") == ""
