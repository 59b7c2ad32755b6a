"""The promise that a quantized layer's weight is read rounded, whoever reads it, and written by nobody else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from distill.callbacks import LowRank, ShareParameters, StructuredPruning
from distill.compression.own_pass import in_own_pass
from distill.compression.pruning.criteria import Magnitude
from distill.compression.pruning.granularity import Granularity
from distill.compression.pruning.masking_plan import MaskingPlan
from distill.compression.pruning.weights import PRUNABLE
from distill.compression.quantization.layers import QuantizedLayer, quantized_layers
from distill.compression.quantization.lifecycle import finish, follow, freeze
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.select import choose, swap
from distill.compression.sensitivity.scan import layers as scanned_layers
from distill.core import record
from distill.core.utils.errors import UserError
from distill.models import saved_student


class Encoder(nn.Module):
    """A body of torch's own blocks between a table and a head."""

    def __init__(self, body: nn.Module, *, padded: bool = False) -> None:
        super().__init__()
        self.table, self.body, self.head, self.padded = nn.Embedding(30, 16), body, nn.Linear(16, 3), padded

    def forward(self, input: Tensor) -> Tensor:
        x, padding = self.table(input), input.eq(0)
        if isinstance(self.body, nn.MultiheadAttention):
            return self.head(self.body(x, x, x, padding)[0].mean(1))
        if isinstance(self.body, nn.TransformerDecoder):
            return self.head(self.body(x, x.flip(1)).mean(1))
        return self.head(self.body(x, src_key_padding_mask=padding if self.padded else None).mean(1))


class TiedByUse(nn.Module):
    """The table is the head's weight too, without a module that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.last = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(30, 3)

    def forward(self, input: Tensor) -> Tensor:
        return self.last(F.linear(self.inner(self.table(input)), self.table.weight)).mean(1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 30, bias=False)
        self.head.weight = self.table.weight

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.inner(self.table(input))).mean(1)


class Twice(nn.Module):
    """One module under two names, and at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.head = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.second = self.first

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.table(input)).relu()).mean(1))


class Kinds(nn.Module):
    """A layer of every kind that is called with tokens, channels, an image and a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.map, self.turned = nn.Embedding(30, 16), nn.Linear(16, 16), Conv1D(16, 16)
        self.wave, self.image = nn.Conv1d(16, 16, 3, padding=1, groups=2), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.wave(self.turned(self.map(self.table(input))).mT)
        return self.head(self.image(x.unflatten(1, (4, 4))).flatten(1, 2).mean(2))


def block(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, **options)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start alike
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "kinds": Kinds,
    "encoder": lambda: Encoder(nn.TransformerEncoder(block(), 2)),
    "padded encoder": lambda: Encoder(nn.TransformerEncoder(block(), 2), padded=True),
    "norm first": lambda: Encoder(nn.TransformerEncoder(block(norm_first=True), 1, enable_nested_tensor=False)),
    "encoder layer": lambda: Encoder(block()),
    "attention": lambda: Encoder(nn.MultiheadAttention(16, 2, batch_first=True)),
    "decoder": lambda: Encoder(nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, 0.0, batch_first=True), 1)),
    "tied": Tied,
    "tied by use": TiedByUse,
    "twice": Twice,
}
INT2 = WeightScheme(bits=2)
SCHEMES = {
    "static": (INT2, ActivationScheme(bits=4), INT2),
    "dynamic, asymmetric": (WeightScheme(bits=3, symmetric=False), ActivationScheme(kind="dynamic"), INT2),
    "learned": (WeightScheme(bits=3, learned=True), ActivationScheme(learned=True), WeightScheme(bits=3, learned=True)),
}


def rounding(model: nn.Module, tokens: Tensor, schemes: tuple[Any, Any, Any] = SCHEMES["static"]) -> nn.Module:
    """The model in training, rounding in every pass."""
    weights, activations, embeddings = schemes
    settings: dict[str, Any] = {"weights": weights, "activations": activations, "embeddings": embeddings}
    layers = swap(model.train(), choose(model, **settings, key="q"))
    for layer in layers.values():
        layer.observing = True
    model(tokens)
    follow(layers.values())
    for layer in layers.values():
        layer.mode, layer.observing = "fake", False
    return model


def layers_of(model: nn.Module) -> list[QuantizedLayer]:
    return [module for module in model.modules() if isinstance(module, QuantizedLayer)]


def passes(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """In training (there is no dropout), and in eval mode with and without gradients."""
    trained, judged = model.train()(tokens).detach(), model.eval()(tokens).detach()
    with torch.no_grad():
        return [trained, judged, model(tokens)]


@pytest.fixture
def padded(tokens: Tensor) -> Tensor:
    return tokens.masked_fill(torch.arange(6) >= torch.tensor([6, 4, 6, 2])[:, None], 0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_validation_scores_to_the_bit_what_training_rounds(name: str, scheme: str, padded: Tensor) -> None:
    model = made(MODELS[name])
    plain = model.eval()(padded).detach()
    rounded = passes(rounding(model, padded, SCHEMES[scheme]), padded)
    assert torch.equal(rounded[0], rounded[1])
    assert torch.equal(rounded[1], rounded[2])
    assert not torch.allclose(rounded[0], plain, atol=1e-3)
    copied = copy.deepcopy(model)
    assert torch.equal(passes(copied, padded)[2], rounded[0])
    freeze(layers_of(copied))
    frozen = passes(copied, padded)
    assert torch.equal(frozen[0], frozen[1])
    assert torch.equal(frozen[1], frozen[2])
    torch.testing.assert_close(frozen[0], rounded[0], rtol=0, atol=2e-5)


class Reads(TorchFunctionMode):
    """Which matrices products are computed with."""

    def __init__(self) -> None:
        self.matrices: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            self.matrices.append(args[1].detach())
        elif func is torch.addmm:
            self.matrices.append(args[2].detach().t())
        elif func in (torch.conv1d, torch.conv2d):
            self.matrices.append(args[1].detach().flatten(1))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["fake", "frozen"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"attention"}))  # of which the table alone is rounded
def test_no_product_is_computed_with_a_weight_off_its_grid(name: str, grad: bool, mode: str, padded: Tensor) -> None:
    model = rounding(made(MODELS[name]), padded).eval()
    layers = layers_of(model)
    # Two bits are at most three values a row. The weights of the layers alone are to be of so few.
    shapes = {tuple(layer.rows.shape) for layer in layers}
    left = [m for m in model.modules() if isinstance(m, nn.Linear) and m not in layers]
    floats = [*(m.weight for m in left), *(p for n, p in model.named_parameters() if "in_proj" in n)]
    if mode == "frozen":
        freeze(layers)
    with Reads() as reads, torch.set_grad_enabled(grad):
        model(padded)
    rounded = [m for m in reads.matrices if tuple(m.shape) in shapes and not any(same(m, p) for p in floats)]
    assert len(rounded) >= len([layer for layer in layers if not isinstance(layer, nn.Embedding)])
    assert max(len(row.unique()) for matrix in rounded for row in matrix) <= 3


def same(matrix: Tensor, parameter: Tensor) -> bool:
    return matrix.shape == parameter.shape and torch.equal(matrix, parameter.detach())


def test_a_weight_is_the_parameter_to_all_but_the_models_own_passes(padded: Tensor) -> None:
    model = rounding(made(TiedByUse), padded)
    parameter = dict(model.named_parameters())["table.weight"]
    assert model.table.weight is parameter
    with pytest.raises(IndexError):
        model(padded + 1000)  # a pass that fails has an end too
    assert not in_own_pass()
    assert torch.backends.mha.get_fastpath_enabled()
    assert model.table.weight is parameter
    model(padded).sum().backward()
    assert parameter.grad is not None


def test_a_part_that_is_computed_again_reads_what_it_read(padded: Tensor) -> None:
    class Checkpointed(TiedByUse):
        def forward(self, input: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(super().forward, input, use_reentrant=False)

    gradients = []
    for make in (TiedByUse, Checkpointed):
        model = rounding(made(make), padded)
        model(padded).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=0, atol=0)


def test_an_input_that_is_computed_again_is_observed_as_one(padded: Tensor) -> None:
    class Checkpointed(TiedByUse):
        def forward(self, input: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(super().forward, input, use_reentrant=False)

    ranges = []
    for make in (TiedByUse, Checkpointed):
        model = made(make).train()
        layers = swap(model, choose(model, weights=INT2, activations=ActivationScheme(), embeddings=None, key="q"))
        layers["inner"].observing = True
        model(padded).sum().backward()
        follow(layers.values())
        assert layers["inner"].places == 1
        ranges.append(layers["inner"].input_range)
    assert torch.equal(*ranges)


class ReadOnly(nn.Module):
    """Of its middle map only the weight is read; the map is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.middle, self.head = (
            nn.Embedding(30, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.head(F.linear(self.inner(self.table(input)), self.middle.weight).relu().mean(1))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_that_is_only_read_is_saved_as_it_was_judged(scheme: str, padded: Tensor) -> None:
    model = rounding(made(ReadOnly), padded, SCHEMES[scheme]).eval()
    judged = model(padded).detach()
    finish(quantized_layers(model))
    assert torch.equal(model(padded), judged)
    middle = model.get_submodule("middle")
    assert isinstance(middle, QuantizedLayer)
    steps = middle.weight.detach() / middle.weight_scale[:, None]
    assert max(len(row.round().unique()) for row in steps) <= 8
    assert torch.allclose(steps, steps.round(), atol=1e-3)


def test_torchs_attention_with_factors_is_saved_as_it_was_judged(padded: Tensor) -> None:
    """It reads the product of the factors, and calls neither."""
    model = made(MODELS["encoder layer"])
    LowRank(rank=4).prepare(model)
    judged = rounding(model, padded).eval()(padded).detach()
    finish(quantized_layers(model))
    assert torch.equal(model(padded), judged)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_model_in_double_precision_is_rounded_as_one_in_single(kind: Any) -> None:
    net = made(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)))
    double, x = copy.deepcopy(net).double(), torch.rand(5, 8)
    inputs = ActivationScheme(kind=kind, bits=4)
    quantize(net, [x], weights=INT2, activations=inputs)
    quantize(double, [x.double()], weights=INT2, activations=inputs)
    found = double(x.double())
    assert found.dtype is torch.float64
    torch.testing.assert_close(found.float(), net(x), rtol=1e-4, atol=1e-4)


def test_layers_without_weights_are_left_alone() -> None:
    """``nn.Linear(16, 0)``, as of a model whose optional features are none."""
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 0), nn.Linear(0, 4), nn.Linear(4, 3))
    x = torch.randn(5, 8)
    chosen = choose(net, weights=WeightScheme(), activations=ActivationScheme(), embeddings=None, key="q")
    assert list(chosen) == ["1"]
    plan = {
        "final": 0.5,
        "granularity": Granularity(),
        "criterion": Magnitude(),
        "scope": "global",
        "kinds": (nn.Linear,),
    }
    more = {"include": None, "exclude": [], "overrides": {}, "max_layer_sparsity": None, "regrow": 0.0}
    assert [layer.name for layer in MaskingPlan(**plan, **more).prepare(net, "p").layers] == ["0", "1"]
    LowRank(rank=2).prepare(net)
    assert net(x).shape == (5, 3)


def test_a_saved_encoder_rounds_its_inputs_when_it_is_loaded(tmp_path: Any, padded: Tensor) -> None:
    model = made(MODELS["padded encoder"])
    scheme = ActivationScheme(bits=4)
    record.note(model, *quantize(model, [padded], weights=INT2, activations=scheme, embeddings=INT2))
    saved_student.save(model, tmp_path / "student")
    loaded = saved_student.load(tmp_path / "student", made(MODELS["padded encoder"]))
    for result in passes(loaded, padded):
        assert torch.equal(result, model(padded))
    with torch.no_grad():  # of the encoder alone, too
        x = model.table(padded)
        found = loaded.body(x, src_key_padding_mask=padded.eq(0))
    assert torch.equal(found, model.body(x, src_key_padding_mask=padded.eq(0)))


# ---------------------------------------------------------------------- written by others


REWRITTEN = {
    "WeightNorm": lambda layer: nn.utils.weight_norm(layer),
    "SpectralNorm": lambda layer: nn.utils.spectral_norm(layer),
    "torch.nn.utils.prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "the parametrization WeightNorm": lambda layer: parametrizations.weight_norm(layer),
    "the parametrization SpectralNorm": lambda layer: parametrizations.spectral_norm(layer),
    "code of its own": lambda layer: (layer._parameters.pop("weight"), setattr(layer, "weight", torch.ones(4, 4))),
}
PLAN: dict[str, Any] = {"final": 0.5, "granularity": Granularity(), "criterion": Magnitude(), "scope": "global"}
PLAN |= {"kinds": PRUNABLE, "exclude": [], "overrides": {}, "max_layer_sparsity": 1.0, "regrow": 0.0}
COMPRESSIONS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "quantize": lambda model, include: quantize(model, include=include),
    "prune": lambda model, include: MaskingPlan(**PLAN, include=include).prepare(model, "prune"),
    "low rank": lambda model, include: LowRank(rank=1, include=include).prepare(model),
    "scan": lambda model, _: scanned_layers(model),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("include", [None, ["."]])
@pytest.mark.parametrize("how", COMPRESSIONS)
@pytest.mark.parametrize("writer", REWRITTEN)
def test_a_weight_that_others_write_is_refused_by_name(writer: str, how: str, include: list[str] | None) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    REWRITTEN[writer](model[2])
    with pytest.raises(UserError, match=r"= '2': its weight is written anew before every pass, by") as error:
        COMPRESSIONS[how](model, include)
    assert writer in str(error.value)
    assert not any("mask" in name for name in model[0]._buffers)


def test_shared_layers_whose_weights_others_write_are_refused(bert: Callable[..., Any]) -> None:
    model = bert(layers=2)
    parametrizations.spectral_norm(model.bert.encoder.layer[1].output.dense)
    parametrizations.spectral_norm(model.bert.encoder.layer[0].output.dense)
    with pytest.raises(UserError, match=r"'0\.output\.dense': its weight is written anew.*SpectralNorm"):
        ShareParameters().prepare(model)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("writer", [name for name in REWRITTEN if name != "code of its own"])
def test_units_whose_weights_others_write_are_not_removed(writer: str, bert: Callable[..., Any]) -> None:
    model = bert(layers=2)
    REWRITTEN[writer](model.bert.encoder.layer[1].output.dense)
    before = dict(model.named_buffers()).keys()
    place = r"'bert\.encoder\.layer\.1\.output\.dense': its weight is written anew before every pass, by"
    for asked in ({"neurons": 0.5}, {"heads": 0.5}, {"hidden": 0.5}):
        with pytest.raises(UserError, match=place) as error:
            StructuredPruning(**asked).prepare(model)
        assert writer in str(error.value)
    assert dict(model.named_buffers()).keys() == before
    StructuredPruning(layers=1).prepare(model)  # a whole layer goes with whatever is in it


def test_a_table_that_shortens_its_rows_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"'0': max_norm shortens its rows"):
        quantize(model, embeddings=INT2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused_with_layer_and_count(value: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight[2, 1:] = value
    with pytest.raises(UserError, match=r"= '1': 3 of its 16 weights are NaN or infinite"):
        quantize(model)


class Elsewhere(nn.Module):
    """Holds the weight of a layer under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.kernel = self.inner.weight

    def forward(self, input: Tensor) -> Tensor:
        return self.last(self.inner(input) @ self.kernel)


def test_a_weight_under_another_name_is_refused() -> None:
    with pytest.raises(UserError, match="'inner': its weight is the kernel of the model too"):
        quantize(Elsewhere(), include=["inner"])


# ---------------------------------------------------------------------- low rank


@pytest.mark.parametrize("name", ["encoder", "padded encoder", "encoder layer", "attention"])
def test_torchs_own_blocks_compute_with_factors(name: str, padded: Tensor) -> None:
    model = made(MODELS[name])
    whole = copy.deepcopy(model)
    LowRank(rank=4).prepare(model)
    for path, linear in whole.named_modules():
        factors = dict(model.named_modules()).get(path)
        if isinstance(linear, nn.Linear) and not isinstance(factors, nn.Linear):
            linear.weight.data = (factors.up.weight @ factors.down.weight).detach()  # type: ignore[union-attr]
    expected = whole.train()(padded).detach()
    for result in passes(model, padded):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_a_tie_is_not_lost_to_factors() -> None:
    model = Tied()
    with pytest.raises(UserError, match=r"'head': shares its weight with table\.weight, which would keep the whole"):
        LowRank(rank=2, include=["head", "inner"]).prepare(model)
    assert model.head.weight is model.table.weight
