"""A student that computes activations once more in the backward pass is trained to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers.models.bert.modeling_bert import BertSelfOutput

from distill.core.utils.errors import UserError
from distill.models.students import StudentConfig, build_student
from distill.tasks import make_task


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


REMOVE = spec("StructuredPruning", heads=0.5, neurons=0.5, criterion="taylor", begin=0.1, end=0.6)
QUANTIZE = spec("QuantizationAwareTraining", observe=0.1, begin=0.4, freeze_observers=0.8)


@pytest.mark.slow
def test_what_watches_a_pass_sees_it_once(
    base: dict[str, Any], fitted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates whose gradients Taylor takes, ranges of inputs, hidden states that a hint reads; and dropout."""
    base["callbacks"] = [REMOVE, QUANTIZE]
    base["model"]["losses"].append(spec("FitNetHint", regressor="always"))
    base["trainer"]["max_steps"] = 6
    Path("base.yaml").write_text(yaml.safe_dump(base))
    passes, forward = [], BertSelfOutput.forward
    monkeypatch.setattr(BertSelfOutput, "forward", lambda *args: passes.append(args[0].training) or forward(*args))
    again = fitted("--model.student.gradient_checkpointing", "true", run_id="again")
    count = sum(passes)
    passes.clear()
    kept = fitted(run_id="kept")
    assert count == sum(passes) + 6 * 2  # steps, layers
    one, other = (load_file(run / "student/model.safetensors") for run in (again, kept))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert (again / "student/config.json").read_text() == (kept / "student/config.json").read_text()


def test_layers_that_cannot_are_refused() -> None:
    sizes = {"model_type": "xlnet", "vocab_size": 11, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
    config = StudentConfig(config=sizes, gradient_checkpointing=True)
    with pytest.raises(UserError, match="the layers of XLNetForSequenceClassification cannot compute") as raised:
        build_student(config, make_task("text-classification"))
    assert raised.value.key == "model.student.gradient_checkpointing"
