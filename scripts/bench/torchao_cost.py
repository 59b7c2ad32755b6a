"""torchao beside ours: int4 weights in groups of 32, and int8 inputs with a scale for each token.

The model is the 3-layer student on SST-2 in shape (hidden 384, FFN 1536, 24 tokens), with random weights: what is
learned does not matter here. All contenders quantize the same linear maps, and take turns step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from bench.pair import CLIP, RATE, Settings
from bench.report import Row, row
from distill.compression.quantization.lifecycle import freeze
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme
from distill.compression.quantization.select import choose, swap

TOKENS, GROUP = 24, 32
SHAPE: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
}

Inputs = Mapping[str, Tensor]


def torchao_cost(settings: Settings) -> list[Row]:
    """A training step and a prediction of ours and of torchao over float, and how far each is from float."""
    if find_spec("torchao") is None:
        return [Row("torchao", None, "", note="torchao is not installed: pip install --no-deps torchao")]
    torch.manual_seed(0)
    ids = torch.randint(0, 30522, (settings.batch_size, TOKENS))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    trained = {"float": student(), "ours": ours(student()), "torchao": torchao(student(), "prepare")}
    shipped = {"float": student(), "ours, rounding": shipped_by_us(), "torchao, converted": shipped_by_torchao()}
    steps = {name: training_step(model, inputs, settings) for name, model in trained.items()}
    runs = {name: prediction(model, inputs, settings) for name, model in shipped.items()}
    return [
        *_timed("training step", steps, settings),
        *_timed("prediction", runs, settings),
        *_distances(inputs),
    ]


# ---------------------------------------------------------------------- contenders


def student() -> nn.Module:
    """The float model, always of the same weights."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SHAPE))
    model.bert.embeddings.requires_grad_(False)  # two thirds of the weights, and in the recipes not trained
    return model


def _schemes(model: nn.Module) -> dict[str, LayerScheme]:
    weights = WeightScheme(bits=4, granularity="group", group_size=GROUP)
    inputs = ActivationScheme(kind="dynamic")
    return choose(model, weights=weights, activations=inputs, embeddings=None, key="bench")


def ours(model: nn.Module) -> nn.Module:
    """With our layers, rounding."""
    for layer in swap(model, _schemes(model)).values():
        layer.mode = "fake"
    return model


def torchao(model: nn.Module, step: str, names: set[str] | None = None) -> nn.Module:
    """With torchao's layers: ``prepare`` makes them round, ``convert`` makes integers of what was prepared."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_
    from torchao.quantization.qat import QATConfig

    names = set(_schemes(model)) if names is None else names
    base = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(GROUP))  # type: ignore[attr-defined]
    quantize_(model, QATConfig(base, step=step), filter_fn=lambda _, name: name in names)
    return model


def shipped_by_us() -> nn.Module:
    """Ours as torch runs it: quantized weights, inputs rounded. Integers are for what it is exported to."""
    model = student()
    layers = swap(model, _schemes(model))
    freeze(layers.values())
    return model


def shipped_by_torchao() -> nn.Module:
    """torchao's, converted to integers."""
    model = student()
    names = set(_schemes(model))
    return torchao(torchao(model, "prepare", names), "convert", names)


# ---------------------------------------------------------------------- times


def training_step(model: nn.Module, inputs: Inputs, settings: Settings) -> Callable[[], Any]:
    """Forward, backward, clipping and fused AdamW."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, fused=True)
    labels = torch.arange(len(inputs["input_ids"])) % 2

    def step() -> None:
        with settings.autocast():
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def prediction(model: nn.Module, inputs: Inputs, settings: Settings) -> Callable[[], Any]:
    """Logits of one batch."""
    model.eval()

    @torch.no_grad()
    def predict() -> Any:
        with settings.autocast():
            return model(**inputs).logits

    return predict


def _timed(what: str, contenders: Mapping[str, Callable[[], Any]], settings: Settings) -> list[Row]:
    """Median time of each, and over that of float in the same repeat."""
    for run in contenders.values():
        run()
    repeats: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(settings.repeats):
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for step in range(settings.steps):
            for name in list(contenders)[:: 1 if step % 2 else -1]:
                started = perf_counter()
                contenders[name]()
                times[name].append(1000 * (perf_counter() - started))
        for name, values in times.items():
            repeats[name].append(median(values))
    rows = [row(f"{what}: {name}", values, "ms") for name, values in repeats.items()]
    for name, values in repeats.items():
        if name != "float":
            ratios = [mine / plain for mine, plain in zip(values, repeats["float"], strict=True)]
            rows.append(row(f"{what}: {name} : float", ratios, "x"))
    return rows


# ---------------------------------------------------------------------- numbers


@torch.no_grad()
def _distances(inputs: Inputs) -> list[Row]:
    """What one linear map and the whole student compute, rounded by each: how far from float, and from each other."""
    models = [model.eval() for model in (student(), ours(student()), torchao(student(), "prepare"))]
    torch.manual_seed(1)
    x = torch.randn(len(inputs["input_ids"]), TOKENS, SHAPE["hidden_size"])
    dense = "bert.encoder.layer.0.intermediate.dense"
    outputs = {
        "linear map": [model.get_submodule(dense)(x) for model in models],
        "last hidden state": [model.get_submodule("bert")(**inputs).last_hidden_state for model in models],
    }
    rows = []
    for what, (exact, mine, theirs) in outputs.items():
        size = exact.square().mean().sqrt()
        for name, out in (("ours", mine), ("torchao", theirs)):
            error = float((out - exact).square().mean().sqrt() / size)
            rows.append(Row(f"{what}: {name} from float, root mean square", error, "of its size"))
        apart = float((mine - theirs).abs().max() / exact.abs().max())
        rows.append(Row(f"{what}: ours from torchao, largest", apart, "of the largest"))
    return rows
