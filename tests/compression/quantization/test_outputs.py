"""Tensors between layers are rounded as the inputs of layers are, in every pass, and in what is saved."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.quantization.layers import QuantizedLayer, quantized_layers
from distill.compression.quantization.outputs import points_of, rounds_outputs
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.storage import rebuild
from distill.core.internals.torch import hooks
from distill.core.utils.errors import UserError

STATIC = ActivationScheme(observer="minmax")


class Residual(nn.Module):
    """A first layer that stays as it is, and one block that is added to what it read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, 4, 3, padding=1) for n in (1, 4, 4))
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.stem(input))
        x = F.relu(self.norm(self.b(F.relu(self.a(x)))) + x)
        out: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def residual() -> Residual:
    torch.manual_seed(0)
    model = Residual()
    for parameter in (model.norm.weight, model.norm.bias):
        nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def grid(values: Tensor) -> tuple[float, int]:
    """Scale and zero point of the range of these values, by Jacob et al.'s formula, in doubles."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = (high - low) / 255
    return scale, round(-low / scale)


def on(values: Tensor, at: tuple[float, int]) -> Tensor:
    scale, zero = at
    return ((values / scale).round() + zero).clamp(0, 255).sub(zero) * scale


def test_what_is_computed_is_rounded_where_a_runtime_rounds(x: Tensor) -> None:
    model = residual()
    plain = copy.deepcopy(model).double()
    quantize(model, [x], activations=STATIC)
    for conv, layer in ((plain.a, model.a), (plain.b, model.b)):
        conv.weight.data.copy_(layer.weight)  # weights have tests of their own

    def passed(x: Tensor, rounds: Any) -> Tensor:
        stem = rounds("stem", F.relu(plain.stem(x)))
        a = rounds("a", F.relu(plain.a(stem)))
        b = rounds("b", plain.norm(plain.b(a)))
        total = rounds("sum", F.relu(b + stem))
        return plain.head(rounds("pool", F.adaptive_avg_pool2d(total, 1)).flatten(1))

    grids: dict[str, tuple[float, int]] = {}

    def observe(name: str, values: Tensor) -> Tensor:
        grids[name] = grid(values)
        return values

    with torch.no_grad():
        plain.a.weight.data.copy_(residual().a.weight)
        plain.b.weight.data.copy_(residual().b.weight)
        passed(x.double(), observe)
        plain.a.weight.data.copy_(model.a.weight)
        plain.b.weight.data.copy_(model.b.weight)
        expected = passed(x.double(), lambda name, values: on(values, grids[name]))
        assert (model(x) - expected).abs().max() < 1e-5
        assert (model(x) - passed(x.double(), lambda _, values: values)).abs().max() > 1e-4


def test_layers_that_read_a_point_have_its_grid(x: Tensor) -> None:
    model = residual()
    steps = quantize(model, [x], activations=STATIC)
    layers = quantized_layers(model)
    anchor, source = layers["a"], layers["a"].source
    assert [(p.module, p.kinds[p.place]) for p in points_of(layers)] == [
        ("", kind) for kind in ("relu", "batch_norm", "relu", "pool")
    ]
    assert source is anchor.points[0]
    assert layers["a"].input_scale == anchor.output_scales[0]
    assert layers["a"].input_zero_point == anchor.output_zero_points[0]
    assert layers["b"].source is None
    assert steps[0]["outputs"]["read"] == {"a": 0}


def test_what_is_saved_rounds_the_same_when_it_is_built_again(x: Tensor) -> None:
    model = residual()
    [step] = quantize(model, [x], activations=STATIC)
    other = Residual().eval()
    rebuild(other, json.loads(json.dumps(step)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert torch.equal(copy.deepcopy(other)(x), model(x))
    assert other.half().a.output_scales.dtype == torch.float32  # of which half precision would make another grid


@pytest.mark.parametrize(
    "settings",
    [
        {"outputs": "none"},
        {"activations": ActivationScheme(bits=4)},
        {"activations": ActivationScheme(symmetric=True)},
        {"activations": ActivationScheme(kind="dynamic")},
        {"activations": None},
        {"weights": WeightScheme(symmetric=False)},
    ],
    ids=str,
)
def test_nothing_is_rounded_between_layers_where_no_runtime_gains_by_it(settings: dict[str, Any], x: Tensor) -> None:
    model = residual()
    [step] = quantize(model, [x], **({"activations": STATIC} | settings))
    assert "outputs" not in step
    assert not any("output" in name for name in model.state_dict())
    assert not any(hook.__module__.endswith(".operations") for module in model.modules() for hook in hooks(module))


def test_nets_of_linear_maps_are_left_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    quantize(model, [torch.randn(8, 4)], activations=STATIC)
    assert not rounds_outputs(quantized_layers(model), "auto")


def test_padding_and_parts_of_a_batch_change_no_range(x: Tensor) -> None:
    whole, parts = residual(), residual()
    for model, batches in ((whole, [x]), (parts, list(x.split(5)))):
        quantize(model, batches, activations=STATIC)
    assert torch.equal(whole.a.output_scales, parts.a.output_scales)


def test_a_module_that_trains_by_other_operations_is_passed_over(x: Tensor) -> None:
    from distill.compression.quantization.outputs import round_outputs
    from distill.compression.quantization.select import choose, swap

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = residual()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x) + x
            return self.inner(y * 2 if self.training else y)

    model = Drops()
    options: Any = {"weights": WeightScheme(), "activations": STATIC, "embeddings": None, "key": "qat"}
    layers: dict[str, QuantizedLayer] = swap(model, choose(model, include=[""], **options))
    round_outputs(model, layers, lambda: model(x), trains=True, key="qat")
    assert {point.module for point in points_of(layers)} == {"inner"}
    model.train()(x)
    model.eval()(x)


class Unused(nn.Module):
    """Two layers of which what the first gives is added to the second's, and one before them that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.unused, self.b, self.c = (nn.Conv2d(n, 4, 3, padding=1) for n in (1, 4, 4, 4))

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.stem(input))))
        return F.relu(self.c(x) + x)


def test_a_layer_that_is_never_called_holds_no_scales_of_others(x: Tensor) -> None:
    torch.manual_seed(0)
    model, other = Unused().eval(), Unused().eval()
    [step] = quantize(model, [x], activations=STATIC)
    assert step["outputs"]["anchor"] == "b"
    rebuild(other, json.loads(json.dumps(step)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_scales_go_to_another_layer_where_that_of_theirs_saw_no_number(x: Tensor) -> None:
    class Overflows(Unused):
        def forward(self, input: Tensor) -> Tensor:
            self.unused(torch.full_like(input, torch.nan).expand(-1, 4, -1, -1))
            return super().forward(input)

    torch.manual_seed(0)
    model, other = Overflows().eval(), Overflows().eval()
    [step] = quantize(model, [x], activations=STATIC)
    assert step["modules"]["unused"]["activations"] is None
    assert step["outputs"]["anchor"] == "b"
    rebuild(other, json.loads(json.dumps(step)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_a_record_whose_layer_rounds_no_inputs_is_refused(x: Tensor) -> None:
    [step] = quantize(residual(), [x], activations=STATIC)
    step["modules"]["a"]["activations"] = None
    with pytest.raises(UserError, match="does not round its own inputs"):
        rebuild(Residual().eval(), step)


class Gained(Residual):
    """A residual block whose branch is multiplied by a number, which may be none that can be counted to."""

    gain = torch.inf

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.stem(input))
        out: Tensor = self.b(F.relu(self.a(x))) * self.gain + x
        return out


def test_what_nothing_came_to_is_not_rounded_once_it_is_frozen(x: Tensor) -> None:
    model, plain, other = Gained().eval(), residual(), Gained().eval()
    model.load_state_dict(plain.state_dict())
    [step] = quantize(model, [x], activations=STATIC)
    assert step["outputs"]["points"] == [
        ["", 1],
        ["", 4],
    ]  # the stem's ReLU and the layer b, not the product and the sum
    with torch.no_grad():
        stem = F.relu(plain.stem(x))
        a = F.relu(plain.a(stem))
        grids = [grid(values) for values in (stem, a, plain.b(a))]
        plain.a.weight.copy_(model.a.weight)
        plain.b.weight.copy_(model.b.weight)
        stem = on(stem, grids[0])
        b = on(plain.b(on(F.relu(plain.a(stem)), grids[1])), grids[2])
        model.gain = other.gain = 1.0
        assert (model(x) - (b + stem)).abs().max() < 1e-5
        rebuild(other, json.loads(json.dumps(step)))
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(x), model(x))
        assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_where_no_layer_saw_a_number_nothing_is_rounded_between_them(x: Tensor) -> None:
    model, other = Gained().eval(), Gained().eval()
    [step] = quantize(model, [torch.full_like(x, torch.nan)], activations=STATIC)
    assert "outputs" not in step
    model.gain = other.gain = 1.0
    expected = F.relu(model.stem(x))
    expected = model.b(F.relu(model.a(expected))) + expected
    assert torch.equal(model(x), expected)
    rebuild(other, json.loads(json.dumps(step)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


class Scaled(nn.Conv1d):
    """A class of a library's own that computes what its base does."""


class Waves(nn.Module):
    """A residual block over sequences, whose padding reaches far, and a sum of it with features last."""

    def __init__(self, kind: type[nn.Conv1d]) -> None:
        super().__init__()
        self.stem, self.a, self.b = (kind(n, 4, 1) for n in (2, 4, 4))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.stem(batch["x"])
        y = self.b(F.relu(self.a(x))) + x
        return y.transpose(1, 2) + x.transpose(1, 2)


@pytest.mark.parametrize("kind", [nn.Conv1d, Scaled])
def test_ranges_between_layers_over_sequences_leave_padding_out(kind: type[nn.Conv1d]) -> None:
    torch.manual_seed(0)
    model = Waves(kind).eval()
    plain = copy.deepcopy(model)
    tokens = torch.arange(6) < torch.tensor([[6], [2], [3]])
    x = torch.randn(3, 2, 6).masked_fill(~tokens[:, None], 100.0)
    quantize(model, [{"x": x, "attention_mask": tokens}], activations=STATIC, include=[""])
    layers = quantized_layers(model)
    with torch.no_grad():
        stem = plain.stem(x)
        b = plain.b(F.relu(plain.a(stem)))
    expected = [grid(values.mT[tokens]) for values in (stem, b, b + stem, b + stem + stem)]
    anchor = model.stem
    assert isinstance(anchor, QuantizedLayer)
    assert anchor.input_scale is not None
    assert float(anchor.input_scale) == pytest.approx(grid(x.mT[tokens])[0], rel=1e-5)
    found = zip(anchor.output_scales.tolist(), anchor.output_zero_points.tolist(), strict=True)
    for (scale, zero_point), (of, at) in zip(found, expected, strict=True):
        assert scale == pytest.approx(of, rel=1e-5)
        assert zero_point == at
    assert layers["a"].input_scale == anchor.output_scales[0]
