"""The promises of a quantized student in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

import distill
from distill.compression.quantization.layers import QuantizedLinear, quantized_layers
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.storage import pack, rebuild, unpack
from distill.compression.structure.sharing import share
from distill.core import record
from distill.models import saved_student

SCHEMES = [
    {"weights": WeightScheme(), "activations": ActivationScheme(), "embeddings": WeightScheme()},
    {"weights": WeightScheme(bits=3, symmetric=False), "activations": ActivationScheme(bits=6, symmetric=True)},
    {
        "weights": WeightScheme(bits=4, granularity="group", group_size=8),
        "activations": ActivationScheme(kind="dynamic"),
        "embeddings": WeightScheme(bits=4, granularity="tensor"),
    },
    {"weights": WeightScheme(bits=16, symmetric=False), "activations": ActivationScheme(bits=16, symmetric=True)},
    {"weights": WeightScheme(bits=2, symmetric=False, granularity="group", group_size=4), "overrides": {"key": 8}},
]


def quantized(model: nn.Module, tokens: Tensor, settings: dict[str, Any]) -> list[dict[str, Any]]:
    return quantize(model, [tokens], **settings)


@pytest.mark.parametrize("settings", SCHEMES, ids=range(len(SCHEMES)))
def test_the_folder_opens_with_the_same_logits_to_the_bit(
    tmp_path: Path, bert: Callable[..., Any], tokens: Tensor, settings: dict[str, Any]
) -> None:
    model = bert()
    steps = quantized(model, tokens, settings)
    saved_student.save(model, tmp_path / "student", steps=steps)
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert isinstance(loaded.bert.pooler.dense, QuantizedLinear)
    assert record.steps_of(loaded) == steps
    assert quantized_layers(loaded).keys() == quantized_layers(model).keys() == steps[0]["modules"].keys()
    for name, layer in quantized_layers(loaded).items():
        assert torch.equal(layer.integers(), quantized_layers(model)[name].integers())
    saved_student.save(loaded, tmp_path / "again")
    assert torch.equal(distill.load(tmp_path / "again")(tokens).logits, model(tokens).logits)


def test_transformers_opens_the_folder_with_the_values_on_the_grid(
    tmp_path: Path, bert: Callable[..., Any], tokens: Tensor
) -> None:
    model = bert()
    steps = quantized(model, tokens, {"weights": WeightScheme(bits=4), "embeddings": WeightScheme()})
    saved_student.save(model, tmp_path / "student", steps=steps)
    plain, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not report["missing_keys"]
    assert all(name.endswith("_scale") for name in report["unexpected_keys"])
    assert type(plain.bert.pooler.dense) is nn.Linear
    assert torch.equal(plain(tokens).logits, model(tokens).logits), "only weights are rounded, so it is the same model"


def test_a_tied_model_is_saved_and_opened_with_one_matrix(
    tmp_path: Path, gpt2: Callable[..., Any], tokens: Tensor
) -> None:
    model = gpt2()
    steps = quantized(model, tokens, SCHEMES[0])
    saved_student.save(model, tmp_path / "student", steps=steps)
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert torch.equal(plain.transformer.wte.weight, model.transformer.wte.weight)


def test_a_plain_net_is_filled(tmp_path: Path, convnet: Callable[[], nn.Module]) -> None:
    model, x = convnet(), torch.randn(5, 1, 8, 8)
    saved_student.save(model, tmp_path / "net", steps=quantized(model, x, SCHEMES[0] | {"include": ["."]}))
    other = convnet()
    nn.init.zeros_(other.second.weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(distill.load(tmp_path / "net", other)(x), model(x))


@pytest.mark.parametrize("settings", SCHEMES, ids=range(len(SCHEMES)))
def test_integers_come_back_as_the_same_weights_to_the_bit(
    bert: Callable[..., Any], tokens: Tensor, settings: dict[str, Any]
) -> None:
    model = bert()
    (step,) = quantized(model, tokens, settings)
    packed = pack(model.state_dict(), model)
    name = "bert.encoder.layer.0.attention.self.query"
    assert f"{name}.weight" not in packed
    integers = packed[f"{name}.weight_integers"]
    assert integers.numel() == (256 if settings["weights"].bits >= 8 else 128), "two to a byte up to 4 bits"
    assert not any(
        v.dtype is torch.float32 and v.numel() > 100
        for k, v in packed.items()
        if "layer.0.attention.self" in k and "scale" not in k
    )
    fresh = bert(1)
    rebuild(fresh, json.loads(json.dumps(step)))
    fresh.load_state_dict(unpack(packed, fresh))
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    assert torch.equal(fresh(tokens).logits, model(tokens).logits)
    assert unpack(model.state_dict(), fresh).keys() == model.state_dict().keys(), "what is not packed stays"


def test_an_odd_number_of_small_integers_is_packed_too() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5), nn.Linear(5, 1))
    quantize(model, weights=WeightScheme(bits=4))
    packed = pack(model.state_dict(), model)
    assert packed["1.weight_integers"].numel() == 8
    assert packed["1.weight_integers"].dtype is torch.uint8
    for key, value in unpack(packed, model).items():
        assert torch.equal(value, model.state_dict()[key])


@pytest.mark.parametrize("named", [1, 2])
def test_a_tied_matrix_is_packed_once(gpt2: Callable[..., Any], tokens: Tensor, named: int) -> None:
    model = gpt2()
    (step,) = quantized(model, tokens, SCHEMES[0])
    state = dict(model.state_dict())
    if named == 1:
        del state["lm_head.weight"]  # as save_pretrained writes it
    packed = pack(state, model)
    integers = [name for name in packed if name.endswith("weight_integers") and "transformer.h" not in name]
    assert sorted(integers) == ["transformer.wpe.weight_integers", "transformer.wte.weight_integers"]
    assert "lm_head.weight" not in packed
    fresh = gpt2(1)
    rebuild(fresh, step)
    fresh.load_state_dict(unpack(packed, fresh))
    assert torch.equal(fresh(tokens).logits, model(tokens).logits)


def test_transformers_writes_a_packed_state_and_it_is_read_again(
    tmp_path: Path, bert: Callable[..., Any], tokens: Tensor
) -> None:
    model = bert()
    (step,) = quantized(model, tokens, SCHEMES[2])
    model.save_pretrained(tmp_path / "float")
    model.save_pretrained(tmp_path / "packed", state_dict=pack(model.state_dict(), model))
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("float", "packed")]
    assert sizes[1] < 0.7 * sizes[0]
    fresh = bert(1)
    rebuild(fresh, step)
    fresh.load_state_dict(unpack(load_file(tmp_path / "packed" / "model.safetensors"), fresh))
    assert torch.equal(fresh(tokens).logits, model(tokens).logits)


def test_transformers_does_not_make_up_weights_that_are_kept_as_integers(
    tmp_path: Path, bert: Callable[..., Any], tokens: Tensor
) -> None:
    model = bert()
    saved_student.save(model, tmp_path / "student", steps=quantized(model, tokens, {**SCHEMES[2], "store": "integers"}))
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        type(model).from_pretrained(tmp_path / "student")
    assert torch.equal(distill.load(tmp_path / "student")(tokens).logits, model(tokens).logits)


class Sharing(nn.Module):
    """Layers that share biases and norms, but not all of their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.head = (nn.Linear(8, 8) for _ in range(4))
        self.norm, self.other_norm = nn.LayerNorm(8), nn.LayerNorm(8)
        self.second.bias = self.first.bias
        self.third.weight = self.second.weight
        self.other_norm.weight = self.norm.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other_norm(self.third(self.norm(self.second(self.first(x))))))  # type: ignore[no-any-return]


def test_what_a_plain_module_shares_is_stored_once_beside_integers(tmp_path: Path) -> None:
    model, x = Sharing(), torch.randn(5, 8)
    steps = quantize(model, [x], store="integers")
    saved_student.save(model, tmp_path / "net", steps=steps)
    names = set(load_file(tmp_path / "net" / "integers.safetensors"))
    assert not names & {"second.bias", "third.weight", "third.weight_integers", "other_norm.weight"}
    loaded = distill.load(tmp_path / "net", Sharing())
    assert torch.equal(loaded(x), model(x))


def test_layers_that_share_all_their_parameters_load_from_integers(tmp_path: Path, tokens: Tensor) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=40, initializer_range=0.2, **sizes)).eval()
    share(model.bert.encoder.layer, [[1, 2]])
    record.note(model, {"kind": "share", "groups": [[1, 2]]}, *quantize(model, [tokens], store="integers"))
    saved_student.save(model, tmp_path / "student")
    assert torch.equal(distill.load(tmp_path / "student")(tokens).logits, model(tokens).logits)
