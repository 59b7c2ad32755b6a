"""What structured pruning takes for important."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from distill.callbacks import StructuredPruning
from distill.core.signals import Batch

Make = Callable[..., Any]


def test_importance_does_not_depend_on_how_a_batch_is_cut(
    classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    # Taylor importance is of the gradient that the optimizer uses, whatever the accumulation.
    def importance(accumulate: int) -> Tensor:
        module = pair(classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        (whole,) = batches(1)
        size = 4 // accumulate
        rows = [
            Batch(
                {name: value[i : i + size] for name, value in whole.inputs.items()}, labels=whole.labels[i : i + size]
            )  # type: ignore[index]
            for i in range(0, 4, size)
        ]
        pruning = StructuredPruning(heads=0.5, criterion="taylor", begin=1, end=1)
        fit(module, pruning, rows=rows, max_steps=1, accumulate_grad_batches=accumulate)
        return torch.cat([layer.head_importance for layer in module.student.bert.encoder.layer])  # type: ignore[union-attr]

    torch.testing.assert_close(importance(1), importance(4), rtol=1e-3, atol=1e-6)


class Freeze(Callback):
    """Takes the learning rate away, so that weights stay as they were."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.0


def test_importance_by_activation_is_that_of_the_tokens_of_the_step(
    classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    module = pair(classifier())
    layers: Any = module.student.bert.encoder.layer  # type: ignore[union-attr]
    grabbed: list[Tensor] = []
    columns = []
    for layer in layers:
        reader = layer.attention.output.dense
        reader.register_forward_pre_hook(
            lambda m, args: grabbed.append(args[0].detach().double()) if m.training else None
        )
        columns.append(reader.weight.detach().double().square().sum(0))
    fit(module, StructuredPruning(heads=0.5, criterion="activation", begin=1, end=1), Freeze(), max_steps=1)
    tokens = batches(1)[0].tokens[..., None]  # type: ignore[index]
    squares = [(context * tokens).square().sum((0, 1)) for context in grabbed]
    norms = torch.stack([(x * w).view(4, 4).sum(1).sqrt() for x, w in zip(squares, columns, strict=True)])
    found = torch.stack([layer.head_importance for layer in layers])
    torch.testing.assert_close(found.double(), 0.01 * norms / norms.mean(), rtol=1e-5, atol=0)


def of_the_stream(student: Any) -> tuple[list[tuple[Any, int]], list[Any]]:
    """By hand: the parameters, and their axis, that run over BERT's residual stream; and the maps that read it."""
    embeddings, layers, pooler = student.bert.embeddings, student.bert.encoder.layer, student.bert.pooler.dense
    tables = [embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings]
    outputs = [out for layer in layers for out in (layer.attention.output, layer.output)]
    writers = [embeddings.LayerNorm, pooler, *(m for out in outputs for m in (out.dense, out.LayerNorm))]
    attentions = [layer.attention.self for layer in layers]
    readers = [m for own in attentions for m in (own.query, own.key, own.value)]
    readers += [*(layer.intermediate.dense for layer in layers), pooler, student.classifier]
    written = [(p, 0) for m in writers for p in (m.weight, m.bias)]
    return [*((m.weight, 1) for m in tables), *written, *((m.weight, 1) for m in readers)], readers


def along(values: Tensor, axis: int) -> Tensor:
    """Sums over all axes but one."""
    return values.detach().movedim(axis, 0).flatten(1).sum(1) if values.dim() > 1 else values.detach()


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "activation"])
def test_the_width_that_goes_is_that_which_matters_least(
    criterion: Any, classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    exact = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    module, by_hand = pair(classifier(**exact)), classifier(**exact).double()
    fit(module, StructuredPruning(hidden=0.25, criterion=criterion, begin=1, end=1), Freeze(), max_steps=1)
    [batch] = batches(1)
    parts, readers = of_the_stream(by_hand)
    squares: list[Tensor] = []

    def square(_module: Any, args: tuple[Tensor]) -> None:
        read = args[0][batch.tokens] if args[0].dim() == 3 else args[0]  # pooler and head read one vector a sentence
        squares.append(along(read.square(), 1))

    for reader in readers:
        reader.register_forward_pre_hook(square)
    logp = by_hand(**batch.inputs).logits.log_softmax(-1)
    (-logp[range(4), batch.labels].mean()).backward()
    if criterion == "magnitude":
        importance = torch.stack([along(p.square(), axis) for p, axis in parts]).sum(0).sqrt()
    elif criterion == "taylor":
        products = [along(p * p.grad, axis) for p, axis in parts if p.grad is not None]
        importance = torch.stack(products).sum(0).abs()
    else:
        columns = [along(m.weight.square(), 1) for m in readers]
        importance = (torch.stack(squares).sum(0) * torch.stack(columns).sum(0)).sqrt()
    student: Any = module.student
    assert set((~student.hidden_mask).nonzero().flatten().tolist()) == set(importance.argsort()[:4].tolist())
    if criterion != "magnitude":  # a hundredth of what was measured, as multiples of the mean
        expected = 0.01 * importance / importance.mean()
        torch.testing.assert_close(student.hidden_importance.double(), expected, rtol=1e-4, atol=1e-7)


def test_the_criterion_chooses_the_heads(classifier: Make, pair: Make, fit: Make) -> None:
    student = classifier()
    with torch.no_grad():
        for layer in student.bert.encoder.layer:
            for module in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                module.weight[8:12] *= 0.1
                module.bias[8:12] *= 0.1
            layer.attention.output.dense.weight[:, 8:12] *= 0.1
    for criterion in ("magnitude", "taylor", "activation"):
        module = pair(copy.deepcopy(student))
        fit(module, StructuredPruning(heads=0.25, criterion=criterion, begin=2, end=4), max_steps=5)  # type: ignore[arg-type]
        masks = [layer.head_mask.tolist() for layer in module.student.bert.encoder.layer]  # type: ignore[union-attr]
        assert masks == [[True, True, False, True]] * 3, criterion
