"""When quantization-aware training observes, rounds and stands still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.callbacks import QuantizationAwareTraining
from distill.compression.quantization.layers import QuantizedLayer, quantized_layers
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.signals import Batch
from distill.core.utils.errors import UserError

Make = Callable[..., Any]

LEARNED = WeightScheme(bits=4, learned=True)


def test_modes_follow_the_step(module: Make, fit: Make, layer: Make, watching: Make) -> None:
    qat = QuantizationAwareTraining(observe=2, begin=4, freeze_observers=7)
    watch = watching(lambda s: (layer(s).mode, layer(s).observing))
    fit(module(), qat, watch)
    expected = [("fake" if step >= 4 else "float", 2 <= step < 7) for step in range(10)]
    assert watch.seen == expected
    lines = qat.timeline(range(10), 10)
    assert lines["fake_quant"] == [float(mode == "fake") for mode, _ in expected]
    assert lines["observing"] == [float(observing) for _, observing in expected]
    assert [qat.target_reached(step, 10) for step in (3, 4, 10)] == [False, True, True]


def test_milestones_may_be_fractions(module: Make, fit: Make, layer: Make, watching: Make) -> None:
    watch = watching(lambda s: (layer(s).mode, layer(s).observing))
    fit(module(), QuantizationAwareTraining(observe=0.2, begin=0.4, freeze_observers=0.7), watch)
    assert watch.seen == [("fake" if step >= 4 else "float", 2 <= step < 7) for step in range(10)]


def test_until_it_begins_the_student_is_trained_as_without_it(module: Make, fit: Make) -> None:
    alone, with_it = module(), module()
    fit(alone)
    fit(with_it, QuantizationAwareTraining(LEARNED, begin=10, freeze_observers=10))
    for name, value in alone.student.state_dict().items():
        assert torch.equal(with_it.student.state_dict()[name], value), name


def test_ranges_move_in_training_only_and_stand_still_once_frozen(
    module: Make, fit: Make, layer: Make, watching: Make
) -> None:
    # Trap 27; validation reads other samples after every step.
    watch = watching(lambda s: layer(s).input_range.clone())
    qat = QuantizationAwareTraining(observe=1, begin=2, freeze_observers=6)
    fit(module(), qat, watch, limit_val_batches=2, val_check_interval=1)
    quiet = watching(lambda s: layer(s).input_range.clone())
    fit(module(), QuantizationAwareTraining(observe=1, begin=2, freeze_observers=6), quiet)
    assert all(torch.equal(a, b) for a, b in zip(watch.seen, quiet.seen, strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(watch.seen, watch.seen[1:], strict=False)]
    assert moved == [False] + [True] * 5 + [False] * 3


def test_ranges_are_of_the_batch_however_it_is_divided(
    bert: Make, batches: Make, module: Make, fit: Make, layer: Make, watching: Make
) -> None:
    whole, parts = module(bert(dropout=0.0)), module(bert(dropout=0.0))
    small = [
        Batch({k: v[i : i + 4] for k, v in b.inputs.items()}, labels=b.labels[i : i + 4], ids=b.ids[i : i + 4])
        for b in batches(10)
        for i in (0, 4)
    ]  # type: ignore[index]
    settings: dict[str, Any] = {"begin": 4, "freeze_observers": 9}
    watch = [watching(lambda s: (layer(s).mode, layer(s).input_range.clone())) for _ in range(2)]
    fit(whole, QuantizationAwareTraining(**settings), watch[0], max_steps=6)
    fit(parts, QuantizationAwareTraining(**settings), watch[1], rows=small, max_steps=6, accumulate_grad_batches=2)
    for (mode, one), (other_mode, two) in zip(watch[0].seen, watch[1].seen[::2], strict=True):
        assert mode == other_mode
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("observer", ["minmax", "moving_average"])
def test_ranges_are_of_the_tokens_however_they_are_divided_and_padded(
    observer: Any, bert: Make, module: Make, fit: Make, layer: Make, watching: Make
) -> None:
    # Eight sentences are padded to the longest of them, or four and four, of one length each, not at all.
    lengths = torch.tensor([[3] * 4 + [9] * 4, [5] * 4 + [12] * 4])
    ids = torch.randint(1, 40, (2, 8, 12), generator=torch.Generator().manual_seed(0))

    def rows(size: int) -> list[Batch]:
        made = []
        for index, start in ((index, start) for index in (0, 1) for start in range(0, 8, size)):
            lasts = lengths[index, start : start + size]
            tokens = torch.arange(int(lasts.max())) < lasts[:, None]
            words = ids[index, start : start + size, : tokens.shape[1]].masked_fill(~tokens, 0)
            inputs = {"input_ids": words, "attention_mask": tokens.long()}
            made.append(Batch(inputs, labels=words[:, 0] % 2, tokens=tokens, ids=list(range(size))))
        return made

    found = []
    for size in (8, 4):
        qat = QuantizationAwareTraining(activations=ActivationScheme(observer=observer), begin=4, freeze_observers=9)
        watch = watching(lambda student: [each.input_range.clone() for each in static(student)])
        model = module(bert(dropout=0.0), lr=1e-9)
        with torch.no_grad():  # what stands in padding is as large as a normalized feature can be
            model.student.bert.embeddings.word_embeddings.weight[0] = 100 * torch.eye(16)[3]
        fit(model, qat, watch, rows=rows(size), max_steps=4, accumulate_grad_batches=8 // size)
        found.append(watch.seen[-1])
    assert len(found[0]) > 5
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def static(student: nn.Module) -> list[QuantizedLayer]:
    return [each for each in quantized_layers(student).values() if each.static]


def test_trained_scales_start_from_the_weights_at_the_beginning_of_rounding(
    module: Make, fit: Make, layer: Make, watching: Make
) -> None:
    def look(student: nn.Module) -> tuple[Tensor, Tensor]:
        weight = layer(student).weight.detach()
        return layer(student).weight_scale.detach().clone(), 2 * weight.abs().mean(1) / 7**0.5

    watch = watching(look)
    fit(module(), QuantizationAwareTraining(LEARNED, begin=4), watch)
    untouched = [torch.equal(scale, watch.seen[0][0]) for scale, _ in watch.seen]
    assert untouched == [True] * 4 + [False] * 6
    torch.testing.assert_close(*watch.seen[4])
    assert not torch.allclose(*watch.seen[5]), "from then on they are trained"


def test_milestones_of_two_kinds_are_compared_once_the_length_of_the_run_is_known(module: Make, fit: Make) -> None:
    with pytest.raises(UserError, match=r"begin = 20: must not lie after freeze_observers \(0\.9\)"):
        fit(module(), QuantizationAwareTraining(begin=20))


@pytest.mark.parametrize(
    ("milestones", "key"),
    [
        ({"begin": 11, "freeze_observers": 20}, "begin"),
        ({"begin": 11, "activations": None}, "begin"),
        ({"observe": 10, "begin": 10, "freeze_observers": 20}, "observe"),
        ({"observe": 1.0, "begin": 10, "freeze_observers": 20}, "observe"),
    ],
)
def test_milestones_after_the_end_of_the_run_are_refused_before_the_first_step(
    milestones: dict[str, Any], key: str, module: Make, fit: Make, watching: Make
) -> None:
    watch = watching(lambda student: None)
    with pytest.raises(UserError, match="the run ends after 10 steps") as error:
        fit(module(), QuantizationAwareTraining(**milestones), watch)
    assert error.value.key == f"callbacks.QuantizationAwareTraining.{key}"
    assert not watch.seen
