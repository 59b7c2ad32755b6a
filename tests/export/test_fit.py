"""A student that a target cannot hold: the step of its record, and the targets that can."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from distill.compression.quantization.layers import QuantizedLinear, quantized_layers
from distill.compression.quantization.ptq import quantize as round_at_once
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.record import STEP_KINDS, note
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.base import ExportTarget
from distill.export.fit import Obstacle, Unfit
from distill.export.targets import TARGETS, check, holding, write
from distill.tasks import Plain

Quantize = Callable[[nn.Module, WeightScheme, ActivationScheme | None], nn.Module]

ANY = {"onnx", "openvino", "torch-export", "triton"}  # which hold whatever torch can follow
STRUCTURED = {"hf", "compressed-tensors", "gguf"}


def llama(*kinds: str) -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=61, max_position_embeddings=32, **sizes)).eval()  # type: ignore[arg-type]
    note(model, *({"kind": kind} for kind in kinds))
    return model


@pytest.mark.parametrize("kind", ["remove", "low_rank", "share"])
@pytest.mark.parametrize("to", list(TARGETS))
def test_each_target_says_which_step_of_the_record_is_in_its_way(to: str, kind: str) -> None:
    """Of a language model that every target but those of integers holds as it was."""
    student = llama("layers", kind)
    if to in STRUCTURED:
        with pytest.raises(UserError, match=rf"\(steps\.1 of its compression\.json: {kind}\)") as caught:
            check(TARGETS[to](), student)
        assert set(named(caught.value)) == {*ANY, "onnx-fp16", "onnx-genai", "tensorrt"}
    elif to == "onnx-int8":  # what it lacks is a step
        with pytest.raises(UserError, match="it was not quantized"):
            check(TARGETS[to](), student)
    else:
        check(TARGETS[to](), student)


def named(error: UserError) -> list[str]:
    """The targets that a message names as those that can."""
    return error.hint.partition("one of --to ")[2].partition(", or ")[0].split(", ")


SCHEMES: dict[str, tuple[WeightScheme, ActivationScheme | None]] = {
    "static": (WeightScheme(reduced_range=True), ActivationScheme()),
    "symmetric": (WeightScheme(reduced_range=True), ActivationScheme(symmetric=True)),
    "dynamic": (WeightScheme(), ActivationScheme(kind="dynamic")),
    "four": (WeightScheme(bits=4, granularity="group", group_size=16), None),
    "nf4": (WeightScheme(bits=4, format="nf4"), None),
}

LEFT_OUT = {
    "static": {"onnx-fp16", "tensorrt"},
    "symmetric": {"onnx-fp16"},
    "dynamic": {"onnx-fp16", "tensorrt", "openvino"},
    "four": {"onnx-fp16", "tensorrt"},
    "nf4": {"onnx-fp16", "compressed-tensors"},
}


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_how_a_student_was_rounded_decides_what_holds_it(scheme: str) -> None:
    weights, activations = SCHEMES[scheme]
    student = llama("layers")
    ids = torch.randint(0, 61, (8, 12))
    note(student, *round_at_once(student, [ids], weights=weights, activations=activations))
    assert set(TARGETS) - set(holding(student)) == LEFT_OUT[scheme]
    for to in LEFT_OUT[scheme]:
        with pytest.raises(UserError, match=r"\(steps\.1 of its compression\.json: quantize\)") as caught:
            check(TARGETS[to](), student)
        assert set(named(caught.value)) == set(TARGETS) - LEFT_OUT[scheme]


@pytest.mark.parametrize(("scheme", "held"), [("dynamic", False), ("four", True)])
def test_the_rules_for_openvino_are_those_of_openvino(scheme: str, held: bool, tmp_path: Path) -> None:
    weights, activations = SCHEMES[scheme]
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 3)).eval(), torch.randn(32, 16)
    round_at_once(model, [x], weights=weights, activations=activations, include=[".*"])
    batch = Batch({"x": x}, labels=torch.arange(32) % 3)
    if held:
        write(TARGETS["openvino"](), model, tmp_path, task=Plain(), batches=lambda: [batch])
    else:
        with pytest.raises(UserError, match="OpenVINO cannot run the graph"):
            write(TARGETS["openvino"](), model, tmp_path, task=Plain(), batches=lambda: [batch])


def test_the_layer_that_is_in_the_way_is_named(quantized: nn.Module) -> None:
    layers = quantized_layers(quantized)
    first = next(name for name, layer in layers.items() if not isinstance(layer, QuantizedLinear))
    with pytest.raises(UserError, match=f"{first} looks up integers"):
        check(TARGETS["tensorrt"](), quantized)


def test_a_compression_of_ones_own_that_changes_the_structure_is_in_the_way(
    bert: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEP_KINDS, "folded", True)
    monkeypatch.setitem(STEP_KINDS, "scaled", False)
    student = copy.deepcopy(bert)
    note(student, {"kind": "scaled"})
    check(TARGETS["hf"](), student)
    note(student, {"kind": "folded"})
    with pytest.raises(UserError, match=r"none that a configuration describes \(steps\.1 of .*: folded\)"):
        check(TARGETS["hf"](), student)


class Mine(ExportTarget):
    """One that refuses in its own words, before or while it writes."""

    name = "mine"

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late

    def check(self, student: nn.Module) -> None:
        if not self.late:
            raise UserError("is for others", key="--to", value=self.name, hint="take another student")

    def write(self, student: nn.Module, folder: Path, example: dict[str, torch.Tensor]) -> dict[str, Any]:
        raise Unfit(self.name, student, [Obstacle("no room", "share"), Obstacle("too wide")])

    def open(self, folder: Path) -> Any:
        raise AssertionError


def test_a_target_of_ones_own_may_refuse_in_its_own_words_and_while_it_writes(tmp_path: Path) -> None:
    student = nn.Linear(2, 2)
    note(student, {"kind": "share"}, {"kind": "layers"}, {"kind": "share"})
    with pytest.raises(UserError, match=r"is for others. take another student"):
        check(Mine(late=False), student)
    batch = Batch({"x": torch.randn(2, 2)}, labels=torch.arange(2))
    said = r"no room \(steps\.0 and steps\.2 of its compression\.json: share\); too wide\. export it with one of --to "
    with pytest.raises(UserError, match=said + "onnx, onnx-fp16, openvino, triton, tensorrt, torch-export, or open it"):
        write(Mine(late=True), student, tmp_path, task=Plain(), batches=lambda: [batch])
