"""Integers that compressed-tensors and transformers read: the trained student's, in the words that vLLM reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.ptq import quantize as quantize_in_place
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.targets import TARGETS, write
from distill.export.verify import torch_logits
from distill.tasks import CausalLM, TextClassification

Quantize = Callable[[nn.Module, WeightScheme, ActivationScheme | None], nn.Module]

GROUPS = WeightScheme(bits=4, granularity="group", group_size=16)


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=61, max_position_embeddings=32, initializer_range=0.2, **sizes)
    return LlamaForCausalLM(config).eval()


def written(
    student: nn.Module, folder: Path, task: Any, batches: list[Batch]
) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    target = TARGETS["compressed-tensors"]()
    target.check(student)
    report = write(target, student, folder, task=task, batches=lambda: batches)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    return report, load_file(folder / "model.safetensors"), config


@pytest.mark.parametrize(
    ("weights", "activations", "form"),
    [
        (WeightScheme(), ActivationScheme(), "int-quantized"),
        (WeightScheme(), ActivationScheme(symmetric=True), "int-quantized"),
        (WeightScheme(), ActivationScheme(kind="dynamic", symmetric=True), "int-quantized"),
        (WeightScheme(symmetric=False), ActivationScheme(kind="dynamic"), "int-quantized"),
        (GROUPS, None, "pack-quantized"),
        (WeightScheme(bits=3), None, "pack-quantized"),
        (WeightScheme(bits=8, granularity="tensor"), None, "pack-quantized"),
    ],
)
def test_what_transformers_opens_computes_what_the_student_does(
    bert: nn.Module,
    quantize: Quantize,
    task: TextClassification,
    batches: list[Batch],
    tmp_path: Path,
    weights: WeightScheme,
    activations: ActivationScheme | None,
    form: str,
) -> None:
    student = quantize(bert, weights, activations)
    report, stored, config = written(student, tmp_path, task, batches)
    layers = {name: x for name, x in quantized_layers(student).items() if isinstance(x, nn.Linear)}
    assert report["integer_layers"] == len(layers) == 7
    assert report["format"] == config["format"] == form
    QuantizationConfig(**config)  # by the package's own schema
    for name, layer in layers.items():  # the very integers that training ended with
        if form == "int-quantized":
            found = stored[f"{name}.weight"]
        else:
            found = unpack_from_int32(stored[f"{name}.weight_packed"], weights.bits, torch.Size(layer.weight.shape))
        assert torch.equal(found, layer.integers())
        if layer.static:  # 0 is the integer that it was, counted from -128
            assert stored[f"{name}.input_scale"] == layer.input_scale
            zero = 0 if activations.symmetric else stored[f"{name}.input_zero_point"] + 128
            assert zero == layer.input_zero_point
    # An input of 8 bits may fall on the other side of a rounding, and the package's dynamic scale is amax / 127.5.
    assert report["verified"]["mean_error"] < (1e-5 if activations is None else 0.02)


def test_tables_heads_and_tied_weights_keep_their_rounded_values(
    quantize: Quantize, llama: LlamaForCausalLM, batches: list[Batch], tmp_path: Path
) -> None:
    llama.config.tie_word_embeddings = True
    llama.tie_weights()
    student = quantize(llama, GROUPS, None)
    read = [{name: b.inputs[name] for name in ("input_ids", "attention_mask")} for b in batches]
    data = [
        Batch(x, tokens=b.tokens, labels=x["input_ids"], extras={"bytes": x["input_ids"]})
        for x, b in zip(read, batches, strict=True)
    ]
    report, stored, config = written(student, tmp_path, CausalLM(), data)
    assert report["integer_layers"] == 2 * 7
    assert config["ignore"] == ["lm_head"]
    assert config["config_groups"]["group_0"]["targets"] == ["Linear"]
    table = next(x for x in quantized_layers(student).values() if isinstance(x, nn.Embedding))
    assert torch.equal(stored["model.embed_tokens.weight"], table.weight)
    assert "lm_head.weight" not in stored
    assert report["verified"]["divergence"] < 1e-6
    size = stored["model.layers.0.mlp.up_proj.weight_packed"]
    assert size.numel() * size.element_size() == 48 * 32 // 2
    assert torch.allclose(
        torch_logits(student)(data[0].inputs), TARGETS["compressed-tensors"]().open(tmp_path)(data[0].inputs), atol=1e-5
    )


def test_layers_of_several_schemes_are_named(
    bert: nn.Module, task: TextClassification, batches: list[Batch], tmp_path: Path
) -> None:
    model = copy.deepcopy(bert)
    quantize_in_place(model, [], weights=GROUPS, overrides={"pooler": 8})
    report, _, config = written(model.eval(), tmp_path, task, batches)
    layers = {name for name, x in quantized_layers(model).items() if isinstance(x, nn.Linear)}
    groups = {len(group["targets"]): group for group in config["config_groups"].values()}
    assert set(groups) == {1, 6}
    assert groups[1]["targets"] == ["bert.pooler.dense"]
    assert {*groups[1]["targets"], *groups[6]["targets"]} == layers
    assert [groups[size]["weights"]["num_bits"] for size in (1, 6)] == [8, 4]
    assert report["verified"]["mean_error"] < 1e-5


def test_what_the_format_cannot_hold_is_refused(bert: nn.Module, quantize: Quantize, batches: list[Batch]) -> None:
    target = TARGETS["compressed-tensors"]()
    with pytest.raises(UserError, match=r"--to = 'compressed-tensors': .*was not quantized"):
        target.check(bert)
    groups = quantize(bert, WeightScheme(granularity="group", group_size=16), ActivationScheme())
    with pytest.raises(UserError, match="no groups of weights beside integer inputs"):
        target.check(groups)
    narrow = quantize(bert, WeightScheme(bits=4), ActivationScheme())
    with pytest.raises(UserError, match=r"weights of 8 bits beside integer inputs, and bert\.\S+ has 4"):
        target.check(narrow)
    wide = quantize(bert, WeightScheme(bits=16), None)
    with pytest.raises(UserError, match=r"holds weights of at most 8 bits, and bert\.\S+ has 16"):
        target.check(wide)
    table = quantize(bert, WeightScheme(bits=4, format="nf4"), None)
    with pytest.raises(UserError, match=r"evenly spaced values here, and bert\.\S+ has nf4"):
        target.check(table)
    uneven = quantize(bert, WeightScheme(bits=4, symmetric=False), None)
    with pytest.raises(UserError, match=r"packs zero points so that .* take symmetric weights"):
        target.check(uneven)
    config = GPT2Config(vocab_size=61, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    transposed = quantize(GPT2LMHeadModel(config).eval(), WeightScheme(), None)
    with pytest.raises(UserError, match=r"holds integers of nn.Linear alone.*Conv1D"):
        target.check(transposed)
