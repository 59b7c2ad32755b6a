"""A program that torch opens alone computes what the student does, of any size."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.onnx.convert import without_quantization
from distill.export.script import SCRIPT
from distill.export.student import export
from distill.export.targets import TARGETS, write
from distill.export.torch_export import FILE, TorchExport
from distill.export.verify import torch_logits
from distill.tasks import Plain, TextClassification


def images(size: int = 8) -> Batch:
    torch.manual_seed(size)
    return Batch({"x": torch.randn(4, 3, size, size)}, labels=torch.tensor([0, 1, 2, 0]))


def net(pooled: bool) -> nn.Module:
    torch.manual_seed(0)
    pool: nn.Module = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4 if pooled else 144, 3)).eval()


def test_texts_of_any_number_and_length_with_weights_on_their_grids(
    quantized: nn.Module, task: TextClassification, batches: list[Batch], tmp_path: Path
) -> None:
    report = write(TorchExport(), quantized, tmp_path, task=task, batches=lambda: batches)
    assert report["verified"]["relative_error"] < 1e-5
    assert report["inputs"]["input_ids"] == ["batch", "length"]
    kept = torch.export.load(tmp_path / FILE).state_dict
    plain = without_quantization(quantized).state_dict()
    weights = {name.removeprefix("logits.model."): tensor for name, tensor in kept.items()}
    assert {name for name in plain if name.endswith("weight")} <= weights.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in weights.items())


def test_it_is_opened_without_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = net(pooled=True)
    report = export(model, "torch-export", tmp_path / "out", [images(), images(11)])
    assert report["inputs"] == {"x": ["batch", 3, "size_2", "size_3"]}, "the pool takes any"
    capsys.readouterr()
    for name in ("distill", "transformers", "distill.export.torch_export"):
        monkeypatch.setitem(sys.modules, name, None)
    runpy.run_path(str(tmp_path / "out" / SCRIPT))
    assert capsys.readouterr().out.startswith("[[")


def test_sizes_that_are_not_free_are_named_and_others_refused(tmp_path: Path) -> None:
    report = write(TorchExport(), net(pooled=False), tmp_path, task=Plain(), batches=lambda: [images()])
    assert report["inputs"] == {"x": ["batch", 3, 8, 8]}
    predict = TorchExport().open(tmp_path)
    torch.testing.assert_close(predict(images().inputs), torch_logits(net(pooled=False))(images().inputs))
    assert predict({"x": images().inputs["x"][:1]}).shape == (1, 3)
    with pytest.raises(UserError, match=r"--to = 'torch-export': torch.export cannot run the program"):
        predict(images(11).inputs)


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(x) if x.sum() > 0 else self.head(-x)


def test_what_it_cannot_follow_is_one_message(tmp_path: Path) -> None:
    data = Batch({"x": torch.randn(4, 4)}, labels=torch.tensor([0, 1, 2, 0]))
    with pytest.raises(UserError, match=r"cannot follow Undecided .*nothing was written.*--to onnx"):
        write(TARGETS["torch-export"](), Undecided().eval(), tmp_path, task=Plain(), batches=lambda: [data])
    assert not any(tmp_path.iterdir())


def test_padding_reaches_the_attention(
    bert: BertForSequenceClassification, inputs: Any, tmp_path: Path, task: TextClassification, batches: list[Batch]
) -> None:
    write(TorchExport(), bert, tmp_path, task=task, batches=lambda: batches)
    one, padded = inputs(1, 9), inputs(1, 9)
    padded = {name: nn.functional.pad(tensor, (0, 5), value=7) for name, tensor in padded.items()}
    padded["attention_mask"][:, 9:] = 0
    padded["token_type_ids"][:, 9:] = 0
    predict = TorchExport().open(tmp_path)
    torch.testing.assert_close(predict(padded), predict(one), rtol=1e-4, atol=1e-5)
