"""The promises of starting a model: what is folded where, what layers read, what is left as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.lifecycle import finish
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.select import choose, swap
from distill.compression.quantization.starts.begin import reader, start_weights
from distill.compression.quantization.starts.folding import find_folds
from distill.compression.quantization.starts.settings import METHODS, Start
from distill.compression.quantization.starts.statistics import gather
from distill.compression.quantization.weights import Grid
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError

FOUR = WeightScheme(bits=4)


def swapped(model: nn.Module, *, held: bool = False, **settings: Any) -> dict[str, Any]:
    chosen = choose(model, weights=FOUR, activations=None, embeddings=None, key="q", **settings)
    return swap(model, chosen, held=held)


class Gated(nn.Module):
    """A norm before a gated map, as Llama's, and a norm that a residual reads too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.other = nn.RMSNorm(8), nn.LayerNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 12, bias=False), nn.Linear(8, 12), nn.Linear(12, 8)
        self.beside, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.norm(input)
        x = input + self.down(F.silu(self.gate(x)) * self.up(x))
        x = self.other(x)
        return self.head(x + self.beside(x))


def test_scales_are_folded_where_the_layer_before_is_read_by_these_alone() -> None:
    model, x = Gated().double(), torch.randn(5, 8).double()
    expected = model(x)
    layers = swapped(model, include=["gate", "up", "down", "beside"])
    folds = find_folds(model, list(layers.values()), lambda: model(x))
    found = {(fold.producer, fold.consumers) for fold in folds}
    assert found == {(model.norm, (layers["gate"], layers["up"])), (model.up, (layers["down"],))}
    assert torch.equal(model(x), expected), "trying leaves everything as it was"
    for fold in folds:
        width = fold.consumers[0].rows.shape[1]
        fold.scale(torch.rand(width, generator=torch.Generator().manual_seed(1)) + 0.1)
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-9)


def test_smoothquant_leaves_the_float_function_and_says_what_it_scaled(
    bert: Callable[..., Any], tokens: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model, layer = bert(), "bert.encoder.layer.0"
    expected = model(tokens).logits
    said = start_weights(model, swapped(model), Start(method="smoothquant"), [tokens])
    # BERT's norms are read by residuals too, but the last one.
    assert said["scaled"] == [f"{layer}.attention.output.dense", "bert.pooler.dense"]
    assert "smoothquant: the inputs of 2 of 7 layers are scaled" in caplog.text
    torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-5, atol=1e-6)


def test_what_is_requested_of_a_model_besides_its_logits_stays_too(bert: Callable[..., Any], tokens: Tensor) -> None:
    def forward(model: nn.Module, ids: Tensor) -> Signals:
        out = model(ids, output_hidden_states=True)
        return Signals(out.logits, hidden_states=dict(enumerate(out.hidden_states)))

    model = bert()
    said = start_weights(model, swapped(model), Start(method="smoothquant"), [tokens], forward)
    assert said["scaled"] == ["bert.encoder.layer.0.attention.output.dense"]


def test_hessians_are_those_of_the_inputs_without_padding(bert: Callable[..., Any], tokens: Tensor) -> None:
    model, mask = bert(), torch.ones_like(tokens)
    mask[:, 4:] = 0
    layers = swapped(model)
    name = "bert.encoder.layer.0.intermediate.dense"
    seen: list[Tensor] = []
    layers[name].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    batch = Batch({"input_ids": tokens, "attention_mask": mask})
    batch.tokens = mask.bool()
    read = reader(model, [batch, batch], lambda m, b: m(**b.inputs))
    statistics = gather([layers[name]], read)[layers[name]]
    x = seen[0][mask.bool()].double()
    torch.testing.assert_close(statistics.hessian[0].double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.mean_size[0].double(), x.abs().mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.largest[0].double(), x.abs().amax(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("conv", "x"),
    [
        (nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 2), dilation=(1, 2), groups=2), torch.randn(2, 4, 7, 9)),
        (nn.Conv2d(4, 4, 4, padding="same", groups=4), torch.randn(2, 4, 5, 5)),
        (nn.Conv1d(3, 5, 3, padding=1, stride=2), torch.randn(2, 3, 8)),
    ],
)
def test_of_a_convolution_they_are_those_of_its_patches(conv: nn.Module, x: Tensor) -> None:
    """sum over outputs of y^2 is w H w^T times the count, for any weights."""
    model = nn.Sequential(conv, nn.Flatten())
    layers = swapped(model, include=["0"])
    layer = layers["0"]
    conv.bias = None  # type: ignore[assignment]
    statistics = gather([layer], reader(model, [x], None))[layer]
    y = conv(x).movedim(1, 0).flatten(1)
    rows = layer.rows.unflatten(0, (len(statistics.hessian), -1))
    expected = torch.einsum("goi,gij,goj->go", rows, statistics.squares, rows).flatten()
    torch.testing.assert_close(y.square().sum(1), expected)
    assert int(statistics.count) == y.shape[1]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "rtn"])
def test_each_start_keeps_what_a_model_computes_better_than_the_nearest_values(method: str) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)]
        model = nn.Sequential(*layers).eval()
        model[1].weight.data[:3] = 25.0  # channels that lie far out, as language models have
        model[2].weight.data[:, 3:] *= 1 + 2 * (torch.rand(64, 29) > 0.97)
        return model

    x = torch.randn(256, 16) @ torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    smooth = method.startswith("smooth")
    bits, inputs = (8, ActivationScheme(bits=6)) if smooth else (3, None)
    exact = net()(x)

    def error(start: Start | None) -> float:
        model = net()
        with torch.no_grad():
            weights = WeightScheme(bits=bits)  # type: ignore[arg-type]
            quantize(model, [x], weights=weights, activations=inputs, start=start, include=["2", "4"])
            return float((model(x) - exact).square().mean())

    steps = {"steps": 200} if "adaround" in method else {}
    assert error(Start(method=method, **steps)) < 0.9 * error(None)  # type: ignore[arg-type]


def test_the_saved_grid_is_the_starts_own(bert: Callable[..., Any], tokens: Tensor) -> None:
    model = bert()
    quantize(model, [tokens], weights=WeightScheme(bits=3), embeddings=FOUR, start=Start(method="gptq"))
    for layer in quantized_layers(model).values():
        steps = layer.rows / layer.weight_scale[:, None]
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
        assert torch.equal(layer.dequantize(layer.integers(), layer.grid()), layer.parameter)


def test_a_grid_that_is_held_does_not_follow_the_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    layer = swapped(model, held=True, include=["1"])["1"]
    layer.hold(Grid(torch.tensor([0.01, 0.3]), None))
    layer.mode = "fake"
    expected = layer.quantized_weight().detach()
    assert torch.equal(expected, layer.on_grid(layer.grid()))
    finish({"1": layer})
    assert torch.equal(layer.weight_scale, torch.tensor([0.01, 0.3]))
    assert torch.equal(layer.parameter, expected)


def test_layers_that_share_weights_or_read_no_batch_are_rounded_to_the_nearest(
    gpt2: Callable[..., Any], tokens: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = gpt2()
    chosen = choose(model, weights=FOUR, activations=None, embeddings=FOUR, key="q")
    said = start_weights(model, swap(model, chosen, held=True), Start(method="gptq"), [tokens])
    assert set(said["rounded"]) == {name for name in chosen if "wte" not in name and "wpe" not in name} - {"lm_head"}
    assert "gptq: rounded to the nearest value, as no inputs say more: transformer.wte" in caplog.text
    assert torch.equal(model.lm_head.weight_scale, model.transformer.wte.weight_scale)


def test_settings_that_do_nothing_or_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="must be one of rtn, mse, gptq"):
        Start(method="gptq+awq")
    with pytest.raises(UserError, match=r"s\.damping = 0\.1: has no effect with method: awq"):
        Start(method="awq", damping=0.1).refuse_idle("s")
    Start(method="awq+gptq", damping=0.1).refuse_idle("s")
    for wrong in ({"damping": 0.0}, {"alpha": 1.1}, {"samples": 0}, {"steps": 0}):
        with pytest.raises(UserError):
            Start(**wrong)  # type: ignore[arg-type]


def test_a_start_that_looks_at_inputs_needs_batches() -> None:
    with pytest.raises(UserError, match="gptq needs batches to see what layers read"):
        quantize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), start=Start(method="gptq"), include=["."])
