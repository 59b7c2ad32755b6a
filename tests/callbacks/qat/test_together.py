"""Quantization-aware training beside masks, hints, a teacher, autocast and other ranks."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

import distill
from distill.callbacks import GradualMagnitudePruning, QuantizationAwareTraining
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.losses import FitNetHint
from distill.models import saved_student

Make = Callable[..., Any]

DENSE = "bert.encoder.layer.0.intermediate.dense"
LEARNED = WeightScheme(bits=4, learned=True)
RANKS = Path(__file__).parents[2] / "compression" / "quantization" / "ranks.py"


@pytest.mark.parametrize("weights", [WeightScheme(bits=4), LEARNED, WeightScheme(symmetric=False)], ids=str)
def test_pruned_weights_stay_exactly_zero(weights: WeightScheme, module: Make, fit: Make, layer: Make) -> None:
    # Trap 25: what the layer multiplies with is the rounded masked weight.
    mask = torch.rand(32, 16, generator=torch.Generator().manual_seed(0)) < 0.3

    class Mask(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            def apply(*_: Any) -> None:
                with torch.no_grad():
                    layer(pl_module.student).weight.mul_(mask)

            apply()
            trainer.optimizers[0].register_step_post_hook(apply)

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            assert (layer(pl_module.student).quantized_weight()[~mask] == 0).all()

    model, qat = module(), QuantizationAwareTraining(weights)
    fit(model, Mask(), qat)
    qat.finish(model.student)
    finished = layer(model.student)
    assert (finished.weight[~mask] == 0).all()
    assert (finished.weight[mask] != 0).any()
    zero = finished.weight_zero_point
    assert (finished.integers()[~mask] == (0 if zero is None else zero[:, None].expand(32, 16)[~mask])).all()


def test_hints_read_the_swapped_layers(bert: Make, batches: Make, module: Make, fit: Make) -> None:
    # The hint of the first step, from what the layer read then, rounded by hand: 2 bits, a scale for each token.
    student = bert(dropout=0.0)
    dense, read = student.get_submodule(DENSE), []
    dense.register_forward_pre_hook(lambda m, given: read.append(given[0].detach().double()) if m.training else None)
    weight, bias = dense.weight.detach().double(), dense.bias.detach().double()
    model = module(student, losses=[FitNetHint(taps={DENSE: DENSE}, name="tap")])
    said = []
    model.teacher.models[0].get_submodule(DENSE).register_forward_hook(lambda *a: said.append(a[2].detach().double()))
    inputs = ActivationScheme(kind="dynamic", bits=2)
    trainer = fit(model, QuantizationAwareTraining(WeightScheme(bits=2), inputs, begin=0), rows=batches(1), max_steps=1)
    largest = weight.abs().amax(1, keepdim=True)
    lattice = (weight / largest).round() * largest
    low, high = read[0].amin(-1, keepdim=True).clamp(max=0), read[0].amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 3
    zero = (-low / scale).round()
    rounded = (((read[0] / scale).round() + zero).clamp(0, 3) - zero) * scale

    def hint(x: Tensor, w: Tensor) -> float:
        return float((x @ w.T + bias - said[0]).square().mean())

    found = float(trainer.callback_metrics["train/tap"])
    assert found == pytest.approx(hint(rounded, lattice), rel=1e-4)
    for without in (hint(read[0], lattice), hint(rounded, weight)):
        assert abs(without - found) > 1e-2 * found, "the test could not tell"


@pytest.mark.parametrize(("granularity", "store"), [("2:4", "float"), ("4:8", "integers")])
def test_groups_of_a_quantized_student_keep_their_zeros_to_the_artifact(
    tmp_path: Path, granularity: str, store: Any, module: Make, fit: Make
) -> None:
    kept, size = map(int, granularity.split(":"))
    model, qat = module(), QuantizationAwareTraining(begin=4, observe=1, freeze_observers=9, store=store)
    pruning = GradualMagnitudePruning(granularity=granularity, end=6, every_n_steps=2)
    fit(model, pruning, qat)
    steps = [*pruning.finish(model.student), *qat.finish(model.student)]
    saved_student.save(model.student, tmp_path / "student", steps=steps)
    loaded = distill.load(tmp_path / "student")
    names = next(list(step["layers"]) for step in steps if step["kind"] == "sparsity")
    assert len(names) == 7
    for name in names:
        weight = loaded.get_parameter(f"{name}.weight")
        counts = [int((group != 0).sum()) for row in weight for group in row.split(size)]
        assert max(counts) <= kept, name
        assert any(counts)


def test_the_teacher_is_untouched_byte_for_byte(module: Make, fit: Make) -> None:
    model, qat = module(), QuantizationAwareTraining()
    assert model.teacher is not None
    teacher = model.teacher.models[0]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    kinds = [type(m) for m in teacher.modules()]
    fit(model, qat)
    qat.finish(model.student)
    after = teacher.state_dict()
    assert after.keys() == before.keys()
    assert all(
        torch.equal(after[name].view(torch.uint8), value.view(torch.uint8))
        for name, value in before.items()
        if value.dim()
    )
    assert [type(m) for m in teacher.modules()] == kinds


def test_bfloat16_autocast_trains_with_scales_in_float32(module: Make, fit: Make, layer: Make) -> None:
    model, qat = module(), QuantizationAwareTraining(LEARNED, embeddings=LEARNED)
    trainer = fit(model, qat, precision="bf16-mixed", max_steps=4)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert layer(model.student).input_range.dtype is torch.float32
    qat.finish(model.student)
    assert layer(model.student).weight_scale.dtype is torch.float32


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, script: Make) -> list[dict[str, Tensor]]:
    out = tmp_path_factory.mktemp("ranks") / "state"
    script(RANKS, out)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_ranges_and_scales_agree_over_ranks(ranks: list[dict[str, Tensor]]) -> None:
    first, second = ranks
    assert first.keys() == second.keys()
    assert any(name.endswith("input_range") for name in first)
    assert any(name.endswith("weight_scale") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_range_holds_the_inputs_of_all_ranks(ranks: list[dict[str, Tensor]]) -> None:
    # Rank r reads (r + 1) times the numbers -1 to 1; the first layer's input is what it reads.
    torch.testing.assert_close(ranks[0]["first.input_range"], torch.tensor([-2.0, 2.0]))


def test_a_layer_that_one_rank_used_is_rounded_on_all_of_them(ranks: list[dict[str, Tensor]]) -> None:
    assert ranks[0]["rare.input_range"].isfinite().all()
    assert torch.equal(ranks[0]["logits"], ranks[1]["logits"])


def test_padding_of_any_rank_is_in_no_range(ranks: list[dict[str, Tensor]]) -> None:
    # The ranks' sentences are padded to 12 and to 5 words, and the padding's row is 100: an oracle of the words alone.
    words = runpy.run_path(str(RANKS))["words"]
    table = ranks[0]["words.table.weight"]
    read = torch.cat([table[ids[tokens]] for ids, tokens in map(words, (0, 1))])
    expected = torch.stack([read.min(), read.max()])
    assert expected.abs().max() < 10
    for state in ranks:
        torch.testing.assert_close(state["words.first.input_range"], expected, rtol=1e-6, atol=0)
