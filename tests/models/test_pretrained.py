"""What loading by name says where the hub gives nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from distill.core.utils.errors import UserError
from distill.models.pretrained import load_model, load_tokenizer


def unreachable(*_: Any, **__: Any) -> Any:
    raise OSError("We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them cached.")


def model(path: str, key: str) -> Any:
    return load_model(path, AutoModelForSequenceClassification, key, head={})


@pytest.mark.parametrize("load", [model, load_tokenizer])
def test_without_the_hub_the_message_names_the_model_and_the_way_round_it(
    load: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for auto in (AutoConfig, AutoModelForSequenceClassification, AutoTokenizer):
        monkeypatch.setattr(auto, "from_pretrained", unreachable)
    with pytest.raises(UserError) as caught:
        load("some/model", "model.teacher.path")
    said = str(caught.value)
    assert said.startswith("model.teacher.path = 'some/model': there is no such folder, and the hub did not give a mod")
    assert "give a local folder" in said
    assert "tokenizer" not in said
