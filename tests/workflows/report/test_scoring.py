"""Models are asked of the same batches; an export that cannot answer is left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.tasks import TASKS
from distill.workflows.report.predictions import Options, Subject
from distill.workflows.report.scoring import data_fingerprint, score

X, Y = torch.randn(10, 4), torch.arange(10) % 4


class Data:
    """Two batches, and the same in another order."""

    def __init__(self, order: Tensor) -> None:
        self.order = order

    def val_dataloader(self) -> list[tuple[Tensor, Tensor]]:
        return [(X[part], Y[part]) for part in self.order.split(6)]


def job(order: Tensor, **arguments: Any) -> Any:
    return SimpleNamespace(data=Data(order), module=SimpleNamespace(task=TASKS["plain"]()), arguments=arguments)


@pytest.fixture(autouse=True)
def overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.workflows.report.scoring.is_overridden", lambda name, data: hasattr(data, name))


def subject(key: str, role: Any, answers: Any) -> Subject:
    run: Any = None
    return Subject(key, role, run, job(torch.arange(10)), answers, None)


def test_predictions_stand_in_the_order_of_the_samples_for_every_model() -> None:
    said = {"a": torch.randn(4, 4), "b": torch.randn(4, 4)}
    ask = {key: lambda batch, map=map: Signals(batch.inputs["input"] @ map) for key, map in said.items()}
    both = [subject("a", "teacher", ask["a"]), subject("b", "distilled", ask["b"])]
    answers, scored, held = score(both, Options(), [])
    assert (scored, held) == (10, 10)
    for key, weights in said.items():
        found = answers[key].found
        assert found is not None
        assert found.decisions is not None
        assert found.decisions.equal((X @ weights).argmax(-1))
        assert found.labels is not None
        assert found.labels.equal(Y)
        assert found.sample.tolist() == list(range(10))
    assert score(both, Options(samples=7), [])[1:] == (7, 7)


def test_an_export_that_cannot_answer_is_left_out_and_it_is_said() -> None:
    def refuse(batch: Batch) -> Signals:
        raise UserError("takes 128 tokens", key="--to", hint="export it anew")

    notes: list[str] = []
    good = subject("student", "distilled", lambda batch: Signals(batch.inputs["input"]))
    answers, *_ = score([good, subject("onnx", "exported", refuse)], Options(), notes)
    assert list(answers) == ["student"]
    assert notes == ["onnx was not measured: --to: takes 128 tokens. export it anew."]
    with pytest.raises(UserError, match="128"):
        score([subject("student", "distilled", refuse)], Options(), [])


def test_the_same_samples_are_known_in_any_order_and_others_are_not() -> None:
    same = [data_fingerprint(job(order), Options()) for order in (torch.arange(10), torch.arange(10).flip(0))]
    assert same[0] == same[1]
    others = job(torch.arange(9))
    assert data_fingerprint(others, Options()) != same[0]
    assert data_fingerprint(job(torch.arange(10), limit_val_batches=1), Options()) != same[0]
