"""The card beside a model tells the truth of it, names no place on this machine, and its lines of Python run."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)

from distill.config.files import given_names
from distill.core.record import note
from distill.data.task_file import TaskFile
from distill.export.base import ExportTarget
from distill.export.hf import by_from_pretrained
from distill.export.script import SCRIPT, write_script
from distill.export.targets import TARGETS
from distill.run.folder import Run
from distill.workflows.card import card
from distill.workflows.how_to_load import form_of, how_to_load, reading_of

FOLDERS = ("student", "exports/hf", "exports/onnx-int8")


def head_of(text: str) -> dict[str, Any]:
    """The YAML at the top, as the hub reads it."""
    _, head, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_its_lines_of_python_run_in_the_folder(
    place: tuple[Path, Path], folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (place[0] / folder / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(place[0] / folder)
    monkeypatch.setattr("sys.argv", ["predict.py"])
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "negative" in printed or "positive" in printed or "array" in printed


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_has_the_scores_of_the_result_and_no_place_of_this_machine(place: tuple[Path, Path], folder: str) -> None:
    run, data = place
    text = (run / folder / "README.md").read_text()
    scores = json.loads((run / "result.json").read_text())["scores"]
    for who, name in (("guess", "constant guess"), ("student", "this model")):
        cells = " | ".join(f"{value:.4g}" for value in scores[who].values())
        assert f"| {name} | {cells} |" in text
    assert str(run.parents[2]) not in text
    assert str(data.parent) not in text
    assert "compressed: int8" in text
    assert "\n- recipe: run.yaml\n" in text
    assert "2 classes (negative, positive)" in text


def test_an_export_is_said_to_be_what_it_is() -> None:
    class Own(ExportTarget):
        name = "my-format"

        def write(self, student: Any, folder: Path, example: Any) -> dict[str, Any]:
            return {}

        def open(self, folder: Path) -> Any:
            raise NotImplementedError

    reading = TaskFile("text-classification", 32, {"text": "a"})
    said = {
        "hf": ("hf", "pipeline("),
        "onnx": ("onnx", "onnxruntime"),
        "onnx-int8": ("onnx", "onnxruntime"),
        "tensorrt": ("onnx", "onnxruntime"),
        "onnx-fp16": ("onnx", "onnxruntime"),
        "triton": ("onnx", "tritonserver --model-repository"),
        "onnx-genai": ("onnx-genai", "import onnxruntime_genai"),
        "compressed-tensors": ("compressed-tensors", "`compressed-tensors`"),
        "gguf": ("gguf", 'gguf_file="model.gguf"'),
        "torch-export": ("torch-export", 'torch.export.load(folder / "model.pt2")'),
        "openvino": ("openvino", 'compile_model(folder / "model.xml", "CPU")'),
    }
    assert said.keys() == TARGETS.keys()
    for name, (form, words) in said.items():
        assert form_of(TARGETS[name]()) == form
        text = how_to_load(small(), reading, form, TARGETS[name]())
        assert words in text
        assert ("import onnxruntime\n" in text) is (form == "onnx" and name != "triton")
        head = head_of(card(CONFIG, {}, small(), None, {"to": name}, TARGETS[name]()))
        assert form in head["tags"]
        assert head.get("library_name") == ("transformers" if form in ("hf", "compressed-tensors") else None)
    assert how_to_load(small(), reading, form_of(Own()), Own()) == "It is in the format `my-format`."
    assert form_of(None) == "student"


def test_integers_that_a_student_stores_are_not_those_of_its_export() -> None:
    student, reading = small(), TaskFile("text-classification", 32, {"text": "a"})
    note(student, {"kind": "quantize", "store": "integers", "layers": {}})
    assert "distill.load" in how_to_load(student, reading, "student")
    for form in ("hf", "compressed-tensors"):
        assert "pipeline(" in how_to_load(student, reading, form, TARGETS[form]())


def test_its_head_lists_the_scores_as_the_hub_does() -> None:
    result = {"scores": {"student": {"accuracy": 0.91, "mean_error": 1.0}, "teacher": {"accuracy": 0.95}}}
    [model] = head_of(card(CONFIG, result, small(), None))["model-index"]
    assert model["name"] == "mine"
    assert model["results"] == [
        {
            "dataset": {"name": "glue", "type": "glue", "split": "validation"},
            "metrics": [{"type": "accuracy", "value": 0.91}],
        }
    ]
    local = {**CONFIG, "data": {"init_args": {"path": "/a/folder"}}}
    [model] = head_of(card(local, result, small(), None))["model-index"]
    assert model["results"][0]["dataset"] == {"name": "data of its own", "type": "local", "split": "validation"}
    assert "model-index" not in head_of(card(CONFIG, {}, small(), None))


def test_its_head_is_what_the_hub_reads(place: tuple[Path, Path]) -> None:
    head = head_of((place[0] / "student" / "README.md").read_text())
    assert head["license"] == "unknown"
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "text-classification"
    assert head["metrics"][:3] == ["accuracy", "f1", "matthews_correlation"]
    assert head["tags"] == ["lightning-distill", "quantization"]
    assert "onnx" in head_of((place[0] / "exports/onnx-int8/README.md").read_text())["tags"]


def test_the_student_of_a_run_is_opened_by_the_pipeline(
    place: tuple[Path, Path], distill: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "row.txt").write_text("a good film\n")
    _, out, _ = distill("predict", str(place[0]), str(tmp_path / "row.txt"), "--jsonl")
    [theirs] = pipeline("text-classification", str(place[0] / "student"))("a good film")
    assert theirs["label"] == json.loads(out)["label"]
    assert theirs["score"] == pytest.approx(json.loads(out)["score"], abs=1e-4)


def small() -> torch.nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=11, **sizes))


CONFIG: dict[str, Any] = {
    "name": "mine",
    "model": {"teacher": {"path": "org/large"}, "student": {"layers": "uniform"}, "losses": ["HintonKL"]},
    "data": {"init_args": {"path": "glue", "name": "sst2"}},
}


def test_models_and_data_of_the_hub_are_named() -> None:
    head = head_of(card(CONFIG, {}, small(), None))
    assert head["base_model"] == "org/large"
    assert head["datasets"] == ["glue"]
    own = {**CONFIG, "model": CONFIG["model"] | {"student": {"path": "org/small"}}}
    assert head_of(card(own, {}, small(), None))["base_model"] == "org/small"


def test_local_models_and_secrets_are_not_named(tmp_path: Path) -> None:
    local = {"teacher": {"path": str(tmp_path)}, "student": {"path": str(tmp_path / "none")}}
    config = {**CONFIG, "model": local, "data": {"init_args": {"path": str(tmp_path), "token": "hf_" + "a1" * 17}}}
    text = card(config, {}, small(), None)
    assert str(tmp_path) not in text
    assert "hf_" not in text
    assert "base_model" not in head_of(text)


@pytest.mark.slow
def test_a_card_says_which_recipe_made_it_after_a_resume_and_a_compression_too(
    base: dict[str, Any], distill: Callable[..., Any]
) -> None:
    assert distill("fit", "-c", "base.yaml", "--seed", "1", "--id", "one").code == 0
    assert distill("resume", "runs/base/one", "--max-steps", "4").code == 0
    done = distill("quantize", "runs/base/one", "--bits", "8", "--id", "small")
    assert done.code == 0, done.err
    said = "recipe: base.yaml, 1 more key"
    assert f"\n- {said}\n" in Path("runs/base/one/student/README.md").read_text()
    assert f"\n- {said}, then distill quantize\n" in next(Path("runs").glob("*/small/student/README.md")).read_text()


def test_a_run_killed_when_its_folder_was_made_knows_its_recipe(
    base: dict[str, Any], distill: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit(-9)

    monkeypatch.setattr(Run, "locked", killed)
    with pytest.raises(SystemExit):
        distill("fit", "-c", "base.yaml", "--seed", "1", "--id", "one")
    assert json.loads(Path("runs/base/one/plan.json").read_text())["recipe"] == "base.yaml, 1 more key"


def test_a_recipe_is_named_without_its_place(tmp_path: Path) -> None:
    run = tmp_path / "here" / "mine" / "one"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "own.yaml").write_text("seed: 2\n")
    files = ["text-classification/distill", str(tmp_path / "own.yaml"), str(run)]
    named = "text-classification/distill, own.yaml, the run mine"
    assert given_names(files) == named
    assert given_names(files, [("seed", "1"), ("name", "b")]) == f"{named}, 2 more keys"
    assert given_names([], [("model.student", "x")]) == "1 key"


def test_a_student_that_transformers_cannot_open_is_not_said_to_be_one_of_its() -> None:
    student = small()
    note(student, {"kind": "remove", "heads": {}})
    head = head_of(card(CONFIG, {}, student, None))
    assert head["library_name"] == "lightning-distill"
    assert "pruning" in head["tags"]


KINDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "text-classification": (AutoModelForSequenceClassification, {"num_labels": 1}, "score"),
    "multi-label-classification": (
        AutoModelForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        "LABEL_",
    ),
    "token-classification": (AutoModelForTokenClassification, {"num_labels": 3}, "LABEL_"),
    "masked-lm": (AutoModelForMaskedLM, {}, "token_str"),
    "causal-lm": (AutoModelForCausalLM, {"is_decoder": True}, "generated_text"),
}


@pytest.mark.parametrize("task", [*KINDS, "pairs"])
def test_the_script_of_an_export_runs_for_every_task(
    task: str,
    saved: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair, task = task == "pairs", "text-classification" if task == "pairs" else task
    auto_model, settings, _ = KINDS[task]
    folder = saved(auto_model, **settings)
    model = auto_model.from_pretrained(folder)
    columns = {"text": "a", **({"text_pair": "b"} if pair else {})}
    given = {"threshold": 0.4} if task == "multi-label-classification" else {}
    reading = reading_of(TaskFile(task, 16, columns, given))
    write_script(folder, by_from_pretrained(model), reading, {})
    texts = ["a good film", "dull"] if task != "masked-lm" else ["a [MASK] film", "dull [MASK]"]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *texts])
    runpy.run_path(str(folder / SCRIPT))
    [first, *more] = capsys.readouterr().out.splitlines()
    assert len(more) == (0 if pair else 1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer(*texts, return_tensors="pt") if pair else tokenizer(texts[0], return_tensors="pt")
    with torch.no_grad():
        [logits] = model(**given).logits
    if task == "multi-label-classification":
        assert [f"LABEL_{i}" in first for i in range(3)] == (logits.sigmoid() > 0.4).tolist()
    elif task == "text-classification":
        assert json.loads(first.split(" ", 1)[1].split("]")[0] + "]") == pytest.approx(logits.tolist(), abs=1e-5)
    elif task == "token-classification":
        assert first.count("LABEL_") == len(logits)
    elif task == "masked-lm":
        [place] = (given["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0].tolist()
        assert first.startswith(str(tokenizer.convert_ids_to_tokens([int(logits[place].argmax())])))


@pytest.mark.parametrize("taken_apart", [False, True])
@pytest.mark.parametrize("task", KINDS)
def test_its_lines_run_for_every_task(
    task: str,
    taken_apart: bool,
    saved: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    auto_model, settings, told = KINDS[task]
    folder = saved(auto_model, **settings)
    model = auto_model.from_pretrained(folder)
    if taken_apart:  # as far as the card is told
        note(model, {"kind": "share", "groups": []})
    pair = {"text_pair": "b"} if task == "text-classification" else {}
    reading = TaskFile(task, 32, {"text": "a", **pair})
    [code] = re.findall(r"```python\n(.*?)```", how_to_load(model, reading, "student"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 7
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    assert ("tensor" if taken_apart else told) in capsys.readouterr().out


def test_the_script_of_an_export_runs_without_this_package(place: tuple[Path, Path]) -> None:
    folder = place[0] / "exports/onnx-int8"
    without = "import runpy, sys; sys.modules['distill'] = sys.modules['torch'] = None; del sys.argv[0]; "
    without += "runpy.run_path(sys.argv[0])"
    texts = ["a good film", "a bad film"]
    done = subprocess.run(
        [sys.executable, "-c", without, str(folder / SCRIPT), *texts], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["positive", "negative"]
