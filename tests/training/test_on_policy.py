"""Batches that the student writes: which, from what, what of them counts, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from distill.core.schedules import Linear
from distill.core.signals import IGNORE, Batch
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy, DistillationLoss, HintonKL
from distill.training.module import Distillation
from distill.training.on_policy import OnPolicyConfig, continued, is_replaced, prompts_of

X = IGNORE


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_of_any_stretch_of_batches_about_the_share_is_written_by_the_student(share: float) -> None:
    replaced = [is_replaced(number, share) for number in range(2000)]
    for begin in (0, 77, 500):
        for length in (20, 400):
            assert abs(sum(replaced[begin : begin + length]) - share * length) <= 2


def packed(ids: list[list[int]], labels: list[list[int]], positions: list[list[int]] | None, **more: Any) -> Batch:
    inputs = {"input_ids": torch.tensor(ids)}
    inputs |= {} if positions is None else {"position_ids": torch.tensor(positions)}
    return Batch(inputs, labels=torch.tensor(labels), **more)


def test_a_text_gives_its_first_tokens_and_each_document_of_a_block_is_one() -> None:
    ids, labels = [[0, 1, 2, 3, 0, 5], [0, 7, 8, 9, 9, 9]], [[1, 2, 3, 0, 5, 6], [7, 8, 9, X, X, X]]
    tokens = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    batch = packed(ids, labels, [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]], tokens=tokens)
    assert [p.tolist() for p in prompts_of(batch, 3)] == [[0, 1, 2], [0, 5], [0, 7, 8]]
    assert [p.tolist() for p in prompts_of(packed(ids, labels, None, tokens=tokens), 4)] == [[0, 1, 2, 3], [0, 7, 8]]


def test_a_prompt_reaches_to_an_answer_and_of_several_answers_any_may_be_next() -> None:
    ids = [[4, 5, 6, 7, 8, 9, 1, 2]]
    one = packed(ids, [[X, X, 7, 8, X, X, X, X]], None)
    assert [p.tolist() for p in prompts_of(one, 1)] == [[4, 5, 6]]
    two = packed(ids, [[X, 6, X, X, X, 1, 2, X]], None)
    found = {tuple(prompts_of(two, 1)[0].tolist()) for _ in range(40)}
    assert found == {(4, 5), (4, 5, 6, 7, 8, 9)}
    assert prompts_of(packed(ids, [[X] * 8], None), 4) == []


def test_what_was_written_counts_and_is_no_label() -> None:
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    batch = continued(prompts, [torch.tensor([5, 6]), torch.tensor([7, 8, 9])], padding=0)
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3, 5], [4, 7, 8, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[False, False, True, True], [True, True, True, False]]
    assert batch.labels is not None
    assert (batch.labels == IGNORE).all()
    assert continued(prompts[:1], [torch.tensor([5])], 0).inputs.keys() == {"input_ids"}


def llama(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes, bos_token_id=0, eos_token_id=1))


def module(losses: list[DistillationLoss] | None = None, **more: Any) -> Distillation:
    given = {"student": llama(0), "teacher": llama(1), "on_policy": OnPolicyConfig(max_new_tokens=5)} | more
    return Distillation(task=given.pop("task", "causal-lm"), losses=losses or [HintonKL(1.0), CrossEntropy()], **given)


def test_the_losses_are_those_of_what_the_student_has_written() -> None:
    made = module()
    assert made.on_policy is not None
    source = packed([[0, 4, 5, 6], [0, 7, 8, 9]], [[X, 5, 6, X], [4, 4, 4, 4]], None)
    batch = made.on_policy(source, number=0, rank=0, step=0, total_steps=9)
    again, other = (made.on_policy(source, number=n, rank=0, step=0, total_steps=9) for n in (0, 2))
    assert made.on_policy(source, number=1, rank=0, step=0, total_steps=9) is source
    assert torch.equal(batch.inputs["input_ids"], again.inputs["input_ids"])
    assert batch.inputs["input_ids"].tolist() != other.inputs["input_ids"].tolist()

    total, terms = made.terms(batch.at(0, 9))
    expected, count = torch.zeros((), dtype=torch.float64), 0
    assert batch.mask is not None
    for ids, mask in zip(batch.inputs["input_ids"], batch.mask, strict=True):
        last = int(mask.nonzero()[-1]) + 1
        log_q, log_p = (written(model, ids[:last])[mask[:last]] for model in (made.student, made.teacher.models[0]))  # type: ignore[union-attr]
        expected, count = expected + (log_p.exp() * (log_p - log_q)).sum(), count + int(mask.sum())
    assert int(batch.count) == count
    assert float(terms["hinton_kl"]) == pytest.approx(float(expected) / count, rel=1e-4)
    assert float(terms["cross_entropy"]) == 0
    assert float(total) == pytest.approx(float(expected), rel=1e-4)


def written(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(ids[None], use_cache=False).logits[0].double().log_softmax(-1)  # type: ignore[no-any-return]


def test_a_batch_is_no_larger_than_the_one_it_replaces_unless_each_row_needs_its_place() -> None:
    made = module(on_policy=OnPolicyConfig(share=1.0, prompt_length=2, max_new_tokens=4))
    assert made.on_policy is not None
    many = packed([[0, 4] * 12], [[4, 0] * 12], [[0, 1] * 12])
    assert made.on_policy(many, 0, 0, 0, 9).size == 24 // (2 + 4)
    few = packed([[0, 4], [0, 5], [0, 6]], [[4, 1]] * 3, None)
    assert made.on_policy(few, 0, 0, 0, 9).size == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"teacher": None, "losses": [CrossEntropy()]}, "no loss compares"),
        ({"losses": [CrossEntropy()]}, "no loss compares"),
        (
            {"student": nn.Linear(2, 2), "teacher": nn.Linear(2, 2), "task": "plain"},
            "go on with a text, and this is plain",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"model\.on_policy.*{said}"):
        module(**wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [("share", 1.5), ("share", 0), ("share", Linear(0.0, 1.2)), ("max_new_tokens", 0), ("temperature", 0.0)],
)
def test_a_setting_out_of_range_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"model\.on_policy\.{key} = "):
        OnPolicyConfig(**{key: value})


class Texts(LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader([packed([[0, 4, 5, 6]], [[4, 5, 6, 1]], None)] * 4, batch_size=None)  # type: ignore[arg-type]


class Changing(Texts):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


class Told(Callback):
    def __init__(self) -> None:
        self.begun: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.begun.append(batch)


def fitted(made: Distillation, data: LightningDataModule, folder: Path) -> list[Any]:
    told, quiet = Told(), {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    plain: dict[str, Any] = {"accelerator": "cpu", "enable_checkpointing": False, **quiet}
    Trainer(max_steps=4, callbacks=[told], default_root_dir=folder, **plain).fit(made, datamodule=data)
    return told.begun


@pytest.mark.parametrize("writes", [True, False])
def test_callbacks_are_told_of_the_batch_that_the_student_has_written(writes: bool, tmp_path: Path) -> None:
    given = {} if writes else {"on_policy": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begun = fitted(module(**given), Texts(), tmp_path)
    assert [bool((batch.labels == IGNORE).all()) for batch in begun] == [
        writes and is_replaced(number, 0.5) for number in range(4)
    ]
    assert not any("on_after_batch_transfer" in str(warning.message) for warning in caught)


def test_data_that_lightning_would_ask_in_place_of_the_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.on_policy: Changing has on_after_batch_transfer of its own"):
        fitted(module(), Changing(), tmp_path)
    assert len(fitted(module(on_policy=None), Changing(), tmp_path)) == 4
