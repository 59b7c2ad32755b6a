"""How often a teacher runs to be judged, and what the student is compared by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.core.signals import IGNORE, Batch, Signals
from distill.models.teachers.live import LiveTeacher
from distill.models.teachers.validation import TeacherScores
from distill.tasks import CausalLM


class Bigrams(nn.Module):
    """Position t predicts from token t alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.randn(7, 7, generator=torch.Generator().manual_seed(seed)))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)  # type: ignore[no-any-return]


def test_the_acceptance_is_the_overlap_of_both_and_costs_one_run_of_the_teacher_a_batch() -> None:
    ids = torch.tensor([[1, 4, 2, 6], [5, 5, 0, 3]])
    labels = torch.tensor([[4, 2, 6, 1], [5, 0, IGNORE, IGNORE]])
    batch = Batch(
        {"input_ids": ids},
        labels=labels,
        mask=labels != IGNORE,
        ids=[0, 1],
        extras={"bytes": torch.ones_like(labels)},
    )
    student, teacher, calls = Bigrams(0), Bigrams(1), list[int]()
    teacher.register_forward_hook(lambda *_: calls.append(1))
    scores = TeacherScores(LiveTeacher(teacher, CausalLM()), CausalLM())
    signals = Signals(student(ids))

    for _ in range(2):  # a run's validations: the teacher is known from the first on
        scores.compare(signals.at(None).argmax(-1).view(2, 4), batch)
        _, compared = scores.compute()
        assert set(compared) == {"agreement"}
    assert len(calls) == 1

    for known in (True, False):
        calls.clear()
        if not known:
            scores.clear()
        scores.compare(signals.at(None).argmax(-1).view(2, 4), batch, signals)
        found, compared = scores.compute()
        assert len(calls) == 1
        assert bool(found) is not known
        q, p = (model.table.weight.double().softmax(1)[ids[batch.mask]] for model in (student, teacher))  # type: ignore[index]
        assert float(compared["acceptance"]) == pytest.approx(float(torch.minimum(p, q).sum(1).mean()))
