"""What is written does what the student does, or it is not written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from distill.cli.export import FORMATS
from distill.compression.own_pass import in_own_pass
from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.record import note
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export import hf
from distill.export.base import ExportTarget
from distill.export.onnx.runtime import logits, session
from distill.export.onnx.write import MODEL, Onnx
from distill.export.student import for_isa
from distill.export.targets import TARGETS, check, find_target, write
from distill.export.verify import torch_logits
from distill.tasks import CausalLM, Plain, TextClassification
from distill.workflows.export import export

Quantize = Callable[[nn.Module, WeightScheme, ActivationScheme | None], nn.Module]


@pytest.fixture(scope="module")
def integers(
    quantized: nn.Module, task: TextClassification, batches: list[Batch], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("int8")
    return folder, write(TARGETS["onnx-int8"]("vnni"), quantized, folder, task=task, batches=lambda: batches)


def test_every_quantized_linear_is_one_product_of_integers(
    integers: tuple[Path, dict[str, Any]], quantized: nn.Module
) -> None:
    linears = sum(isinstance(layer, nn.Linear) for layer in quantized_layers(quantized).values())
    assert linears == 6 + 1  # the layer's and the pooler's; the head is left out
    _, report = integers
    assert sum(report["integer_matmuls"].values()) == report["integer_products"] == linears
    assert report["quantized_layers"] == linears + 3
    assert (report["weights"], report["largest_weight"]) == ("int8", 127)


def test_decisions_are_those_of_the_fake_quantized_student(
    integers: tuple[Path, dict[str, Any]], quantized: nn.Module, batches: list[Batch]
) -> None:
    folder, report = integers
    run, equal = session(folder / MODEL), []
    for batch in batches:
        with torch.no_grad():
            equal.append(quantized(**batch.inputs).logits.argmax(-1) == logits(run, batch.inputs).argmax(-1))
    assert torch.cat(equal).all()
    assert report["verified"]["agreement"] == 1.0
    assert report["verified"]["predictions"] == sum(batch.size for batch in batches)


def test_no_quantized_weight_is_in_the_file_as_floats(
    integers: tuple[Path, dict[str, Any]], quantized: nn.Module
) -> None:
    stored = {i.name.removeprefix("model."): i for i in onnx.load(integers[0] / MODEL).graph.initializer}
    for name, layer in quantized_layers(quantized).items():
        kept = stored.pop(f"{name}.integers")
        assert kept.data_type == onnx.TensorProto.INT8, name
        rows = layer.integers().numpy()
        expected = rows.T if isinstance(layer, nn.Linear) else rows
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), expected)
    matrices = {n for n, i in stored.items() if len(i.dims) > 1 and min(i.dims) > 1}
    assert matrices == {"classifier.weight"}


def test_the_student_is_as_it_was(integers: tuple[Path, dict[str, Any]], quantized: nn.Module) -> None:
    assert len(quantized_layers(quantized)) == integers[1]["quantized_layers"]
    assert all(layer.mode == "frozen" for layer in quantized_layers(quantized).values())


@pytest.mark.slow
def test_a_tied_table_is_stored_once_and_as_integers(quantize: Quantize, tmp_path: Path) -> None:
    torch.manual_seed(0)
    words, sizes = 301, {"n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2, "initializer_range": 0.2}
    student = GPT2LMHeadModel(GPT2Config(vocab_size=words, bos_token_id=0, eos_token_id=0, **sizes))
    ids = torch.randint(0, 61, (4, 12))
    data = Batch(inputs={"input_ids": ids}, labels=ids.roll(-1, 1), extras={"bytes": torch.ones_like(ids)})
    layers = quantize(student, WeightScheme(), ActivationScheme())
    report = write(TARGETS["onnx-int8"]("avx2"), layers, tmp_path, task=CausalLM(), batches=lambda: [data])
    assert report["verified"]["metric"] == "bits_per_byte"
    assert report["weights"] == "uint8"
    assert sum(report["integer_matmuls"].values()) == report["integer_products"] == 4
    tables = [i for i in onnx.load(tmp_path / MODEL).graph.initializer if words in i.dims and min(i.dims) > 1]
    assert [i.data_type for i in tables] == [onnx.TensorProto.INT8]


# ---------------------------------------------------------------------- plain weights


def test_any_transformers_opens_the_plain_folder(
    quantized: nn.Module, task: TextClassification, batches: list[Batch], tmp_path: Path
) -> None:
    report = write(TARGETS["hf"]("vnni"), quantized, tmp_path, task=task, batches=lambda: batches)
    assert report["verified"]["relative_error"] < 1e-6
    opened, loading = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert set(loading["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}
    table = quantized.bert.embeddings.word_embeddings  # type: ignore[union-attr]
    step = table.weight_scale[:, None]
    torch.testing.assert_close(opened.embeddings.word_embeddings.weight, step * table.integers())
    assert all(path.stat().st_mode & 0o044 for path in tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["remove", "low_rank", "share"])
def test_structures_that_transformers_cannot_express_are_refused(
    bert: BertForSequenceClassification, kind: str
) -> None:
    student = copy.deepcopy(bert)
    note(student, {"kind": "layers"}, {"kind": kind})
    with pytest.raises(UserError, match=rf"--to = 'hf': cannot hold .*steps.1 of .*: {kind}\).*--to onnx"):
        check(TARGETS["hf"](), student)
    check(TARGETS["onnx"](), student)


def test_a_plain_module_is_no_model_of_transformers() -> None:
    with pytest.raises(UserError, match="Linear is none of the models of transformers"):
        check(TARGETS["hf"](), nn.Linear(2, 2))


# ---------------------------------------------------------------------- refusals


def test_a_student_without_integers_has_none_to_export(bert: BertForSequenceClassification) -> None:
    with pytest.raises(UserError, match=r"--to = 'onnx-int8': .*was not quantized.*distill quantize RUN"):
        TARGETS["onnx-int8"]().check(bert)


def test_an_unknown_format_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--to = 'onnx-int4': no such format.*'onnx-int8'"):
        find_target("onnx-int4")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    find_target("hf")
    with pytest.raises(UserError, match=r"needs onnxruntime.*lightning-distill\[export\]"):
        find_target("onnx")


def test_the_command_offers_the_targets_that_there_are() -> None:
    assert set(FORMATS) == set(TARGETS)


@pytest.mark.parametrize(("to", "rule"), [("hf", "differ"), ("onnx-int8", "decisions")])
def test_what_does_something_else_is_refused(
    to: str,
    rule: str,
    quantized: nn.Module,
    task: TextClassification,
    batches: list[Batch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both writers are made to turn the head round."""
    wrong = copy.deepcopy(quantized)
    with torch.no_grad():
        wrong.classifier.weight.neg_()  # type: ignore[union-attr]
    monkeypatch.setattr(hf, "to_huggingface", lambda model, folder: wrong.save_pretrained(folder))  # type: ignore[operator]
    monkeypatch.setattr(Onnx, "open", lambda *_: torch_logits(wrong))
    with pytest.raises(UserError, match=f"{rule}.*nothing was written"):
        write(TARGETS[to]("vnni"), quantized, tmp_path, task=task, batches=lambda: batches)


class Columns(nn.Module):
    """A table whose columns' embeddings lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(20, 4), nn.Linear(20, 16), nn.Linear(16, 2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.table(input).flatten(1)).relu())


class Frames(nn.Module):
    """A mean over time of features; one layer stands under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.again = self.body

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head(self.again(self.body(self.first(input).relu()).relu()).relu().mean(1))


class Windows(nn.Module):
    """Pooled to a grid of its own size, which the exporter writes for the size that it sees alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pool, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(3), nn.Linear(36, 2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.body(input).relu()).flatten(1))


@pytest.mark.parametrize(
    ("model", "example", "others"),
    [
        (Columns(), torch.arange(15).view(3, 5), []),
        (Frames(), torch.randn(3, 7, 6), [torch.randn(2, 11, 6), torch.randn(1, 1, 6)]),
        (Windows(), torch.randn(2, 3, 6, 6), []),
    ],
)
def test_sizes_are_free_where_the_file_then_does_what_the_model_does(
    model: nn.Module, example: torch.Tensor, others: list[torch.Tensor], tmp_path: Path
) -> None:
    batch = Batch({"input": example}, labels=torch.zeros(len(example), dtype=torch.long))
    report = write(TARGETS["onnx"]("vnni"), model.eval(), tmp_path, task=Plain(), batches=lambda: [batch])
    sizes = report["inputs"]["input"]
    run = session(tmp_path / MODEL)
    for x in (example, example[:1], *others):
        with torch.no_grad():
            torch.testing.assert_close(logits(run, {"input": x}), model(x), rtol=1e-4, atol=1e-5)
    # What is said to be fixed is, and what is said to be free was tried.
    longer = torch.cat([example, example], 1)
    if isinstance(sizes[1], int):
        with pytest.raises(Exception, match="Got invalid dimensions"):
            logits(run, {"input": longer})
    else:
        with torch.no_grad():
            torch.testing.assert_close(logits(run, {"input": longer}), model(longer), rtol=1e-4, atol=1e-5)
    assert (isinstance(sizes[1], str)) == bool(others)


class Words(nn.Module):
    """A head of its own that reads the table's weight, as many a language model is written."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.body(self.table(input)).mean(1), self.table.weight)


def test_a_table_that_another_module_reads_is_exported_as_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = Words().eval(), torch.arange(18).view(3, 6) % 9
    quantize(model, [], activations=None, embeddings=WeightScheme(bits=4, symmetric=False))
    batch = Batch({"input": ids}, labels=torch.arange(3))
    report = write(TARGETS["onnx-int8"]("vnni"), model, tmp_path, task=Plain(), batches=lambda: [batch])
    assert report["verified"]["mean_error"] < 1e-5


class Beside(nn.Module):
    """Its forward reads a map's weight, beside the map's own call or without one."""

    def __init__(self, *, called: bool) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.called = called

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.first(input).relu()
        x = self.body(x).relu() if self.called else x
        return self.head(nn.functional.linear(x, self.body.weight, self.body.bias).relu())


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("kind", ["none", "static", "dynamic"])
def test_a_map_that_another_module_reads_is_exported_as_integers(tmp_path: Path, kind: Any, called: bool) -> None:
    torch.manual_seed(0)
    model, x = Beside(called=called).eval(), torch.randn(6, 8)
    quantize(model, [x], weights=WeightScheme(bits=4), activations=ActivationScheme(kind=kind))
    batch = Batch({"input": x}, labels=torch.arange(6) % 3)
    report = write(TARGETS["onnx-int8"]("vnni"), model, tmp_path, task=Plain(), batches=lambda: [batch])
    assert report["verified"]["mean_error"] < 1e-5


@pytest.mark.parametrize("layer", [nn.Linear(8, 3), nn.Sequential(nn.Conv1d(8, 3, 1), nn.Flatten())])
def test_a_model_and_data_in_double_precision_become_float32(layer: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(4, 8, *[1] * isinstance(layer, nn.Sequential), dtype=torch.float64)
    batch = Batch({"input": x}, labels=torch.arange(4) % 3)
    report = write(TARGETS["onnx"]("vnni"), layer.double().eval(), tmp_path, task=Plain(), batches=lambda: [batch])
    assert report["verified"]["relative_error"] < 1e-5


class Refuses(nn.Module):
    """It cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            raise RuntimeError("not here")
        return self.head(self.body(self.first(input)))


def test_after_an_export_that_failed_weights_are_parameters_again(tmp_path: Path) -> None:
    """Tracing leaves a model's pass open where it raises; a layer would still answer with rounded copies."""
    model, x = Refuses().eval(), torch.randn(4, 8)
    quantize(model, [x], activations=None)
    batch = Batch({"input": x}, labels=torch.arange(4) % 3)
    with pytest.raises(UserError, match="cannot follow"):
        write(TARGETS["onnx"]("vnni"), model, tmp_path, task=Plain(), batches=lambda: [batch])
    assert not in_own_pass()


def test_data_of_sizes_that_the_file_does_not_take_are_refused(tmp_path: Path) -> None:
    """The exporter follows the pooling at one size only."""
    data = [Batch({"input": torch.randn(2, 3, size, size)}, labels=torch.zeros(2, dtype=torch.long)) for size in (6, 9)]
    with pytest.raises(
        UserError, match=r"reads input of \[batch, 3, 6, 6\] only.*hold \[2, 3, 9, 9\] too.*distill\.load"
    ):
        write(TARGETS["onnx"]("vnni"), Windows().eval(), tmp_path, task=Plain(), batches=lambda: data)


def test_a_layer_under_two_names_is_exported_under_both(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example = Frames().eval(), torch.randn(3, 7, 6)
    quantize(model, [example], activations=ActivationScheme(kind="dynamic"))
    batch = Batch({"input": example}, labels=torch.zeros(3, dtype=torch.long))
    report = write(TARGETS["onnx-int8"]("vnni"), model, tmp_path, task=Plain(), batches=lambda: [batch])
    assert report["verified"]["mean_error"] < 1e-5
    assert sum(report["integer_matmuls"].values()) == 2  # it is called twice, and stored once


class Pickled(ExportTarget):
    """A target of one's own, which may write something else than it is given."""

    name = "pickled"

    def __init__(self, isa: str = "avx2", factor: float = 1.0) -> None:
        super().__init__(isa)
        self.factor = factor

    def write(self, student: nn.Module, folder: Path, example: dict[str, torch.Tensor]) -> dict[str, Any]:
        assert set(example) == {"input"}
        torch.save(student.weight * self.factor, folder / "weight.pt")  # type: ignore[operator]
        return {"factor": self.factor}

    def open(self, folder: Path) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
        weight = torch.load(folder / "weight.pt")
        return lambda inputs: inputs["input"] @ weight.detach().T


def test_a_target_of_ones_own_is_verified_as_ours_are(tmp_path: Path) -> None:
    student, batch = nn.Linear(4, 3, bias=False).eval(), Batch({"input": torch.randn(8, 4)}, labels=torch.arange(8) % 3)
    report = write(Pickled(), student, tmp_path, task=Plain(), batches=lambda: [batch])
    assert report["factor"] == 1.0
    assert report["verified"]["predictions"] == 8
    with pytest.raises(UserError, match=r"differ.*nothing was written"):
        write(Pickled(factor=1.01), student, tmp_path, task=Plain(), batches=lambda: [batch])


def test_a_float_student_is_judged_as_one_by_targets_of_integers_too(tmp_path: Path) -> None:
    class Both(Pickled):
        integers = True

    student, batch = nn.Linear(4, 3, bias=False).eval(), Batch({"input": torch.randn(8, 4)}, labels=torch.arange(8) % 3)
    with pytest.raises(UserError, match=r"differ.*1e-04 is allowed"):
        write(Both(factor=1.001), student, tmp_path, task=Plain(), batches=lambda: [batch])


def test_a_target_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from distill import ExportTarget\nclass T(ExportTarget):\n    write = open = None\n"
    (tmp_path / "nameless_target.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="a target needs a name"):
        export("runs/none", to="nameless_target.T", allow=["nameless_target"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_kept_in_16_bits_where_asked(
    dtype: str,
    bert: BertForSequenceClassification,
    quantized: nn.Module,
    task: TextClassification,
    batches: list[Batch],
    tmp_path: Path,
) -> None:
    target = for_isa(TARGETS["hf"], None, "hf", dtype)
    report = write(target, bert, tmp_path, task=task, batches=lambda: batches)
    kept = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {getattr(torch, dtype)}
    for name, tensor in kept.items():
        assert torch.equal(tensor, bert.state_dict()[name].to(tensor.dtype))
    assert report["dtype"] == dtype
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).dtype is getattr(torch, dtype)
    assert {parameter.dtype for parameter in bert.parameters()} == {torch.float32}, "the student stays"
    note(rounded := copy.deepcopy(quantized), {"kind": "quantize"})
    with pytest.raises(UserError, match=rf"--dtype = '{dtype}': would round weights that lie on grids"):
        target.check(rounded)


def test_other_targets_have_a_precision_of_their_own() -> None:
    with pytest.raises(UserError, match=r"--dtype = 'bfloat16': onnx has a precision of its own.*--to hf"):
        for_isa(TARGETS["onnx"], None, "onnx", "bfloat16")
    with pytest.raises(UserError, match="must be one of float32, bfloat16, float16"):
        for_isa(TARGETS["hf"], None, "hf", "float8")
