"""A student and a teacher of different tokenizers in one run: what is computed, what is said, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from distill.core.signals import IGNORE, Batch
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.losses import CrossEntropy, DistillationLoss, HintonKL, SharedVocabularyKL, UniversalLogitDistillation
from distill.losses.shared_vocabulary import shared_tokens, shared_vocabulary_kl
from distill.losses.universal_logit import universal_logit_distance
from distill.models.students import StudentConfig
from distill.models.teachers import TeacherConfig
from distill.training.module import Distillation
from distill.training.on_policy import OnPolicyConfig

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
STUDENT = {"model_type": "llama", "vocab_size": 2048, "bos_token_id": 0, "eos_token_id": 0, **SIZES}
TEXTS = [f"The weather in the north was cold {row}, 漢字 🙂 and x = {row * 37}." * (1 + row % 3) for row in range(12)]


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory, small_tokenizers: Any) -> str:
    """A language model whose tokens are not the quickstart's."""
    torch.manual_seed(0)
    tokenizer, folder = small_tokenizers.byte_level(420), tmp_path_factory.mktemp("other")
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **SIZES)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("texts")
    for use in ("train", "validation"):
        (folder / f"{use}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return {use: str(folder / f"{use}.jsonl") for use in ("train", "validation")}


def data_of(files: Any, other: str | None, **options: Any) -> TextData:
    given: dict[str, Any] = {"batch_size": 3, "pack_length": 64, **options}
    tokenizer = "distill:quickstart/tokenizer"
    made = TextData(files=files, task="causal-lm", tokenizer=tokenizer, teacher_tokenizer=other, **given)
    made.setup("fit")
    return made


def pair(teacher: str | None, *losses: DistillationLoss, **options: Any) -> Distillation:
    torch.manual_seed(1)
    student = StudentConfig(config=STUDENT, tokenizer="distill:quickstart/tokenizer")
    named = None if teacher is None else TeacherConfig(path=teacher)
    return Distillation(student, "causal-lm", named, losses=list(losses), **options)


def documents(batch: Batch) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Inputs, labels, the teacher's inputs, partners and nodes of each document, of packed blocks."""
    found, x = [], batch.extras
    for row in range(batch.size):
        ours = (batch.inputs["position_ids"][row] == 0).nonzero()[:, 0].tolist()
        theirs = (x["teacher_position_ids"][row] == 0).nonzero()[:, 0].tolist()
        ours = [i for i in ours if i == 0 or batch.inputs["input_ids"][row, i] == 0]
        ends = ([*ours[1:], None], [*theirs[1:], None])
        for a, b, c, d in zip(ours, ends[0], theirs, ends[1], strict=False):
            at = x["teacher_at"][row, a:b]
            assert batch.labels is not None
            ids, labels = batch.inputs["input_ids"][row, a:b], batch.labels[row, a:b]
            found.append(
                (
                    ids,
                    labels,
                    x["teacher_input_ids"][row, c:d],
                    torch.where(at < 0, -1, at - c),
                    x["teacher_path"][row, a:b],
                )
            )
    return found


def test_the_objective_is_that_of_each_document_read_alone_by_either_model(files: Any, teacher_dir: str) -> None:
    data = data_of(files, teacher_dir)
    module = pair(teacher_dir, CrossEntropy(weight=0.5), SharedVocabularyKL(weight=0.7), UniversalLogitDistillation())
    module.meet(data)
    teacher: Any = AutoModelForCausalLM.from_pretrained(teacher_dir)
    tokens = shared_tokens(data.tokenizer, data.other_tokenizer)
    rest = torch.tensor([i for i in range(2048) if i not in tokens.student.tolist()])
    batch = next(iter(data.train_dataloader()))
    objective, terms = module.terms(batch.at(0, 1))
    sums, count, within = torch.zeros(3), 0, 0
    for ids, labels, theirs, at, path in documents(batch):
        with torch.no_grad():
            ours, others = module.student(ids[None]).logits[0], teacher(theirs[None]).logits[0]
        keep = labels != IGNORE
        both = keep & (at >= 0)
        here = both & (path == 0)
        sums[0] += nn.functional.cross_entropy(ours[keep], labels[keep], reduction="sum")
        sums[1] += shared_vocabulary_kl(ours[both], others[at[both]], tokens, rest, path_N=path[both])
        sums[2] += universal_logit_distance(ours[here], others[at[here]])
        within += int((path[both] > 0).sum())
        count += int(keep.sum())
    assert count == batch.count
    assert within > 0
    torch.testing.assert_close(torch.stack(list(terms.values())), sums / count, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(objective, (sums * torch.tensor([0.5, 0.7, 1.0])).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_says_what_is_compared_and_scores_the_teacher_by_bytes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Any, teacher_dir: str, distill: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = {
        "name": "run",
        "model": {
            "teacher": teacher_dir,
            "student": {"path": None, "config": STUDENT, "tokenizer": "distill:quickstart/tokenizer"},
        },
        "data": {"files": files, "pack_length": 0, "max_length": 500, "batch_size": 4},
        "trainer": {"min_epochs": None, "min_steps": None, "max_steps": 3, "accelerator": "cpu"},
    }
    Path("my.yaml").write_text(yaml.safe_dump(mine))  # both tokenizers are found in the model's section
    twin = ("--model.teacher", "null", "--model.losses", "[CrossEntropy]")
    code, _, err = distill("fit", "-c", "causal-lm/cross-tokenizer", "-c", "my.yaml", "--id", "alone", *twin)
    assert code == 0, err
    code, out, err = distill("fit", "-c", "causal-lm/cross-tokenizer", "-c", "my.yaml", "--id", "one")
    assert code == 0, err
    assert "without a teacher  " in out  # which reads the same texts, and is found
    assert "data: teacher and student are compared at" in out
    assert "loss: shared_vocabulary_kl: " in out
    result = json.loads(Path("runs/run/one/result.json").read_text())
    assert set(result["scores"]["teacher"]) == {"bits_per_byte"}
    model: Any = AutoModelForCausalLM.from_pretrained(teacher_dir)
    tokenizer: Any = data_of(files, teacher_dir).other_tokenizer
    nats = 0.0
    for text in TEXTS:
        ids = torch.tensor([0, *tokenizer(text, add_special_tokens=False)["input_ids"], 0])
        with torch.no_grad():
            nats += float(nn.functional.cross_entropy(model(ids[None, :-1]).logits[0], ids[1:], reduction="sum"))
    expected = nats / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert result["scores"]["teacher"]["bits_per_byte"] == pytest.approx(expected, rel=1e-4)
    logged = Path("runs/run/one/metrics.csv").read_text()
    assert "agreement" not in logged
    code, out, err = distill("validate", "runs/run/one")
    assert code == 0, err
    assert "acceptance" not in out
    code, _, err = distill("sensitivity", "runs/run/one", "--samples", "2")  # which needs no teacher
    assert code == 0, err
    assert (
        json.loads(Path("runs/run/one/student/task.json").read_text())["settings"]
        .keys()
        .isdisjoint({"teacher_tokenizer"})
    )


def test_losses_that_compare_token_by_token_are_refused_and_the_two_are_named(teacher_dir: str) -> None:
    with pytest.raises(UserError, match="compare texts and not tokens: SharedVocabularyKL or UniversalLogitDist"):
        pair(teacher_dir, HintonKL())
    with pytest.raises(UserError, match=r"model\.losses\.1 = 'HintonKL': compares student and teacher token by token"):
        pair(teacher_dir, SharedVocabularyKL(), HintonKL())


def test_data_of_one_tokenizer_is_refused_and_so_are_two_that_nothing_compares(files: Any, teacher_dir: str) -> None:
    with pytest.raises(UserError, match=r"data\.teacher_tokenizer: UniversalLogitDistillation compares"):
        pair(teacher_dir, UniversalLogitDistillation()).meet(data_of(files, None))
    with pytest.raises(UserError, match=r"data\.teacher_tokenizer = .*: has no effect with losses that compare"):
        pair(None, CrossEntropy()).meet(data_of(files, teacher_dir))


def test_a_tokenizer_that_is_not_the_teachers_is_refused(
    tmp_path: Path, files: Any, teacher_dir: str, small_tokenizers: Any
) -> None:
    small_tokenizers.byte_level(400, ["another text"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"data\.teacher_tokenizer = .*this is not the tokenizer of model\.teacher"):
        pair(teacher_dir, SharedVocabularyKL()).meet(data_of(files, str(tmp_path)))


def test_what_the_student_writes_is_in_its_own_tokens_and_refused(teacher_dir: str) -> None:
    with pytest.raises(UserError, match=r"model\.on_policy: what the student writes is in its own tokens"):
        pair(teacher_dir, SharedVocabularyKL(), on_policy=OnPolicyConfig())


def test_the_student_ends_where_its_own_texts_do(files: Any, teacher_dir: str) -> None:
    module = pair(teacher_dir, SharedVocabularyKL())
    assert module.teacher is not None
    ends: Any = module.teacher.models[0].generation_config
    ends.eos_token_id = [0, 7]  # of other tokens
    module.meet(data_of(files, teacher_dir))
    config: Any = module.student.generation_config
    assert config.eos_token_id == 0
