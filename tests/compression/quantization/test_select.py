"""The promises of which layers are quantized, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.compression.quantization.lifecycle import freeze
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme
from distill.compression.quantization.select import choose, first, swap
from distill.core.utils.errors import UserError

INT8 = WeightScheme()
LAYER = "bert.encoder.layer.0"


def chosen(model: nn.Module, **settings: Any) -> dict[str, LayerScheme]:
    defaults = {"weights": INT8, "activations": ActivationScheme(), "embeddings": INT8, "key": "callbacks.Q"}
    return choose(model, **(defaults | settings))


def test_linear_maps_and_embeddings_are_quantized_and_the_head_is_not(bert: Callable[..., Any]) -> None:
    found = chosen(bert())
    assert set(found) == {
        *(f"bert.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")),
        *(f"{LAYER}.attention.self.{part}" for part in ("query", "key", "value")),
        *(f"{LAYER}.{part}.dense" for part in ("attention.output", "intermediate", "output")),
        "bert.pooler.dense",
    }
    assert found["bert.embeddings.word_embeddings"] == LayerScheme(weights=INT8)
    assert found["bert.pooler.dense"] == LayerScheme(weights=INT8, activations=ActivationScheme())


def test_first_layer_and_head_of_a_plain_net_are_left_out_unless_named(convnet: Callable[[], nn.Module]) -> None:
    assert list(chosen(convnet())) == ["second"]
    assert list(chosen(convnet(), include=["."])) == ["first", "second", "head"]


def test_a_model_of_tokens_has_no_first_layer_to_spare(bert: Callable[..., Any]) -> None:
    assert first(bert()) == set()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reader, self.body, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 4), nn.Linear(4, 2)


def test_what_stands_behind_a_recurrent_layer_is_not_the_first() -> None:
    assert list(chosen(Recurrent())) == ["body"]


def test_precision_is_mixed_by_the_last_pattern_found(bert: Callable[..., Any]) -> None:
    two = WeightScheme(bits=2, granularity="group", group_size=8)
    found = chosen(
        bert(),
        weights=WeightScheme(reduced_range=True),
        embeddings=WeightScheme(granularity="tensor"),
        overrides={"self": 4, "key": two, "position": None, "word": 6},
    )
    assert found[f"{LAYER}.attention.self.query"].weights == WeightScheme(bits=4)
    assert found[f"{LAYER}.attention.self.key"].weights == two
    assert found[f"{LAYER}.output.dense"].weights == WeightScheme(reduced_range=True)
    assert found["bert.embeddings.word_embeddings"].weights == WeightScheme(bits=6, granularity="tensor")
    assert "bert.embeddings.position_embeddings" not in found


def test_an_override_of_a_layer_that_is_spared_is_refused(convnet: Callable[[], nn.Module]) -> None:
    with pytest.raises(UserError, match=r"Q\.overrides\.first: .*not compressed: first\."):
        chosen(convnet(), overrides={"first": 4})
    assert chosen(convnet(), overrides={"first": 4}, include=["."])["first"].weights == WeightScheme(bits=4)


def test_only_the_types_that_are_named_are_quantized_and_embeddings(bert: Callable[..., Any]) -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(8, 8), nn.Linear(8, 8))
    assert list(chosen(net, kinds=(nn.Linear,))) == ["3"]
    assert list(chosen(net, kinds=(nn.Conv1d, nn.Conv2d))) == ["1", "2"]
    assert all("embeddings" in name for name in chosen(bert(), kinds=(nn.Conv1d,)))


def test_without_embeddings_these_stay(bert: Callable[..., Any]) -> None:
    assert not any("embeddings" in name for name in chosen(bert(), embeddings=None))


def test_derived_classes_are_left_out_unless_named_and_then_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 8), nn.Linear(8, 8))
    assert list(chosen(model)) == ["2"]
    with pytest.raises(UserError, match=r"1\.out_proj.*NonDynamicallyQuantizableLinear.*leave it out"):
        chosen(model, include=["."])


@pytest.mark.parametrize("learned", [False, True])
def test_a_tied_head_sees_the_grid_of_its_embedding(gpt2: Callable[..., Any], tokens: Tensor, learned: bool) -> None:
    model = gpt2()
    four = WeightScheme(bits=4, learned=learned)
    found = chosen(model, embeddings=four, activations=None)
    assert found["lm_head"] == LayerScheme(weights=four)
    layers = swap(model, found)
    table, head = layers["transformer.wte"], layers["lm_head"]
    assert head.weight is table.weight
    if learned:
        assert head.weight_scale is table.weight_scale
        with torch.no_grad():
            head.weight_scale.mul_(1.1)
    for layer in layers.values():
        layer.mode = "fake"
    assert torch.equal(head.quantized_weight(), table.quantized_weight())
    logits = model(tokens).logits
    freeze(layers.values())
    assert torch.equal(model(tokens).logits, logits)
    assert head.weight is table.weight
    assert head.weight_scale is not table.weight_scale, "safetensors keep no tensor twice under names it does not know"


def test_an_untied_head_stays(gpt2: Callable[..., Any]) -> None:
    assert "lm_head" not in chosen(gpt2(tie_word_embeddings=False))


def test_one_weight_has_one_scheme(gpt2: Callable[..., Any]) -> None:
    found = chosen(gpt2(), include=["wte", "lm_head"], embeddings=WeightScheme(bits=4))
    assert found["lm_head"] == LayerScheme(weights=WeightScheme(bits=4), activations=ActivationScheme())
    with pytest.raises(UserError, match=r"transformer\.wte.*shares its weight with lm_head"):
        chosen(gpt2(), include=["lm_head"])
    assert chosen(gpt2(), overrides={"lm_head": 4, "wte": 4})["lm_head"].weights == WeightScheme(bits=4)
    for overrides in ({"lm_head": 4}, {"lm_head": None}):
        with pytest.raises(UserError, match=r"lm_head.*shares its weight with transformer\.wte"):
            chosen(gpt2(), overrides=overrides)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    model[2].weight = model[1].weight
    assert list(chosen(model)) == ["1", "2"]
    with pytest.raises(UserError, match="shares its weight with 1"):
        chosen(model, overrides={"2": 4})
    with pytest.raises(UserError, match="shares its weight with 1"):
        chosen(model, exclude=["2"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"include": ["qery"]}, r"Q\.include\.0 = 'qery': found in no module's name"),
        ({"exclude": ["nothing"]}, r"Q\.exclude\.0 = 'nothing'"),
        ({"overrides": {"qery": 4}}, r"Q\.overrides\.qery"),
        ({"include": ["LayerNorm"]}, r"Q\.include\.0 = 'LayerNorm': is found only in modules that are not compressed"),
        ({"include": ["LayerNorm", "query"]}, r"Q\.include\.0 = 'LayerNorm'"),
        ({"include": ["word"], "embeddings": None}, r"Q\.include\.0 = 'word'"),
        ({"include": ["query"], "exclude": ["attention"]}, "no module of the student is chosen"),
        (
            {"overrides": {"classifier": 4}},
            r"Q\.overrides\.classifier: .*not compressed: classifier.*takes the head too",
        ),
        ({"overrides": {"LayerNorm": 4}}, r"Q\.overrides\.LayerNorm: .*not compressed: bert\.embeddings\.LayerNorm"),
        ({"overrides": {"word": 4}, "embeddings": None}, r"Q\.overrides\.word: .*not compressed: .*word_embeddings"),
        ({"overrides": {"query": 4}, "exclude": ["attention"]}, r"Q\.overrides\.query: .*not compressed"),
        ({"overrides": {"query": 4}, "kinds": (nn.Conv2d,)}, r"Q\.overrides\.query: .*not compressed"),
        ({"overrides": {".": None}}, "no layer of the student is chosen"),
        ({"overrides": {".": 9}}, r"Q\.overrides\.\. = 9: must be one of 2, 3, 4, 5, 6, 7, 8, 16"),
        (
            {"weights": WeightScheme(granularity="group", group_size=12)},
            r"group_size = 12: must divide the 16 inputs of",
        ),
    ],
)
def test_what_cannot_be_is_refused(bert: Callable[..., Any], settings: dict[str, Any], message: str) -> None:
    model = bert()
    with pytest.raises(UserError, match=message):
        chosen(model, **settings)
    assert type(model.bert.pooler.dense) is nn.Linear, "nothing was changed"


def test_what_is_quantized_already_is_refused(bert: Callable[..., Any]) -> None:
    model = bert()
    swap(model, chosen(model))
    with pytest.raises(UserError, match="is quantized already"):
        chosen(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 9}, "bits = 9"),
        ({"bits": 12}, "bits = 12"),
        ({"bits": 5.5}, "bits = 5.5: must be one of 2, 3, 4, 5, 6, 7, 8, 16"),
        ({"bits": 8.0}, "bits = 8.0: must be one of 2, 3, 4, 5, 6, 7, 8, 16"),
        ({"granularity": "row"}, "granularity = 'row'"),
        ({"granularity": "group"}, "group_size"),
        ({"group_size": 32}, "group_size = 32"),
        ({"granularity": "group", "group_size": 1}, "at least 2"),
        ({"bits": 4, "reduced_range": True}, "reduced_range"),
        ({"learned": True, "symmetric": False}, "symmetric: true"),
    ],
)
def test_schemes_that_contradict_themselves_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WeightScheme(**settings)


@pytest.mark.parametrize(
    "settings", [{"bits": 9}, {"kind": "fixed"}, {"observer": "max"}, {"momentum": 0.0}, {"percentile": 40.0}]
)
def test_inputs_schemes_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        ActivationScheme(**settings)


def test_a_scheme_is_kept_in_the_record_whole() -> None:
    for scheme in (
        LayerScheme(weights=WeightScheme(bits=4, granularity="group", group_size=8)),
        LayerScheme(weights=INT8, activations=ActivationScheme(kind="dynamic", bits=4)),
    ):
        assert LayerScheme.of(scheme.record()) == scheme
