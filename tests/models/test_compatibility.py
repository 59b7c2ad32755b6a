"""The promises of the comparison of tokens and classes."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from distill.core.signals import Signals
from distill.core.utils.errors import UserError
from distill.models.compatibility import (
    check_labels,
    check_length,
    check_pair,
    check_vocabularies,
    check_widths,
)
from distill.models.students import StudentConfig
from distill.models.teachers import LiveTeacher
from distill.tasks import CausalLM, TextClassification
from distill.training.assemble import own_tokenizer

WORDS = ["[UNK]", "a", "b", "c", "d"]


def tokenizer(words: list[str] = WORDS) -> Any:
    model = WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="[UNK]")


def test_a_padded_head_is_compared_over_the_shared_range() -> None:
    assert check_vocabularies(tokenizer(), tokenizer(), 8, 16, CausalLM()) == 8
    assert check_vocabularies(tokenizer(), tokenizer(), 16, 8, CausalLM()) == 8


def test_vocabularies_of_equal_length_with_other_tokens_are_refused() -> None:
    other = tokenizer(["[UNK]", "a", "c", "b", "d"])
    message = "differ in 2 tokens .id 2 is 'b' for the student, 'c' for the teacher.*SharedVocabularyKL or Universal"
    with pytest.raises(UserError, match=message):
        check_vocabularies(tokenizer(), other, 5, 5, CausalLM())


def test_a_token_that_one_vocabulary_lacks_is_refused() -> None:
    with pytest.raises(UserError, match=r"differ in 1 token .id 5 is 'e' for the student, nothing for the teacher"):
        check_vocabularies(tokenizer([*WORDS, "e"]), tokenizer(), 8, 8, CausalLM())


def test_classifiers_must_read_the_same_ids_too() -> None:
    with pytest.raises(UserError, match="both models read the same ids"):
        check_vocabularies(tokenizer(WORDS[::-1]), tokenizer(), 5, 5, TextClassification(["a", "b"]))


def test_a_tokenizer_larger_than_the_embedding_is_refused() -> None:
    with pytest.raises(UserError, match=r"id 4 \('d'\) lies beyond the 4 rows of the student's embedding"):
        check_vocabularies(tokenizer(), tokenizer(), 4, 5, CausalLM())


def model(*names: str, count: int | None = None) -> Any:
    module = nn.Linear(1, 1)
    labels = dict(enumerate(names)) or {i: f"LABEL_{i}" for i in range(count or 2)}
    module.config = SimpleNamespace(id2label=labels, num_labels=len(labels))  # type: ignore[assignment]
    return module


@pytest.mark.parametrize(
    ("student", "teacher", "data"),
    [
        (model("neg", "pos"), model("NEG", "POS"), ["neg", "pos"]),
        (model(count=2), model("neg", "pos"), ["0", "1"]),
        (model("neg", "pos"), model(count=2), None),
        (nn.Linear(1, 1), nn.Linear(1, 1), ["neg", "pos"]),
        (None, model("neg", "pos"), ["neg", "pos"]),
        (None, model("entailment", "not_entailment"), ["Entailment", "not entailment"]),
    ],
)
def test_the_same_classes_in_the_same_order_pass(student: Any, teacher: Any, data: Any) -> None:
    check_labels(student, teacher, data)


@pytest.mark.parametrize(
    ("student", "teacher", "data", "message"),
    [
        (model("neg", "pos"), model("pos", "neg"), None, "the same in another order"),
        (None, model("pos", "neg"), ["Neg", "Pos"], "the data has the same in another order: Neg, Pos"),
        (model(count=2), model(count=3), None, "model.student has 2 classes and model.teacher has 3"),
        (None, model("pos", "neg"), ["Neg", "Pos"], r"data\.labels: \[Pos, Neg\]"),
        (None, model("1", "0"), ["0", "1"], r"the same in another order: 0, 1.*data\.labels: \[1, 0\]"),
        (None, model("LABEL_2", "LABEL_10"), ["10", "2"], r"data\.labels: \[2, 10\]"),
        (None, model(count=3), ["a", "b"], r"model.teacher has 3 classes and the data has 2 \(a, b\)"),
        (None, model("x", "A", "b"), ["a", "b"], r"data\.labels: \[x, a, b\]"),
    ],
)
def test_other_classes_are_refused(student: Any, teacher: Any, data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_labels(student, teacher, data)


def test_a_teacher_of_wholly_other_classes_is_refused_with_both_ways_to_say_that_they_are_the_same() -> None:
    with pytest.raises(
        UserError, match=r"^model\.teacher: model\.teacher calls its classes \['bad', 'good'\]"
    ) as error:
        check_labels(None, model("bad", "good"), ["neg", "pos"])
    assert "model.teacher.labels: [neg, pos]" in error.value.hint
    assert "data.labels: [bad, good]" in error.value.hint
    with pytest.raises(UserError, match=r"^model\.teacher\.0: .* say so by model\.teacher\.0\.labels: \[a, b\] \(of"):
        check_labels(model("bad", "good"), model("a", "b"), None, who=("model.teacher.0", "model.teacher.1"))


def test_a_student_of_other_names_is_reported_as_it_is_trained_to_give_the_datas(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        check_labels(model("bad", "good"), None, ["neg", "pos"])
    assert "bad" in caplog.text
    assert "neg" in caplog.text


def language_model(size: int = 8) -> Any:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=size,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config)


def test_a_pair_is_compared_by_the_tokenizer_that_the_student_names(tmp_path: Path) -> None:
    tokenizer(["[UNK]", "d", "c", "b", "a"]).save_pretrained(tmp_path)
    teacher, task = LiveTeacher(language_model(), CausalLM(), tokenizer()), CausalLM()
    copied = own_tokenizer(StudentConfig(num_layers=1), task, teacher)
    assert copied is teacher.tokenizer
    check_pair(task, copied, language_model(16), teacher)
    for said in (StudentConfig(num_layers=1, tokenizer=str(tmp_path)), str(tmp_path)):
        with pytest.raises(UserError, match="differ in 4 tokens"):
            check_pair(task, own_tokenizer(said, task, teacher), language_model(), teacher)


def test_without_a_teacher_there_is_nothing_to_compare() -> None:
    assert own_tokenizer("no folder", CausalLM(), None) is None
    check_pair(CausalLM(), None, nn.Linear(1, 1), None)


def test_classes_of_another_number_are_refused_where_nothing_tells_that_they_are_the_same(tmp_path: Path) -> None:
    student, teacher = Signals(logits=torch.zeros(2, 5)), Signals(logits=torch.zeros(2, 10))
    with pytest.raises(UserError, match="student has 5 outputs and the teacher 10"):
        check_widths(student, teacher)
    check_widths(student, Signals(logits=torch.zeros(2, 5)))
    check_widths(student, Signals())


@pytest.mark.parametrize(("kind", "positions"), [("bert", 16), ("roberta", 14)])
def test_samples_longer_than_a_model_has_positions_are_refused(kind: str, positions: int) -> None:
    config = AutoConfig.for_model(
        kind, vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config.max_position_embeddings = 16
    config.pad_token_id = 1  # RoBERTa's positions begin behind it
    short = AutoModel.from_config(config)
    check_length("data.max_length", positions, [("model.student", short)])
    with pytest.raises(UserError, match=rf"model.student has {positions} positions") as refused:
        check_length("data.max_length", positions + 1, [("model.student", short)])
    assert refused.value.key == "data.max_length"


def test_rotary_positions_have_no_end() -> None:
    config = AutoConfig.for_model(
        "llama", vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config.max_position_embeddings = 16
    check_length("data.max_length", 64, [("model.student", AutoModelForCausalLM.from_config(config))])
