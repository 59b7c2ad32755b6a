"""A run that trains an adapter: its own base teaches it, and the plain model with the adapter merged is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from distill.config.files import load
from distill.core.internals.peft import adapter_layers
from distill.run.checkpoints.file import read
from distill.workflows.job.build import build

Distill = Callable[..., Any]


@pytest.fixture
def recipe_file(chat_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A chat model is taught into its own adapter what it says when it is told more."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"x = {n}", "completion": f"return {n * 37}"} for n in range(16)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "lora",
        "model": {
            "task": "causal-lm",
            "teacher": str(chat_dir),
            "student": {"path": str(chat_dir), "lora": {"r": 4, "target_modules": ["q_proj", "up_proj", "lm_head"]}},
            "losses": [{"class_path": "HintonKL"}],
            "optimizer": {"lr": 3e-2},
        },
        "data": {
            "files": {"train": "pairs.jsonl", "validation": "pairs.jsonl"},
            "teacher_system": "Answer as a pirate.",
            "batch_size": 2,
            "pack_length": 128,
        },
        "trainer": {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False},
    }
    Path("lora.yaml").write_text(yaml.safe_dump(config))
    return "lora.yaml"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(40).view(2, 20) * 13 % 2000).logits  # type: ignore[no-any-return]


def test_what_is_saved_is_the_base_with_the_adapter_merged_and_the_adapter_beside_it(
    recipe_file: str, chat_dir: Path, distill: Distill
) -> None:
    shown = distill("fit", "-c", recipe_file, "--dry-run")
    assert shown.code == 0, shown.err
    assert "teacher: the student without its adapter, in the same memory" in shown.out
    assert shown.out.count("LlamaForCausalLM") == 1
    done = distill("fit", "-c", recipe_file, "--id", "one")
    assert done.code == 0, done.err
    student = Path("runs/lora/one/student")
    base: Any = AutoModelForCausalLM.from_pretrained(chat_dir)
    merged: Any = AutoModelForCausalLM.from_pretrained(student)
    beside: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(chat_dir), str(student / "adapter"))
    assert (logits(merged) - logits(base)).abs().max() > 1e-3
    torch.testing.assert_close(logits(merged), logits(beside), rtol=1e-5, atol=1e-5)
    names = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, base.state_dict()[name])}
    assert {name.split(".")[-2] for name in names} == {"q_proj", "up_proj", "lm_head"}
    settings = json.loads((student / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(chat_dir)
    assert settings["target_modules"] == ["lm_head", "q_proj", "up_proj"]
    assert json.loads((student / "task.json").read_text())["task"] == "causal-lm"

    result = json.loads(Path("runs/lora/one/result.json").read_text())
    assert result["parameters"]["teacher"] == result["parameters"]["student"] == base.num_parameters()
    judged = distill("validate", "runs/lora/one")
    assert judged.code == 0, judged.err
    again = distill("fit", "-c", recipe_file, "--id", "two", "--model.teacher", f"{chat_dir}/.")
    assert again.code == 0, again.err
    for name in ("scores", "parameters"):
        assert json.loads(Path("runs/lora/two/result.json").read_text())[name] == result[name]
    one, two = (Path("runs/lora", run, "completions.jsonl").read_text() for run in ("one", "two"))
    assert one == two


def test_one_copy_of_the_weights_trains_as_two_do(recipe_file: str, chat_dir: Path) -> None:
    config = load([recipe_file])
    shared = build(config).module
    config["model"]["teacher"] = {"path": str(chat_dir), "dtype": "bfloat16"}
    assert not build(config).module.own_base
    config["model"]["teacher"] = {"path": str(chat_dir), "attn_implementation": "sdpa"}
    apart = build(config).module
    assert shared.teacher is not None
    assert apart.teacher is not None
    assert shared.teacher.models[0] is shared.student
    assert apart.teacher.models[0] is not apart.student
    assert shared.teacher.fingerprint == apart.teacher.fingerprint
    assert sum(p.numel() for p in apart.teacher.models[0].parameters()) < sum(
        p.numel() for p in shared.student.parameters()
    )


def test_a_checkpoint_holds_the_adapter_and_an_optimizer_of_nothing_else(recipe_file: str, distill: Distill) -> None:
    assert distill("fit", "-c", recipe_file, "--id", "one").code == 0
    [newest] = Path("runs/lora/one/checkpoints").glob("last-*.ckpt")
    moments = read(newest)["optimizer_states"][0]["state"]
    assert len(moments) == 2 * (2 + 2 + 1)  # A and B of two layers' queries and ups, and of the head


def test_with_the_teacher_alone_that_reads_the_same_there_is_nothing_to_learn(
    recipe_file: str, distill: Distill
) -> None:
    plain = "--data.teacher_system", "null"
    code, _, err = distill("fit", "-c", recipe_file, *plain)
    assert code == 2
    assert "model.teacher: is the student's own base and reads the same" in err
    assert not Path("runs").exists()
    assert (
        distill("fit", "-c", recipe_file, *plain, "--model.losses", "[HintonKL, CrossEntropy]", "--dry-run").code == 0
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--callbacks", "[GradualMagnitudePruning]"], "compresses weights that model.student.lora has frozen"),
        (["--callbacks", "[QuantizationAwareTraining]"], "train the adapter first, then compress"),
        (["--callbacks", "[{class_path: LowRank, init_args: {rank: 4}}]"], "callbacks = 'LowRank'"),
        (["--model.losses", "[HintonKL, L1]"], "model.losses.1 = 'L1': reads weights that model.student.lora"),
        (["--model.on_policy", "{max_new_tokens: 4}"], "data.teacher_system = 'Answer as a pirate.': is told the"),
        (["--trainer.strategy", "sharded"], "model.student.lora: is not for trainer.strategy: sharded"),
        (["--model.student.lora.r", "0"], "model.student.lora.r = 0: must be 1 or more"),
        (["--model.student.lora.rank", "4"], "model.student.lora.rank"),
        (["--model.student.lora.target_modules", "[c_attn]"], "its linear maps are called down_proj, gate_proj"),
    ],
)
def test_what_does_not_go_with_an_adapter_is_refused(
    more: list[str], said: str, recipe_file: str, distill: Distill
) -> None:
    code, _, err = distill("fit", "-c", recipe_file, *more)
    assert code == 2, err
    assert said in err
    assert not Path("runs").exists()


def test_some_layers_of_a_teacher_are_healed_by_an_adapter(recipe_file: str, chat_dir: Path, distill: Distill) -> None:
    part = "--model.student.layers", "uniform", "--model.student.num_layers", "1"
    code, _, err = distill("fit", "-c", recipe_file, "--id", "one", *part, "--model.student.save_dtype", "bfloat16")
    assert code == 0, err
    student = Path("runs/lora/one/student")
    assert not (student / "adapter").exists()  # there is no model that it would fit
    merged: Any = AutoModelForCausalLM.from_pretrained(student)
    assert merged.config.num_hidden_layers == 1
    assert adapter_layers(merged) == []
    assert next(merged.parameters()).dtype == torch.bfloat16
