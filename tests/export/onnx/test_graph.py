"""The float ONNX file computes what the model computes, whatever the batch and its length."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from distill.compression.structure.removal import keep_units
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.onnx.graph import OPSET, feed, to_onnx
from distill.export.onnx.runtime import integer_matmuls, logits, session

Inputs = Callable[..., dict[str, Tensor]]


@pytest.fixture(scope="module")
def shrunken(bert: BertForSequenceClassification) -> BertForSequenceClassification:
    """Heads and neurons taken out, and in half precision."""
    model = copy.deepcopy(bert)
    keep_units(model, "heads", {1: [0, 2, 3]}, "prune")
    keep_units(model, "neurons", {1: list(range(0, 48, 2))}, "prune")
    return model.bfloat16()


@pytest.fixture(scope="module")
def path(shrunken: BertForSequenceClassification, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    to_onnx(shrunken, path, inputs(1, 1))
    return path


@pytest.fixture(scope="module")
def run(path: Path) -> Any:
    return session(path)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 17), (2, 8), (5, 13), (3, 32)])
def test_a_shrunken_student_computes_the_same_at_any_size(
    shrunken: BertForSequenceClassification, run: Any, inputs: Inputs, batch: int, length: int
) -> None:
    given = inputs(batch, length)
    with torch.no_grad():
        expected = copy.deepcopy(shrunken).float()(**given).logits
    torch.testing.assert_close(logits(run, given), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_padding_changes_nothing(run: Any, inputs: Inputs) -> None:
    alone = inputs(1, 9)
    padded = {name: torch.nn.functional.pad(tensor, (0, 12)) for name, tensor in alone.items()}
    torch.testing.assert_close(logits(run, padded), logits(run, alone), rtol=0, atol=1e-5)


def test_the_file_says_what_is_free_and_holds_float32(path: Path, inputs: Inputs) -> None:
    model = onnx.load(path)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert sizes == {name: ["batch", "length"] for name in inputs(1, 1)} | {"logits": ["batch", 2]}
    kinds = {initializer.data_type for initializer in model.graph.initializer}
    assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}


def test_nothing_was_quantized_and_the_model_is_as_it_was(path: Path, shrunken: BertForSequenceClassification) -> None:
    assert integer_matmuls(path) == {}
    assert shrunken.dtype == torch.bfloat16


def test_models_read_what_the_data_has() -> None:
    ids, tokens = torch.ones(2, 3, dtype=torch.long), torch.tensor([[True, True, False], [True, True, True]])
    assert list(feed(Batch(inputs={"input_ids": ids, "position_ids": ids}))) == ["input_ids", "attention_mask"]
    packed = feed(Batch(inputs={"input_ids": ids}, tokens=tokens))
    assert packed["attention_mask"].tolist() == tokens.long().tolist()
    kinds = feed(Batch(inputs={"token_type_ids": ids, "attention_mask": ids, "input_ids": ids}))
    assert list(kinds) == ["input_ids", "attention_mask", "token_type_ids"]
    image = torch.zeros(2, 1, 8, 8)
    assert list(feed(Batch(inputs={"input": image}))) == ["input"]


def test_the_file_does_not_tell_of_this_machine(path: Path, shrunken: BertForSequenceClassification) -> None:
    model = onnx.load(path)
    assert str(Path(torch.__file__).parent).encode() not in path.read_bytes()
    assert not model.graph.value_info
    assert path.stat().st_size < 4 * sum(p.numel() for p in shrunken.parameters()) + 40_000


class Pictures(nn.Module):
    """Says in its own way that it takes one size, and computes what no exporter follows."""

    def forward(self, input: Tensor) -> Tensor:
        assert input.shape[1:] == (3, 4, 4), "wrong size of pictures"
        return torch.tensor([[float(x.sum()) for x in input]]).t()


def test_a_model_may_refuse_other_sizes_in_its_own_way_and_a_hint_can_be_followed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot follow this Pictures.*distill\.load") as refused:
        to_onnx(Pictures(), tmp_path / "model.onnx", {"input": torch.zeros(2, 3, 4, 4)})
    assert "--to hf" not in str(refused.value)  # transformers cannot open it


def test_whatever_the_exporter_raises_is_one_message(
    tmp_path: Path, shrunken: BertForSequenceClassification, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_args: Any, **_flags: Any) -> None:
        raise ValueError("conflicts:\n- but tracing inferred a static shape of 8 for dimension 1")

    monkeypatch.setattr(torch.onnx, "export", stumble)
    with pytest.raises(UserError, match=r"this BertForSequenceClassification \(.*texts of one length alone\).*--to hf"):
        to_onnx(shrunken, tmp_path / "model.onnx", inputs(1, 1))
