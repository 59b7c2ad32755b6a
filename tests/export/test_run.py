"""``distill export``, from a run's folder to a verified export."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.utils.errors import UserError
from distill.export import student as student_export
from distill.export import targets
from distill.export.onnx.runtime import latency, logits, session
from distill.export.onnx.write import OnnxInt8
from distill.export.verify import Comparison
from distill.models import saved_student
from distill.run.folder import Run
from distill.workflows import export as running
from distill.workflows.export import export

Quantize = Callable[[nn.Module, WeightScheme, ActivationScheme | None], nn.Module]
NAMES = ["negative", "positive"]


def classifier(words: int, width: int) -> BertForSequenceClassification:
    torch.manual_seed(width)
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=width,
        max_position_embeddings=64,
        initializer_range=0.2,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def run(tmp_path: Path, tiny_tokenizer_dir: str, text_folder: str, quantize: Quantize) -> Run:
    """A run whose student was quantized, and whose teacher is no larger than it must be."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    teacher = tmp_path / "teacher"
    saved_student.save(classifier(len(tokenizer), 32), teacher, tokenizer)
    config = {
        "model": {"task": "text-classification", "teacher": {"path": str(teacher)}, "student": {"path": str(teacher)}},
        "data": {"path": text_folder, "tokenizer": str(teacher), "max_length": 32},
        "trainer": {"max_steps": 1},
    }
    made = Run.create(tmp_path / "runs", "small", config, "one")
    student = quantize(classifier(len(tokenizer), 16), WeightScheme(reduced_range=True), ActivationScheme())
    saved_student.save(student, made.student, tokenizer)
    return made


@pytest.mark.slow
def test_a_run_becomes_a_folder_with_everything_in_it(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_export, "latency", timing := Mock(wraps=latency))
    report = export(run.folder, "onnx-int8", isa="avx2")
    folder = run.folder / "exports" / "onnx-int8"
    assert {"model.onnx", "config.json", "tokenizer.json", "export.json"} <= {p.name for p in folder.iterdir()}
    written = json.loads((folder / "export.json").read_text())
    assert written | {"folder": str(folder)} == report
    assert report["verified"]["predictions"] == 41
    assert report["weights"] == "int8"
    assert report["largest_weight"] == 63
    assert sum(report["integer_matmuls"].values()) == report["integer_products"] == 7
    assert report["bytes"] == (folder / "model.onnx").stat().st_size < report["reference"]["bytes"]
    assert report["length"] == 64
    assert set(report["latency_ms"]) == {"export", "the float teacher", "the float student"}
    timed, larger = (call.args[0] for call in timing.call_args_list)
    assert timed.keys() == report["latency_ms"].keys()
    assert larger.keys() == report["latency_ms_of_32"].keys() == {"export", "the float student"}
    [*_, feeds] = (call.args[1] for call in timing.call_args_list)
    assert {len(tensor) for tensor in feeds["export"].values()} == {32}
    for timed_session in timed.values():  # of one thread, as is said where latencies are told
        options = timed_session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    shown = capsys.readouterr().out
    assert "7 of 7" in shown
    assert "the float teacher" in shown
    inputs = AutoTokenizer.from_pretrained(folder)("a good film", return_tensors="pt")
    with torch.no_grad():
        expected = saved_student.load(run.student)(**inputs).logits
    torch.testing.assert_close(logits(session(folder / "model.onnx"), inputs), expected, rtol=0, atol=1e-5)


def test_what_is_verified_is_what_the_validation_reads(run: Run) -> None:
    share = [("data.eval_batch_size", "10"), ("trainer.limit_val_batches", "2")]
    verified = export(run.folder, "hf", overrides=share)["verified"]
    assert 0 < verified["predictions"] < 41
    # The quantized weights in float; the teacher is whole, and only the share tells which samples were read.
    batches = list(running._batches(running.reopen(run.folder, "validate", overrides=share)[1], None))
    assert verified["predictions"] == sum(batch.size for batch in batches)
    assert len(batches) == 2


def test_it_is_verified_on_as_many_samples_as_are_asked_for(run: Run) -> None:
    assert (
        export(run.folder, "hf", samples=13, overrides=[("data.eval_batch_size", "10")])["verified"]["predictions"]
        == 13
    )
    with pytest.raises(UserError, match="--samples = 0: must be at least 1"):
        export(run.folder, "hf", samples=0)


def test_plain_weights_open_in_transformers(run: Run, tmp_path: Path) -> None:
    report = export(run.folder, "hf", tmp_path / "mine")
    assert "latency_ms" not in report
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mine")
    assert opened.config.id2label == dict(enumerate(NAMES))
    stored = saved_student.load(run.student).classifier.weight
    torch.testing.assert_close(opened.classifier.weight, stored, rtol=0, atol=0)


def test_what_is_not_verified_leaves_no_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(run.folder.rglob("*"))
    found = Comparison(
        41, relative_error=0.1, mean_error=0.1, agreement=0.97, metric="accuracy", trained=0.9, exported=0.9
    )

    def fake(target: OnnxInt8, model: nn.Module, folder: Path, example: Any) -> dict[str, Any]:
        (folder / "model.onnx").write_bytes(b"wrong")
        return {}

    monkeypatch.setattr(OnnxInt8, "write", fake)
    monkeypatch.setattr(OnnxInt8, "open", lambda *_: None)
    monkeypatch.setattr(targets, "compare", lambda *_: found)
    with pytest.raises(UserError, match=r"97\.00% of its decisions"):
        export(run.folder, "onnx-int8")
    assert sorted(run.folder.rglob("*")) == before


def test_packages_that_a_target_of_ones_own_lacks_are_named_before_the_run_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("examples.export_target.TorchProgram.extra", "export")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime.*lightning-distill\[export\]"):
        export("nowhere", "examples.export_target.TorchProgram", allow=["examples"])


def test_mistakes_show_before_the_run_is_opened() -> None:
    with pytest.raises(UserError, match="--to = 'tflite': no such format"):
        export("nowhere", "tflite")
    with pytest.raises(UserError, match="--isa = 'sse': no such target"):
        export("nowhere", "onnx", isa="sse")
