"""The promises of quantization without training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.signals import Batch
from distill.core.utils.errors import UserError


def test_eight_bits_are_close_and_two_are_not(bert: Callable[..., Any], tokens: Tensor) -> None:
    exact = bert()(tokens).logits.detach()

    def error(**settings: Any) -> float:
        model = bert()
        quantize(model, [tokens], **settings)
        return float((model(tokens).logits.detach() - exact).abs().max() / exact.abs().max())

    inputs, eight = ActivationScheme(), WeightScheme()
    assert error(weights=eight, activations=inputs, embeddings=eight) < 0.05
    assert error(weights=eight, activations=ActivationScheme(kind="dynamic"), embeddings=eight) < 0.05
    errors = [error(weights=WeightScheme(bits=bits)) for bits in (8, 6, 4, 3, 2)]
    assert errors == sorted(errors)
    assert errors[-1] > 0.05


def test_ranges_are_those_of_the_batches_as_the_model_predicts(bert: Callable[..., Any], tokens: Tensor) -> None:
    model = bert()
    seen: list[Tensor] = []
    plain = bert()
    plain.bert.pooler.dense.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    batches = [tokens, tokens.flip(0) // 2, tokens // 3]
    for batch in batches:
        plain(batch)
    quantize(model.train(), batches, activations=ActivationScheme(observer="minmax"))
    layer = quantized_layers(model)["bert.pooler.dense"]
    low, high = min(float(x.min()) for x in seen), max(float(x.max()) for x in seen)
    assert float(layer.input_scale) == pytest.approx((high - low) / 255, rel=1e-5)  # type: ignore[arg-type]
    assert not any(module.training for module in model.modules())


def test_batches_may_be_read_in_any_way(bert: Callable[..., Any], tokens: Tensor) -> None:
    a, b = bert(), bert()
    quantize(a, [tokens], activations=ActivationScheme())
    steps = quantize(b, [{"ids": tokens}], lambda m, batch: m(input_ids=batch["ids"]), activations=ActivationScheme())
    assert torch.equal(a(tokens).logits, b(tokens).logits)
    assert [step["kind"] for step in steps] == ["quantize"]


def test_static_inputs_need_batches_and_others_do_not(bert: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"quantize\.calibrate.*need batches"):
        quantize(bert(), activations=ActivationScheme())
    (step,) = quantize(bert(), activations=ActivationScheme(kind="dynamic"))
    assert step["modules"]["bert.pooler.dense"]["activations"]["kind"] == "dynamic"
    (step,) = quantize(bert(), activations=ActivationScheme(kind="none"))
    assert step["modules"]["bert.pooler.dense"]["activations"] is None


def test_of_a_layer_that_no_batch_reaches_only_the_weights_are_rounded_and_it_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, input: Tensor) -> Tensor:
            return self.d(self.b(self.a(input)))

    model = Half()
    (step,) = quantize(model, [torch.randn(2, 4), torch.empty(0, 4)], activations=ActivationScheme())
    assert "only their weights are rounded, as no input came while ranges were observed: c" in caplog.text
    assert {name: scheme["activations"] is None for name, scheme in step["modules"].items()} == {"b": False, "c": True}
    assert sorted(model.c.state_dict()) == ["bias", "weight", "weight_scale"]
    steps = model.c.weight / model.c.weight_scale[:, None]
    assert torch.allclose(steps, steps.round(), atol=1e-3)


def test_padding_of_what_calibrates_is_left_out(bert: Callable[..., Any], tokens: Tensor) -> None:
    inputs = ActivationScheme(observer="minmax")
    found = []
    for more in (0, 5):
        ids, mask = (F.pad(x, (0, more)) for x in (tokens, torch.ones_like(tokens)))
        for batch in ({"input_ids": ids, "attention_mask": mask}, Batch({"input_ids": ids, "attention_mask": mask})):
            if isinstance(batch, Batch):
                batch.tokens = mask.bool()
            model = bert()
            quantize(model, [batch], lambda m, b: m(**(b.inputs if isinstance(b, Batch) else b)), activations=inputs)
            found.append([layer.input_scale for layer in quantized_layers(model).values() if layer.static])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=0)


def test_a_layer_of_several_places_has_one_range_for_all_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice, self.once, self.head = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, input: Tensor) -> Tensor:
            x = self.twice(self.first(input))
            return self.head(self.once(self.twice(100 * x)))

    model, x = Twice(), torch.randn(2, 4)
    inner = model.twice(model.first(x)).detach()
    ends = torch.cat([model.first(x).detach(), 100 * inner])
    quantize(model, [x, x], activations=ActivationScheme(observer="minmax"))
    assert caplog.messages[-1].endswith("(kind: dynamic has none): twice")
    torch.testing.assert_close(model.twice.input_scale, (ends.max() - ends.min()) / 255)
