"""Mixtures are the papers', shared by both models, the same after a resume; soft labels are labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill import IGNORE, Distillation, OptimizerConfig, tasks
from distill.callbacks import Mixup
from distill.callbacks.mixup import cut_mixed, label_rows, mixed
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy, HintonKL
from distill.losses.cross_entropy import cross_entropy, soft_cross_entropy
from distill.tasks.plain import pairs

C = 3


def at(batch: int, rank: int = 0) -> Any:
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=batch))
    return SimpleNamespace(fit_loop=loop, global_rank=rank)


def images(count: int = 6) -> Batch:
    x = torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch({"input": x}, labels=torch.arange(count) % C, ids=list(range(count)))


# ---------------------------------------------------------------------- what is mixed


def test_inputs_and_labels_are_mixed_in_one_share_with_one_partner() -> None:
    batch = images()
    out = Mixup(C).trained_on(at(3), batch)
    x, y = batch.inputs["input"], label_rows(batch.labels, C)  # type: ignore[arg-type]
    assert out.labels is not None
    found = []
    for row, mixture in enumerate(out.inputs["input"]):
        for partner in range(len(x)):
            basis = torch.stack([x[row].flatten(), x[partner].flatten()], 1)
            weights = torch.linalg.lstsq(basis, mixture.flatten()[:, None]).solution[:, 0]
            close = torch.allclose(basis @ weights, mixture.flatten(), atol=1e-4)
            if close and (partner == row or weights.min() > 1e-3):
                own = 1.0 if partner == row else float(weights[0])
                torch.testing.assert_close(out.labels[row], own * y[row] + (1 - own) * y[partner], atol=1e-4, rtol=0)
                found.append((row, partner))
    assert [row for row, _ in found] == list(range(6))
    assert out.ids is None
    assert int(out.count) == 6


def test_a_cut_box_is_the_partners_and_labels_follow_its_true_area() -> None:
    x, partner = images().inputs["input"], torch.tensor([1, 2, 3, 4, 5, 0])
    out, own = cut_mixed(x, partner, 0.75, (0.0, 0.5))  # half of the box lies outside
    from_partner = (out == x[partner]) & (out != x)
    assert set(from_partner.flatten(1).sum(1).tolist()) == {2 * 2 * 4}  # 2 of 4 rows, 4 columns, 2 channels
    assert own == 1 - 8 / 64
    assert torch.equal(torch.where(from_partner, x[partner], x), out)


def test_shares_are_drawn_from_beta_and_some_batches_are_left() -> None:
    batch = Batch({"input": torch.eye(2)}, labels=torch.tensor([0, 1]))
    mixup = Mixup(2, mixup=0.4, share=0.5)
    outs = [mixup.trained_on(at(index), batch) for index in range(2000)]
    changed = [out for out in outs if out is not batch]
    assert len(changed) == pytest.approx(1000, abs=80)
    shares = [float(out.inputs["input"][0, 0]) for out in changed if out.inputs["input"][0, 1] > 0]  # with a partner
    assert len(shares) == pytest.approx(500, abs=60)
    # Of Beta(a, a) the mean is 1/2, and the variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.8), abs=0.015)


def test_draws_follow_from_seed_batch_and_rank() -> None:
    def out(batch: int, rank: int = 0, seed: int = 0) -> Tensor:
        return Mixup(C, cutmix=1.0, seed=seed).trained_on(at(batch, rank), images()).inputs["input"]

    torch.manual_seed(1)
    first = out(5)
    torch.manual_seed(2)
    assert torch.equal(first, out(5))
    assert not any(torch.equal(first, other) for other in (out(6), out(5, rank=1), out(5, seed=1)))


def test_who_has_no_label_gives_none_and_is_not_counted() -> None:
    labels = torch.tensor([0, IGNORE])
    batch = pairs((torch.eye(2), labels))
    outs = [Mixup(C).trained_on(at(index), batch) for index in range(8)]
    swapped = [out for out in outs if out.inputs["input"][0, 1] != 0]
    assert swapped
    assert all(int(out.count) == 0 and bool(out.labels.isnan().all()) for out in swapped if out.labels is not None)
    assert torch.equal(label_rows(labels, C).isnan().any(-1), torch.tensor([False, True]))
    assert torch.equal(mixed(torch.eye(2), torch.tensor([1, 0]), 0.75)[0], torch.tensor([0.75, 0.25]))


# ---------------------------------------------------------------------- in a run


class Spy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = nn.Linear(6, C), list[Tensor]()

    def forward(self, input: Tensor) -> Tensor:
        self.seen.append(input.clone())
        return self.layer(input)


def run(module: Distillation, *callbacks: Callback, resume: Any = None, **settings: Any) -> Trainer:
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    loader: Any = DataLoader([(row, row[:C].argmax(), i) for i, row in enumerate(x)], batch_size=8)  # type: ignore[arg-type]
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 2}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(**quiet | settings, callbacks=list(callbacks))
    trainer.fit(module, loader, None, ckpt_path=resume, weights_only=True)
    return trainer


def pair() -> Distillation:
    losses = [CrossEntropy(), HintonKL(2.0)]
    return Distillation(Spy(), tasks.Plain(), Spy(), losses, OptimizerConfig(lr=0.05, warmup=0))


def test_teacher_and_student_read_one_mixture_and_the_teacher_every_time() -> None:
    module = pair()
    run(module, Mixup(C))
    student, teacher = module.student, module.teacher.models[0]  # type: ignore[union-attr]
    assert isinstance(student, Spy)
    assert isinstance(teacher, Spy)
    assert len(student.seen) == len(teacher.seen) == 8
    assert all(torch.equal(a, b) for a, b in zip(student.seen, teacher.seen, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(student.seen[:4], student.seen[4:], strict=True))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_mixes_as_if_it_had_not_stopped(accumulate: int, tmp_path: Path) -> None:
    whole, again = pair(), pair()
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_epochs=1, save_top_k=-1)
    run(whole, Mixup(C), keep, enable_checkpointing=True, accumulate_grad_batches=accumulate)
    run(again, Mixup(C), resume=tmp_path / f"step={4 // accumulate}.ckpt", accumulate_grad_batches=accumulate)
    for one, other in zip(whole.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "batch", "said"),
    [
        ({"classes": 1}, None, "classes = 1"),
        ({"mixup": 0.0}, None, "and cutmix are 0"),
        ({"share": 0.0}, None, "share = 0"),
        ({}, Batch({"input_ids": torch.ones(2, 3).long()}), "the input 'input_ids' is of int64"),
        ({"cutmix": 1.0}, Batch({"input": torch.ones(2, 3)}), r"cuts boxes out of images .*\[2, 3\]"),
        ({}, Batch({"input": torch.ones(2, 3)}, labels=torch.ones(2, 3).long()), r"labels are \[2, 3\]"),
        ({}, Batch({"input": torch.ones(2, 3)}, labels=torch.tensor([0, -1])), "Mixup.classes = 3: .*a label is -1"),
        ({}, Batch({"input": torch.ones(2, 3)}, labels=torch.tensor([C, IGNORE])), "Mixup.classes = 3: .*a label is 3"),
        ({}, Batch({"input": torch.ones(2, 3)}, tokens=torch.ones(2, 3).bool()), "mixes whole samples"),
    ],
)
def test_what_cannot_be_mixed_is_refused(settings: dict[str, Any], batch: Batch | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Mixup(**{"classes": C} | settings).trained_on(at(0), batch or images())


def test_a_teacher_without_a_model_and_another_module_are_refused() -> None:
    module = pair()
    object.__setattr__(module, "teacher", SimpleNamespace(models=[]))
    with pytest.raises(UserError, match="has no answer to these"):
        Mixup(C).setup(at(0), module, "fit")
    with pytest.raises(UserError, match=r"Linear.*mixes what a Distillation trains on"):
        Mixup(C).setup(at(0), nn.Linear(1, 1), "fit")  # type: ignore[arg-type]


# ---------------------------------------------------------------------- soft labels


def test_soft_labels_have_the_cross_entropy_of_their_formula() -> None:
    s, t, w = torch.randn(4, C).double(), torch.rand(4, C).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    t = t / t.sum(-1, keepdim=True)
    soft = 0.9 * t + 0.1 / C
    expected = -(w * soft * s.log_softmax(-1))[:3].sum()
    t[3] = float("nan")  # no label
    torch.testing.assert_close(soft_cross_entropy(s, t, 0.1, w), expected)


def test_a_row_that_is_sure_is_a_class() -> None:
    s, labels = torch.randn(5, C), torch.tensor([0, 2, IGNORE, 1, 1])
    torch.testing.assert_close(soft_cross_entropy(s, label_rows(labels, C)), cross_entropy(s, labels))
    hard, soft = pairs((s, labels)), pairs((s, label_rows(labels, C)))
    assert int(hard.count) == int(soft.count) == 4
    loss = CrossEntropy()
    a, b = (loss(Signals(s), Signals(), batch) for batch in (hard, soft))
    torch.testing.assert_close(a.total, b.total)
    assert a.positions == b.positions


def test_metrics_judge_a_row_of_probabilities_by_its_likeliest_class() -> None:
    task, logits = tasks.Plain(), torch.eye(C)
    rows = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [float("nan")] * C])
    judged = task.for_evaluation(Batch({"input": logits}, labels=rows))
    assert judged.labels is not None
    assert judged.labels.tolist() == [0, 0, IGNORE]
    metrics = task.metrics()
    task.update(metrics, logits, judged)
    assert float(metrics["accuracy"].compute()) == 0.5


@pytest.mark.parametrize(
    ("labels", "said"),
    [(torch.ones(2, C), "probabilities that add up to 1"), (torch.ones(2, 2) / 2, r"rows of \[2, 2\], and logits")],
)
def test_rows_that_are_no_probabilities_of_the_outputs_are_refused(labels: Tensor, said: str) -> None:
    batch = replace(pairs((torch.zeros(2, C), labels)))
    with pytest.raises(UserError, match=said):
        CrossEntropy()(Signals(torch.zeros(2, C)), Signals(), batch)
