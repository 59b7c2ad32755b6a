"""The neutral recipes take data that they have not seen, with no more said than where it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config.files import load, recipes

Distill = Callable[..., Any]

TASKS = ("text-classification", "token-classification", "causal-lm")
STEPS = ("teacher", "alone", "distill", "compress")


@pytest.fixture(scope="module")
def given(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: str, teacher_dir: str, text_folder: str
) -> dict[str, dict[str, str]]:
    """Task -> a small model for it, and files of rows."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("given")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    shared = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shared |= {"intermediate_size": 32, "max_position_embeddings": 512, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    tags = {"id2label": {0: "O", 1: "X"}, "label2id": {"O": 0, "X": 1}}
    tagger = AutoModelForTokenClassification.from_config(AutoConfig.for_model("bert", **shared, **tags))
    decoder = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shared, eos_token_id=3, bos_token_id=2))
    for name, model in (("tagger", tagger), ("decoder", decoder)):
        model.save_pretrained(folder / name)
        tokenizer.model_max_length = 512
        tokenizer.eos_token, tokenizer.bos_token = "[SEP]", "[CLS]"
        tokenizer.save_pretrained(folder / name)
    words = [{"tokens": ["a", "good", "film"], "tags": ["O", "X", "O"]}, {"tokens": ["dull"], "tags": ["X"]}] * 20
    (folder / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))
    (folder / "text.txt").write_text("a good film without any heart\n\nit is dull and bright\n\n" * 600)
    rows = {use: str(Path(text_folder, f"{use}.jsonl")) for use in ("train", "validation")}
    return {
        "text-classification": {"model": teacher_dir, **rows},
        "token-classification": {"model": str(folder / "tagger"), **dict.fromkeys(rows, str(folder / "tags.jsonl"))},
        "causal-lm": {"model": str(folder / "decoder"), **dict.fromkeys(rows, str(folder / "text.txt"))},
    }


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_needs_nothing_but_data_and_models(
    task: str, step: str, given: dict[str, dict[str, str]], distill: Distill, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    one = given[task]
    Path("my.yaml").write_text(
        yaml.safe_dump({"data": {"files": {use: one[use] for use in ("train", "validation")}, "max_length": 128}})
    )
    recipe = load([f"{task}/{step}"])
    models = ["--model.student.path", one["model"]] if recipe["model"]["student"].get("path") else []
    models += ["--model.teacher", one["model"]] if recipe["model"].get("teacher") else []
    argv = ["fit", "-c", f"{task}/{step}", "-c", "my.yaml", *models, "--trainer.accelerator", "cpu", "--dry-run"]
    code, out, err = distill(*argv)
    assert code == 0, err
    assert "seldom enough" not in out  # steps for what it prunes and quantizes
    assert f"runs/{step}/" in out


def test_a_language_model_is_pruned_and_rounded_to_int4_in_one_run(
    given: dict[str, dict[str, str]], distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = given["causal-lm"]
    Path("my.yaml").write_text(yaml.safe_dump({"data": {"files": {"train": one["train"]}, "validation_fraction": 0.2}}))
    models = ["--model.student.path", one["model"], "--model.teacher", one["model"], "--trainer.accelerator", "cpu"]
    # Its matrices are 16 wide.
    callbacks = load(["causal-lm/prune-int4"])["callbacks"]
    group = next(i for i, callback in enumerate(callbacks) if "weights" in callback["init_args"])
    small = ["--data.pack_length", "32", f"--callbacks.{group}.weights.group_size", "8"]
    code, out, err = distill("fit", "-c", "causal-lm/prune-int4", "-c", "my.yaml", *models, *small, "--dry-run")
    assert code == 0, err
    assert "seldom enough" not in out
    assert [callback["class_path"].rpartition(".")[2] for callback in callbacks] == [
        "GradualMagnitudePruning",
        "QuantizationAwareTraining",
    ]


def test_there_is_a_recipe_of_each_kind_for_each_task() -> None:
    assert {f"{task}/{step}" for task in TASKS for step in STEPS} <= set(recipes())


@pytest.mark.parametrize("name", ["chat", "on-policy"])
def test_the_recipes_for_chats_need_nothing_but_chats_and_models(
    name: str, chat_dir: Path, distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"x = {row}", "completion": f"return {row}"} for row in range(40)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("my.yaml").write_text(
        yaml.safe_dump({"data": {"files": {"train": "pairs.jsonl"}, "validation_fraction": 0.2}})
    )
    models = ["--model.teacher", str(chat_dir), "--model.student.path", str(chat_dir)]
    code, out, err = distill("fit", "-c", f"causal-lm/{name}", "-c", "my.yaml", *models, "--dry-run")
    assert code == 0, err
    assert ("50 % of the batches are written by the student" in out) is (name == "on-policy")
    assert ("ms a step whose batch the student writes" in out) is (name == "on-policy")
    assert "prompts and completions through the tokenizer's chat template; completions count" in out


def test_the_recipe_for_an_adapter_takes_a_larger_teacher_or_the_models_own_base(
    chat_dir: Path, distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"x = {row}", "completion": f"return {row}"} for row in range(40)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("my.yaml").write_text(
        yaml.safe_dump({"data": {"files": {"train": "pairs.jsonl"}, "validation_fraction": 0.2}})
    )
    shutil.copytree(chat_dir, "larger")
    for more in (
        ["--model.teacher", "larger"],
        ["--model.teacher", str(chat_dir), "--data.teacher_system", "Be brief."],
    ):
        models = [*more, "--model.student.path", str(chat_dir)]
        code, out, err = distill("fit", "-c", "causal-lm/lora", "-c", "my.yaml", *models, "--dry-run")
        assert code == 0, err
        assert ("teacher: the student without its adapter" in out) is (len(more) > 2)
        assert "trained), " in out


def test_a_recipe_reads_what_the_one_beside_it_records(
    given: dict[str, dict[str, str]], distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = given["causal-lm"]
    Path("my.yaml").write_text(yaml.safe_dump({"data": {"files": {"train": one["train"]}, "validation_fraction": 0.2}}))
    more = ["-c", "my.yaml", "--model.student.path", one["model"], "--trainer.accelerator", "cpu"]
    to = ["--to", "recorded/teacher", "--as", "hidden", "--dtype", "int8", "--model.teacher", one["model"]]
    code, _, err = distill("record", "-c", "causal-lm/distill", *more, *to)
    assert code == 0, err
    code, out, err = distill("fit", "-c", "causal-lm/recorded", *more, "--dry-run")
    assert code == 0, err
    assert "recorded in recorded/teacher: hidden int8" in out


@pytest.mark.parametrize("task", TASKS)
def test_what_is_compared_differs_in_nothing_but_its_losses(task: str) -> None:
    alone, distilled = (load([f"{task}/{step}"]) for step in ("alone", "distill"))
    for config in (alone, distilled):
        del config["name"], config["model"]["losses"]
    assert alone == distilled
