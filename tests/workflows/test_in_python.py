"""What ends a run on the command line ends one in Python: finish, save, quantize, export."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import distill
from distill import ActivationScheme, Distillation, OptimizerConfig, UserError, WeightScheme, callbacks, losses, tasks
from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.starts.settings import Start

ALL = [".*"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def rows() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
    return [(row, row[:3].argmax()) for row in x]


LOADER: DataLoader[Any] = DataLoader(rows(), batch_size=8)  # type: ignore[arg-type]


def prune() -> callbacks.GradualMagnitudePruning:
    return callbacks.GradualMagnitudePruning(final_sparsity=0.5, begin=0, end=0.5, every_n_steps=1, include=ALL)


def trained(folder: Path, *more: Any, loaders: Any = (LOADER, LOADER), **settings: Any) -> tuple[Trainer, Any]:
    module = Distillation(net(), tasks.Plain(), None, [losses.CrossEntropy()], OptimizerConfig(lr=0.02, warmup=0))
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    settings = quiet | {"logger": False, "max_epochs": 3, "enable_checkpointing": False} | settings
    trainer = Trainer(default_root_dir=folder, callbacks=list(more), **settings)
    trainer.fit(module, *loaders)
    return trainer, module


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.WARNING, logger="distill")
    return lambda: caplog.text


def best(folder: Path, kind: type[ModelCheckpoint]) -> ModelCheckpoint:
    return kind(dirpath=folder / "best", monitor="val/accuracy", mode="max", filename="{step}")


def accuracy(student: nn.Module) -> float:
    x, y = (torch.stack(part) for part in zip(*rows(), strict=True))
    with torch.no_grad():
        return float((student(x).argmax(-1) == y).double().mean())


def test_finish_gives_the_student_that_is_shipped_and_what_it_scores(tmp_path: Path) -> None:
    qat = callbacks.QuantizationAwareTraining(observe=0.3, begin=0.5, include=ALL)
    trainer, module = trained(tmp_path, prune(), qat)
    before = trainer.loggers
    done = distill.finish(trainer, tmp_path / "student")
    assert done.student is module.student
    assert [step["kind"] for step in done.compression] == ["sparsity", "quantize"]
    assert [name for name in done.student.state_dict() if "mask" in name] == []
    weights = [layer.weight for layer in done.student if hasattr(layer, "weight")]
    assert sum(int((w == 0).sum()) for w in weights) >= 0.5 * sum(w.numel() for w in weights)  # type: ignore[union-attr, arg-type, operator]
    assert done.scores["val/accuracy"] == pytest.approx(accuracy(done.student))
    assert (done.step, done.steps, done.unfinished) == (18, 18, [])
    assert trainer.loggers == before
    assert not done.student.training
    opened = distill.load(tmp_path / "student", net())
    assert torch.equal(opened(torch.ones(2, 6)), done.student(torch.ones(2, 6)))


@pytest.mark.parametrize("kind", [ModelCheckpoint, callbacks.BestCheckpoint])
def test_the_best_checkpoint_comes_back(kind: type[ModelCheckpoint], tmp_path: Path) -> None:
    keep = best(tmp_path, kind)
    trainer, module = trained(tmp_path, keep, max_epochs=4, enable_checkpointing=True)
    shown = torch.load(keep.best_model_path, weights_only=True)
    with torch.no_grad():
        module.student[0].weight.add_(1)  # what the last step is then plainly not
    done = distill.finish(trainer)
    if shown["global_step"] != trainer.global_step:
        assert torch.equal(done.student[0].weight, shown["state_dict"]["student.0.weight"])  # type: ignore[index]
    assert done.step == shown["global_step"]


class EarlyBest(nn.Module):
    """Has validations find less from step to step, so that the best is the first."""

    @staticmethod
    def judge(module: Any) -> None:
        module.log("val/accuracy", torch.tensor(1.0 / (1 + module.global_step)))


@pytest.mark.parametrize("kind", [ModelCheckpoint, callbacks.BestCheckpoint])
def test_a_best_from_before_the_target_is_never_taken(
    kind: type[ModelCheckpoint], tmp_path: Path, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distillation, "on_validation_epoch_end", EarlyBest.judge)
    trainer, _ = trained(tmp_path, best(tmp_path, kind), prune(), enable_checkpointing=True)
    done = distill.finish(trainer)
    assert done.unfinished == []
    assert done.compression[0]["actual"] == pytest.approx(0.5, abs=0.02)
    ours = kind is callbacks.BestCheckpoint
    assert done.step == (12 if ours else 18)  # the target is reached at 9, and validated at 6, 12 and 18
    assert ("before compressions had reached their targets" in told()) != ours


def test_the_average_of_the_last_step_is_not_passed_off_as_that_of_the_best(
    tmp_path: Path, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distillation, "on_validation_epoch_end", EarlyBest.judge)
    keep = ModelCheckpoint(tmp_path, monitor="val/accuracy", mode="max", save_weights_only=True)
    average = callbacks.ExponentialMovingAverage(0.9)
    trainer, module = trained(tmp_path, keep, average, enable_checkpointing=True)
    bias = module.student[2].bias.detach().clone()
    last = {name: value.clone() for name, value in average.state_dict().items()}
    done = distill.finish(trainer)
    assert done.step == 18
    assert all(torch.equal(value, last[name]) for name, value in done.student.state_dict().items())
    assert not torch.equal(bias, last["2.bias"])
    assert "holds weights only, and not ExponentialMovingAverage's of that step" in told()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1000])])
def test_where_the_best_of_lightning_cannot_be_read_the_last_step_is_taken(
    damage: Callable[[Path], Any], tmp_path: Path, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distillation, "on_validation_epoch_end", EarlyBest.judge)
    trainer, module = trained(tmp_path, keep := best(tmp_path, ModelCheckpoint), enable_checkpointing=True)
    last = module.student[0].weight.detach().clone()
    damage(Path(keep.best_model_path))
    done = distill.finish(trainer)
    assert done.step == 18
    assert torch.equal(done.student[0].weight, last)  # type: ignore[index]
    assert f"{keep.best_model_path}, cannot be read" in told()


def test_a_finish_that_was_refused_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distillation, "on_validation_epoch_end", EarlyBest.judge)
    trainer, _ = trained(tmp_path, keep := best(tmp_path, ModelCheckpoint), enable_checkpointing=True)
    path = Path(keep.best_model_path)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"mine": DataLoader}, path)
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        distill.finish(trainer)
    torch.save(content, path)
    done = distill.finish(trainer)
    assert done.step == 6
    assert torch.equal(done.student[0].weight, content["state_dict"]["student.0.weight"])  # type: ignore[index]


def test_a_run_that_ended_early_says_what_is_unfinished(tmp_path: Path, told: Callable[[], str]) -> None:
    stop = EarlyStopping("accuracy", mode="max", stopping_threshold=0.0)
    trainer, _ = trained(tmp_path, prune(), stop)
    done = distill.finish(trainer)
    assert (done.step, done.unfinished) == (6, ["GradualMagnitudePruning"])
    assert "at step 6 of 18 GradualMagnitudePruning had not done what was asked for" in told()


def test_a_bad_outcome_is_said_as_a_run_says_it(tmp_path: Path, told: Callable[[], str]) -> None:
    trainer, module = trained(tmp_path)
    with torch.no_grad():
        for weight in module.student.parameters():
            weight.zero_()
    done = distill.finish(trainer)
    assert "the student predicts class 0 for every input" in done.verdict
    assert any(line.startswith("no weight is left of") for line in done.verdict)
    assert all(line in told() for line in done.verdict)


def test_without_validation_data_there_are_no_scores(tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, prune(), loaders=(LOADER,))
    assert distill.finish(trainer).scores == {}


class Data(LightningDataModule):
    def train_dataloader(self) -> Any:
        return LOADER

    val_dataloader = train_dataloader


def test_a_data_module_is_validated_and_calibrates_and_verifies_as_a_loader_does(tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, prune(), loaders=(Data(),))
    done = distill.finish(trainer)
    assert done.scores["val/accuracy"] == pytest.approx(accuracy(done.student))
    distill.quantize(done.student, Data(), activations=ActivationScheme(), include=ALL)
    report = distill.export(done.student, "onnx-int8", tmp_path / "out", Data())
    assert report["verified"]["predictions"] == 48
    assert report["verified"]["exported"] == pytest.approx(accuracy(done.student))
    assert json.loads((tmp_path / "out/export.json").read_text()) | {"folder": str(tmp_path / "out")} == report


@pytest.mark.parametrize("what", ["nothing", "twice", "no student"])
def test_what_cannot_be_finished_is_refused(what: str, tmp_path: Path) -> None:
    from pytorch_lightning.demos.boring_classes import BoringModel

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer, said = Trainer(accelerator="cpu", **quiet), "has trained nothing yet"
    if what == "twice":
        trainer, _ = trained(tmp_path)
        distill.finish(trainer)
        said = "was finished before"
    elif what == "no student":
        trainer, said = (
            Trainer(accelerator="cpu", max_steps=1, limit_val_batches=0, **quiet),
            "BoringModel, which has no",
        )
        trainer.fit(BoringModel())
    with pytest.raises(UserError, match=said):
        distill.finish(trainer)


def narrow() -> callbacks.StructuredPruning:
    return callbacks.StructuredPruning(channels=0.5, begin=0.1, end=0.5, every_n_steps=1)


@pytest.mark.parametrize("compression", [prune, narrow, lambda: callbacks.LowRank(rank=1, include=ALL)])
def test_a_student_that_is_being_compressed_is_neither_saved_nor_exported_nor_quantized(
    compression: Callable[[], Any], tmp_path: Path
) -> None:
    trainer, module = trained(tmp_path, compression())
    for use in (
        lambda: distill.save(module.student, tmp_path / "student"),
        lambda: distill.export(module.student, "onnx", tmp_path / "out", LOADER),
        lambda: distill.quantize(module.student),
    ):
        with pytest.raises(UserError, match=r"0 is still being compressed.*distill\.finish"):
            use()
    with pytest.raises(UserError, match="is what trains a student"):
        distill.export(module, "onnx", tmp_path / "out", LOADER)
    assert not (tmp_path / "student").exists()
    assert not (tmp_path / "out").exists()
    distill.save(distill.finish(trainer).student, tmp_path / "student")


def test_quantize_rounds_in_place_to_what_is_saved(tmp_path: Path) -> None:
    student, before = net(), net()(torch.ones(2, 6))
    assert distill.quantize(student, weights=WeightScheme(bits=4), include=ALL, store="integers") is student
    weight = student[0].weight.detach()
    assert all(len(row.unique()) <= 16 for row in weight)  # 4 bits a channel
    assert not torch.equal(student(torch.ones(2, 6)), before)
    distill.save(student, tmp_path / "student")
    assert torch.equal(distill.load(tmp_path / "student", net())(torch.ones(2, 6)), student(torch.ones(2, 6)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"activations": ActivationScheme()}, "data: static inputs and starts look at batches"),
        ({"start": Start(method="gptq")}, "data: static inputs and starts look at batches"),
        ({"data": LOADER}, "data = 'DataLoader': is read for static inputs alone"),
        ({"data": iter(LOADER), "activations": ActivationScheme()}, "is read more than once"),
        ({"data": 3, "activations": ActivationScheme()}, "data = 'int': no batches can be taken"),
        ({"data": LOADER, "activations": ActivationScheme(), "task": "plane"}, "task = 'plane': no such task"),
        ({"data": LOADER, "activations": ActivationScheme(), "calibrate": 0}, "calibrate = 0"),
        ({"store": "integer"}, "store = 'integer': must be float or integers"),
        ({"outputs": "off"}, "outputs = 'off': must be auto or none"),
    ],
)
def test_settings_that_cannot_work_leave_the_student_as_it_was(settings: dict[str, Any], said: str) -> None:
    student = net()
    with pytest.raises(UserError, match=said):
        distill.quantize(student, include=ALL, **settings)
    assert [type(layer) for layer in student] == [nn.Linear, nn.ReLU, nn.Linear]


def test_data_that_have_no_length_calibrate_too() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return ((x, y) for batch in LOADER for x, y in zip(*batch, strict=True))

    student = net()
    distill.quantize(student, DataLoader(Stream(), 8), activations=ActivationScheme(), include=ALL)
    assert len(quantized_layers(student)) == 2


@pytest.mark.parametrize(
    ("to", "settings", "said"),
    [
        ("onyx", {}, "to = 'onyx': no such format"),
        ("onnx-int8", {}, "to = 'onnx-int8': cannot hold this student: it was not quantized"),
        ("onnx", {"isa": "avx2"}, "isa = 'avx2': onnx stores no integers"),
        ("gguf", {"isa": "avx2"}, "isa = 'avx2': gguf is the same for every instruction set"),
        ("onnx", {"samples": 0}, "samples = 0"),
        ("hf", {}, "to = 'hf': cannot hold this student: Sequential is none of the models of transformers"),
    ],
)
def test_an_export_that_cannot_be_names_the_argument(
    to: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        distill.export(net(), to, tmp_path / "out", LOADER, **settings)
    assert not (tmp_path / "out").exists()


def test_a_class_of_ones_own_is_a_target(tmp_path: Path) -> None:
    class Pickled(distill.ExportTarget):
        name = "state"

        def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
            torch.save(student.state_dict(), folder / "state.pt")
            return {}

        def open(self, folder: Path) -> Any:
            opened = net()
            opened.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
            return lambda inputs: opened(inputs["input"]).detach()

    report = distill.export(net(), Pickled, tmp_path / "out", list(LOADER), samples=5)
    assert (report["to"], report["verified"]["predictions"]) == ("state", 5)
