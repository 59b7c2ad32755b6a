"""A model's files that nothing can be made of are one message, which names the entry or the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSequenceClassification,
    BertConfig,
    CLIPTextConfig,
    DebertaConfig,
    PreTrainedTokenizerFast,
    ReformerConfig,
)

from distill.core.utils.errors import UserError
from distill.models.broken_files import culprit, taken_in_silence
from distill.models.compatibility import label_names
from distill.models.pretrained import load_model, load_tokenizer

_SIZES = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that can be loaded."""
    folder = tmp_path_factory.mktemp("models") / "sound"
    AutoModelForSequenceClassification.from_config(BertConfig(**_SIZES)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.fixture
def broken(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "broken"))


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def opened(folder: Path) -> Any:
    return load_model(str(folder), AutoModelForSequenceClassification, "model.teacher.path", head={})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("hidden_act", "geluu", "hidden_act is 'geluu', which is no activation .* did you mean 'gelu'"),
        ("num_attention_heads", 3, "num_attention_heads is 3, which does not divide hidden_size, 8"),
        ("hidden_dropout_prob", 1.5, "hidden_dropout_prob is 1.5, and must lie between 0 and 1"),
        ("attention_probs_dropout_prob", -1, "attention_probs_dropout_prob is -1, and must lie"),
        ("intermediate_size", -3, "intermediate_size is -3, and must be at least 1"),
        ("pad_token_id", 12, "pad_token_id is 12, and the vocabulary has the ids up to 11"),
        ("dtype", "float23", "dtype is 'float23'"),
        ("id2label", ["no", "yes"], "id2label is .*must be a mapping of numbers to names"),
        ("layer_norm_eps", "1e-12", "layer_norm_eps"),
        ("num_hidden_layers", 1, "weights have layers that config.json does not: bert.encoder.layer.1."),
        ("attn_implementation", "flesh", "attn_implementation is 'flesh'"),
    ],
)
def test_an_entry_that_cannot_be_is_named_with_its_value(name: str, value: Any, said: str, broken: Path) -> None:
    opened(broken)
    change(broken / "config.json", **{name: value})
    with pytest.raises(UserError, match=said) as raised:
        opened(broken)
    assert "check the path" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("layer_norm_eps", -1e-12, "layer_norm_eps is -1e-12, and must be a number above 0"),
        ("layer_norm_eps", 0, "layer_norm_eps is 0, and must be"),
        ("layer_norm_eps", float("nan"), "layer_norm_eps is nan, and must be"),
        ("layer_norm_eps", float("inf"), "layer_norm_eps is inf, and must be"),
        ("layer_norm_eps", True, "layer_norm_eps is True, and must be"),
        ("layer_norm_eps", [1e-12], r"layer_norm_eps is \[1e-12\]"),
        ("hidden_dropout_prob", 2, "hidden_dropout_prob is 2, and must lie between 0 and 1"),
        ("attention_probs_dropout_prob", float("nan"), "attention_probs_dropout_prob is nan, and must lie"),
        ("classifier_dropout", -0.1, "classifier_dropout is -0.1, and must lie"),
        ("initializer_range", "0.02", "initializer_range is '0.02', a text"),
        ("hidden_size", 0, "hidden_size must be at least 1 and is 0"),
        ("vocab_size", -12, "vocab_size must be at least 1 and is -12"),
        ("dtype", 32, "dtype is 32, and must be a type of floating-point numbers"),
        ("dtype", "int8", "dtype is 'int8', and must be"),
        ("torch_dtype", "bool", "dtype is 'bool', and must be"),
        ("dtype", "nn", "dtype is 'nn'"),
    ],
)
def test_an_entry_that_transformers_takes_in_silence_is_refused(name: str, value: Any, said: str, broken: Path) -> None:
    change(broken / "config.json", **{name: value})
    with pytest.raises(UserError, match=said) as raised:
        opened(broken)
    assert raised.value.key == "model.teacher.path"


@pytest.mark.parametrize("name", ["float32", "torch.bfloat16", "float16", None, "auto"])
def test_a_type_of_floating_point_numbers_is_taken(name: str | None, broken: Path) -> None:
    change(broken / "config.json", dtype=name)
    assert taken_in_silence(json.loads((broken / "config.json").read_text())) is None


def test_no_configuration_that_transformers_has_is_refused() -> None:
    def found(kind: str) -> str | None:
        made = CONFIG_MAPPING[kind]().to_dict()
        return (one := taken_in_silence(made)) and f"{kind}: {one}"

    kinds = ("bert", "llama", "t5", "mamba2", "prophetnet", "deberta-v2", "whisper", "clip", "openai-gpt", "gemma2")
    assert not [one for kind in kinds if (one := found(kind))]


@pytest.mark.parametrize("held", ["", "{", "[1]", "{}"])
def test_a_generation_config_that_cannot_be_read_is_named(held: str, broken: Path) -> None:
    (broken / "generation_config.json").write_text('{"eos_token_id": 2}')
    opened(broken)
    (broken / "generation_config.json").write_text(held)
    with pytest.raises(UserError, match=r"its generation_config\.json is (no JSON|no mapping|empty)") as raised:
        opened(broken)
    assert "or remove it" in str(raised.value)


def test_an_entry_of_an_inner_configuration_is_named_by_its_way() -> None:
    config = {"model_type": "clip", "text_config": {"model_type": "clip_text_model", "hidden_act": "quick"}}
    assert (
        str(culprit(config, "'quick'")) == "text_config.hidden_act is 'quick', which is no activation of transformers"
    )
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}
    assert str(culprit(rope, "unsupported operand")).startswith("rope_parameters.rope_theta is 'x', a text")


@pytest.mark.parametrize("sound_one", [BertConfig(), CLIPTextConfig(), DebertaConfig(), ReformerConfig()])
def test_what_is_sound_is_not_blamed_for_a_failure_of_another_kind(sound_one: Any) -> None:
    assert culprit(sound_one.to_dict(), f"the model type '{sound_one.model_type}' is out of memory") is None


def test_weights_of_other_heads_and_old_buffers_are_no_layers_beyond(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    other = {"cls.predictions.bias": weights["classifier.bias"].clone()}
    other |= {"bert.encoder.layer.0.attention.masked_bias": weights["classifier.bias"].clone()}
    save_file(weights | other, broken / "model.safetensors", {"format": "pt"})
    assert opened(broken).config.num_hidden_layers == 2


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def _list(file: Path) -> None:
    file.write_text('["a"]')


@pytest.mark.parametrize("spoil", [_cut, _list])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizers_file_that_is_no_json_is_named(name: str, spoil: Callable[[Path], None], broken: Path) -> None:
    load_tokenizer(str(broken), "data.tokenizer")
    spoil(broken / name)
    with pytest.raises(UserError, match=rf"its {name} is no (JSON|mapping)"):
        load_tokenizer(str(broken), "data.tokenizer")


def test_a_length_that_is_no_number_is_refused_with_the_tokenizer(broken: Path) -> None:
    change(broken / "tokenizer_config.json", model_max_length="long")
    with pytest.raises(UserError, match=r"model_max_length is 'long', and must be a number"):
        load_tokenizer(str(broken), "data.tokenizer")


def test_an_index_that_is_no_json_is_named(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "model-00001-of-00002.safetensors")
    (broken / "model.safetensors.index.json").write_text("{")
    with pytest.raises(UserError, match=r"its model\.safetensors\.index\.json is no JSON"):
        opened(broken)


def test_names_of_classes_with_a_gap_are_refused_where_their_order_counts(broken: Path) -> None:
    change(broken / "config.json", id2label={"0": "no", "2": "yes"})
    with pytest.raises(UserError, match=r"id2label = .*not from 0 on without a gap: 0, 2"):
        label_names(opened(broken))
