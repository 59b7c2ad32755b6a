"""The promises of one tokenizer and one padding for the data, the teacher and the student."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from distill.core.forward import forward
from distill.core.signals import Batch, Request
from distill.core.utils.errors import UserError
from distill.models import saved_student
from distill.models.teachers import LiveTeacher
from distill.models.tokens import check_same, check_tokenizer, set_ends, set_padding
from distill.tasks import TextClassification
from distill.training.assemble import meet_data

WORDS = ["[UNK]", "<pad>", "<s>", "</s>", "the", "quick", "brown", "fox", "a"]
TASK = TextClassification(["no", "yes", "perhaps"])
SIZES = {
    "llama": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
}


def tokenizer(words: list[str] = WORDS, *, lower: bool = True, starts: bool = False, **special: Any) -> Any:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        made.normalizer = normalizers.Lowercase()
    if starts:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    roles = {"unk_token": "[UNK]", "eos_token": "</s>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **(roles | special))


PADDED = tokenizer(pad_token="<pad>")


def classifier(kind: str, pad: int | None = 4, **sizes: Any) -> Any:
    """A decoder whose configuration names the word ``the`` as padding, or none."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=9, num_labels=3, pad_token_id=pad, **(SIZES[kind] | sizes))
    return AutoModelForSequenceClassification.from_config(config).eval()


TEXTS = ["the quick brown fox the the", "a fox", "fox the"]


def batch() -> Batch:
    rows = [{"input_ids": PADDED(text)["input_ids"], "id": i, "epoch": 0, "seed": 0} for i, text in enumerate(TEXTS)]
    return TASK.collate(rows, PADDED)  # type: ignore[arg-type]


def logits(model: nn.Module) -> Any:
    with torch.no_grad():
        return TASK.forward(model, batch(), Request(logits=True)).logits


def alone(model: nn.Module) -> Any:
    """Each text by itself, where there is no padding, and the last token is the last: in transformers' own words."""
    rows = [torch.tensor([PADDED(text)["input_ids"]]) for text in TEXTS]
    with torch.no_grad():
        hidden = [model.get_submodule(model.base_model_prefix)(row)[0][0, -1] for row in rows]  # type: ignore[operator]
        return torch.stack([model.score(h) for h in hidden])  # type: ignore[operator]


@pytest.mark.parametrize("pad", [4, None])
@pytest.mark.parametrize("kind", SIZES)
def test_decoders_classify_at_the_last_token_of_the_text_whatever_padding_their_configuration_names(
    kind: str, pad: int | None, tmp_path: Path
) -> None:
    model = classifier(kind, pad)
    expected = alone(model)
    data = SimpleNamespace(tokenizer=PADDED)
    student = copy.deepcopy(model)
    meet_data(data, TASK, student, None, LiveTeacher(model, TASK, PADDED))
    for one in (model, student):
        torch.testing.assert_close(logits(one), expected)
    saved_student.save(student, tmp_path / "student", PADDED)
    torch.testing.assert_close(logits(saved_student.load(tmp_path / "student")), expected)
    assert AutoConfig.from_pretrained(tmp_path / "student").pad_token_id == PADDED.pad_token_id


def test_the_configuration_of_the_text_and_of_generation_name_the_padding_too() -> None:
    sizes = SIZES["llama"] | {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 9}
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = AutoConfig.for_model("gemma3", text_config=sizes | {"pad_token_id": 4}, vision_config=vision)
    with torch.device("meta"):
        from transformers import Gemma3ForConditionalGeneration

        model = Gemma3ForConditionalGeneration(config)
    set_padding(model, PADDED)
    assert model.config.text_config.pad_token_id == model.config.pad_token_id == 1
    assert model.generation_config is not None
    assert model.generation_config.pad_token_id == 1


def trained_rows(pad_token: str, configured: int | None) -> list[int]:
    """The tokens whose embeddings a step over all of them trains."""
    sizes = {**SIZES["llama"], "vocab_size": 9, "tie_word_embeddings": False, "pad_token_id": configured}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes))
    set_padding(model, tokenizer(pad_token=pad_token))
    model(torch.arange(9)[None]).logits.square().sum().backward()
    return model.get_input_embeddings().weight.grad.abs().sum(1).nonzero().flatten().tolist()  # type: ignore[no-any-return]


def test_every_token_but_a_mere_padding_is_trained() -> None:
    assert trained_rows("<pad>", configured=4) == [0, 2, 3, 4, 5, 6, 7, 8]
    assert trained_rows("</s>", configured=3) == list(range(9))  # the end of text is no mere padding
    assert trained_rows("<pad>", configured=None) == list(range(9))


def test_models_that_count_positions_from_their_padding_stay_as_they_were_trained(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = AutoConfig.for_model("roberta", vocab_size=9, pad_token_id=3, num_labels=3, **sizes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    before = logits(model)
    set_padding(model, PADDED)
    torch.testing.assert_close(logits(model), before)
    saved_student.save(model, tmp_path, PADDED)
    torch.testing.assert_close(logits(saved_student.load(tmp_path)), before)


OTHERS = {
    "another order": (tokenizer([*WORDS[:4], *WORDS[:3:-1]], pad_token="<pad>"), "id 4 is 'a' here and 'the' there"),
    "a token more": (tokenizer([*WORDS, "dog"], pad_token="<pad>"), "id 9 is 'dog' here and nothing there"),
    "another end": (tokenizer(pad_token="<pad>", eos_token="<s>"), "eos_token is '<s>' here and '</s>' there"),
    "no start": (tokenizer(pad_token="<pad>", bos_token=None), "bos_token is none here and '<s>' there"),
    "case": (tokenizer(pad_token="<pad>", lower=False), r"The quick.*becomes \['\[UNK\]'.*there from token 1 on"),
    "a start": (tokenizer(pad_token="<pad>", starts=True), r"becomes \['<s>', 'the'.* here and \['the'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_that_is_not_the_models_own_is_refused(name: str) -> None:
    other, message = OTHERS[name]
    with pytest.raises(UserError, match=rf"not the tokenizer of model.teacher.*{message}") as refused:
        check_same(other, PADDED, "model.teacher")
    assert refused.value.key == "data.tokenizer"


def test_the_same_tokenizer_is_accepted_however_it_was_saved(tmp_path: Path) -> None:
    PADDED.save_pretrained(tmp_path / "once")
    once = PreTrainedTokenizerFast.from_pretrained(tmp_path / "once")
    once("a text", truncation=True, max_length=1)  # leaves its mark
    once.save_pretrained(tmp_path / "twice")
    check_same(PreTrainedTokenizerFast.from_pretrained(tmp_path / "twice"), PADDED, "model.teacher")
    check_same(tokenizer(pad_token="</s>"), tokenizer(), "model.teacher")
    added = tokenizer()
    added.add_special_tokens({"pad_token": "[PAD]"})
    check_same(added, tokenizer(), "model.student")
    check_same(tokenizer(), added, "model.student")


def test_every_model_is_compared_with_the_datas_tokenizer() -> None:
    model, student = classifier("gpt2"), classifier("gpt2")
    other = OTHERS["case"][0]
    data: Any = SimpleNamespace(tokenizer=other)
    with pytest.raises(UserError, match=r"tokenizer of model\.teacher"):
        meet_data(data, TASK, student, None, LiveTeacher(model, TASK, PADDED))
    with pytest.raises(UserError, match=r"tokenizer of model\.student"):
        meet_data(data, TASK, student, PADDED, LiveTeacher(model, TASK, other))


def test_a_tokenizer_that_reaches_beyond_an_embedding_is_refused() -> None:
    check_tokenizer(PADDED, "model.student", classifier("gpt2"))
    with pytest.raises(UserError, match=r"data\.tokenizer.*ids go up to 9.*model.student has 9 rows"):
        check_tokenizer(tokenizer([*WORDS, "dog"]), "model.student", classifier("gpt2"))


def test_modules_of_ones_own_are_left_alone() -> None:
    module = nn.Linear(1, 1)
    module.config = SimpleNamespace(pad_token_id=7)  # type: ignore[assignment]
    set_padding(module, PADDED)
    assert module.config.pad_token_id == 7  # type: ignore[union-attr]
    assert forward(nn.Identity(), {"input": torch.ones(1, 1)}, Request(logits=True)).logits is not None


def test_a_student_stops_at_its_own_end_at_the_datas_and_at_its_teachers(chat_tokenizer: Any) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    tokenizer = chat_tokenizer()
    base, teacher = (LlamaForCausalLM(LlamaConfig(vocab_size=2052, **sizes, eos_token_id=0)) for _ in range(2))
    teacher.generation_config.eos_token_id = [tokenizer.eos_token_id, 3]
    set_ends(base, tokenizer, [teacher])
    assert base.generation_config.eos_token_id == sorted({0, 3, tokenizer.eos_token_id})
    assert base.config.eos_token_id == tokenizer.eos_token_id
    fresh = LlamaForCausalLM(LlamaConfig(vocab_size=2052, **sizes, eos_token_id=None))
    set_ends(fresh, tokenizer)
    assert fresh.generation_config.eos_token_id == fresh.config.eos_token_id == tokenizer.eos_token_id


def test_a_base_student_of_a_chat_model_is_refused_with_the_setting_that_gives_it_the_end(chat_tokenizer: Any) -> None:
    data, own = chat_tokenizer(), chat_tokenizer()
    own.eos_token = "<|endoftext|>"
    with pytest.raises(UserError, match=r"eos_token is .*<\|im_end\|>.* here") as refused:
        check_same(data, own, "model.student")
    assert (
        refused.value.hint == f"to train it to end as the data does, set model.student.tokenizer: {data.name_or_path}"
    )
