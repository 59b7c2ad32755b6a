"""Layers of derived classes are quantized where they compute what their base does, and left where not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.quantization.derived import computes_like_its_base
from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.lifecycle import restore
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.select import choose, swap
from distill.compression.quantization.storage import rebuild
from distill.export.onnx.convert import with_integers
from distill.export.onnx.graph import to_onnx
from distill.export.onnx.runtime import integer_matmuls, logits, session


class Same(nn.Conv2d):
    """Pads as TensorFlow does, by the size of what it reads."""

    def forward(self, input: Tensor) -> Tensor:
        sides = zip(input.shape[-2:], self.stride, self.kernel_size, strict=True)
        more = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in sides]
        x = F.pad(input, [more[1] // 2, more[1] - more[1] // 2, more[0] // 2, more[0] - more[0] // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Plain(nn.Conv2d):
    """Computes by ``_conv_forward``."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)


class Named(nn.Linear):
    """Has another name, and nothing else."""


class Standardized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)


class Shifted(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class Scaled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * 2)


class Ones(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, [1, 1, 1, 1], value=1.0))


class Rectified(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.relu())


class Clamped(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.clamp(-6, 6))


class Twice(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(super().forward(input))


CASES: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "same": (lambda: Same(2, 3, 3, 2), True),
    "same_grouped": (lambda: Same(4, 4, 5, groups=4, bias=False), True),
    "plain": (lambda: Plain(2, 3, 3, padding=1), True),
    "named": (lambda: Named(4, 4), True),
    "standardized": (lambda: Standardized(2, 3, 3), False),
    "shifted": (lambda: Shifted(2, 3, 3), False),
    "scaled": (lambda: Scaled(2, 3, 3), False),
    "ones": (lambda: Ones(2, 3, 3), False),
    "twice": (lambda: Twice(4, 4), False),
    "rectified": (lambda: Rectified(4, 4), False),
    "clamped": (lambda: Clamped(4, 4), False),
    "attention": (lambda: nn.MultiheadAttention(4, 2).out_proj, False),
    "no_layer": (lambda: nn.ReLU(), False),
    "itself": (lambda: nn.Conv2d(2, 2, 1), False),  # it needs no proof
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_class_computes_is_tried(name: str) -> None:
    make, expected = CASES[name]
    module = make()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    assert computes_like_its_base(module) == expected
    assert module.training
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), Same(4, 4, 3, 2), nn.ReLU(), Shifted(4, 4, 1), Same(4, 4, 3), nn.ReLU()
    return nn.Sequential(*layers, Plain(4, 4, 1), nn.Flatten(), Named(64, 5), nn.Linear(5, 3)).eval()


def test_a_derived_layer_computes_with_what_is_rounded(tmp_path: Path) -> None:
    model, x = net(), torch.randn(8, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    [step] = quantize(model, [x], activations=ActivationScheme(observer="minmax"))
    assert list(quantized_layers(model)) == ["1", "4", "6", "8"]
    y, layer = F.relu(model[:1](x)), quantized_layers(model)["1"]
    given = model[0](x)
    assert torch.equal(layer(given), Same.forward(layer, layer.quantized_input(given)))  # type: ignore[arg-type]
    assert not torch.equal(layer(given), net()[1](given))
    assert y.shape == given.shape
    other = net()
    rebuild(other, step)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    to_onnx(with_integers(model, unsigned=False), tmp_path / "model.onnx", {"input": x})
    # The convolution before the layer of floats rounds its output too; the shifted one is left.
    assert integer_matmuls(tmp_path / "model.onnx") == {"MatMulIntegerToFloat": 1, "QLinearConv": 3}
    error = logits(session(tmp_path / "model.onnx"), {"input": x}) - model(x)
    assert error.norm() < 0.02 * model(x).norm()


def test_levels_of_a_derived_layer_are_exported_with_its_own_padding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), Same(4, 4, 3, 2), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.randn(2, 1, 9, 9)
    quantize(model, [], weights=WeightScheme(bits=4, format="nf4"))
    to_onnx(with_integers(model, unsigned=False), tmp_path / "model.onnx", {"input": x})
    torch.testing.assert_close(logits(session(tmp_path / "model.onnx"), {"input": x}), model(x), rtol=1e-4, atol=1e-5)


def test_centroids_of_a_derived_layer_have_a_gradient_before_they_are_used() -> None:
    model = nn.Sequential(nn.Linear(3, 4), Named(4, 4), nn.Linear(4, 2))
    scheme = WeightScheme(bits=2, format="kmeans")
    layers = swap(model, choose(model, weights=scheme, activations=None, embeddings=None, key="q"))
    model.train()(torch.randn(2, 3)).sum().backward()
    assert all(layer.weight_scale.grad is not None for layer in layers.values())


def test_a_derived_layer_becomes_again_what_it_was() -> None:
    model, x = net(), torch.randn(2, 1, 9, 9)
    expected = model(x)
    chosen = choose(model, weights=WeightScheme(), activations=None, embeddings=None, key="q")
    for layer in swap(model, chosen).values():
        restore(layer)
    assert type(model[1]) is Same
    assert torch.equal(model(x), expected)
