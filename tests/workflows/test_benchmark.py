"""Language models on lm_eval's tasks: scores against a plain loop, side by side, and no code of a stranger's file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

Distill = Callable[..., Any]
CAPITALS = ("Paris", "Rome", "Madrid", "Tokyo", "Cairo", "Lima", "Havana", "Nairobi")
CHOICES: dict[str, Any] = {
    "task": "capitals",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "capitals.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "The capital of {{country}} is",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.5},
}
LIKELY = CHOICES | {
    "task": "likely",
    "output_type": "loglikelihood",
    "doc_to_target": " {{choices[answer]}}",
    "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
}
del LIKELY["doc_to_choice"]


def row(number: int) -> dict[str, Any]:
    choices = [CAPITALS[(number + k) % 8] for k in range(3)]
    return {"country": f"country {number}" * (1 + number % 3), "choices": choices, "answer": number % 3}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with eight questions and the two tasks that ask them."""
    monkeypatch.chdir(tmp_path)
    Path("capitals.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(8)))
    Path("tasks").mkdir()
    for task in (CHOICES, LIKELY):
        Path("tasks", f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return tmp_path


def likelihoods(model: Any, tokenizer: Any, before: Callable[[str], str]) -> list[list[float]]:
    """log p of each answer to each question, a text at a time."""
    found = []
    for number in range(8):
        question = before(f"The capital of {row(number)['country']} is")
        begun, sums = len(tokenizer(question.rstrip())["input_ids"]), []  # white space is of the answer, to lm_eval
        for choice in row(number)["choices"]:
            ids = torch.tensor([tokenizer(f"{question} {choice}")["input_ids"]])
            with torch.no_grad():
                scores = model(ids).logits[0, :-1].log_softmax(-1)
            sums.append(float(scores.gather(1, ids[0, 1:, None])[begun - 1 :].sum()))
        found.append(sums)
    return found


def check(scores: Any, who: str, expected: list[list[float]]) -> None:
    right = [sums.index(max(sums)) == row(number)["answer"] for number, sums in enumerate(expected)]
    mean = sum(right) / 8
    assert scores["capitals"]["acc"][who]["value"] == mean
    assert scores["capitals"]["acc"][who]["standard_error"] == pytest.approx(math.sqrt(mean * (1 - mean) / 7))
    answers = [sums[row(number)["answer"]] for number, sums in enumerate(expected)]
    assert scores["likely"]["perplexity"][who]["value"] == pytest.approx(math.exp(-sum(answers) / 8), rel=1e-4)


@pytest.mark.parametrize("option", ["", "--start-token", "--chat-template"])
def test_accuracy_and_likelihoods_are_those_of_a_plain_loop(
    option: str, here: Path, chat_dir: Path, distill: Distill, chat_tokenizer: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM

    done = distill("evaluate", str(chat_dir), "--tasks", "tasks", "--to", "out.json", *filter(None, [option]))
    assert done.code == 0, done.err
    tokenizer, model = chat_tokenizer(), AutoModelForCausalLM.from_pretrained(chat_dir)

    def begun(question: str) -> str:
        if option == "--chat-template":
            asked = [{"role": "user", "content": question}]
            return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
        return tokenizer.bos_token + question if option else question

    outcome = json.loads(Path("out.json").read_text())
    if option != "--chat-template":  # after a template nothing separates question and answer
        check(outcome["scores"], "model", likelihoods(model, tokenizer, begun))
        assert "has a chat template, which was not applied" in done.out
    else:
        expected = likelihoods(model, tokenizer, begun)
        assert outcome["scores"]["likely"]["perplexity"]["model"]["value"] == pytest.approx(
            math.exp(-sum(sums[row(n)["answer"]] for n, sums in enumerate(expected)) / 8), rel=1e-4
        )
    assert outcome["lm_eval"] == "0.4.13"
    assert outcome["tasks"]["capitals"]["version"] == 1.5
    assert outcome["tasks"]["capitals"]["rows"] == 8
    assert "capitals" in done.out


def test_what_is_written_is_what_a_greedy_loop_writes(here: Path, chat_dir: Path, distill: Distill) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(chat_dir), AutoModelForCausalLM.from_pretrained(chat_dir)
    rows = []
    for number in range(8):
        ids = tokenizer(f"Name {row(number)['country']}")["input_ids"]
        begun = len(ids)
        with torch.no_grad():
            for _ in range(3):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        written = tokenizer.decode(ids[begun:], skip_special_tokens=True)
        rows.append({"country": row(number)["country"], "answer": written if number % 4 else "another"})
    Path("names.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    task = {name: value for name, value in CHOICES.items() if name != "doc_to_choice"} | {
        "task": "names",
        "dataset_kwargs": {"data_files": {"test": "names.jsonl"}},
        "output_type": "generate_until",
        "doc_to_text": "Name {{country}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n\n"], "max_gen_toks": 3},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    Path("names.yaml").write_text(yaml.safe_dump(task))
    done = distill("evaluate", str(chat_dir), "--tasks", "names.yaml", "--to", "out.json", "--batch-size", "3")
    assert done.code == 0, done.err
    assert json.loads(Path("out.json").read_text())["scores"]["names"]["exact_match"]["model"]["value"] == 0.75


@pytest.mark.slow
def test_a_compressed_student_stands_beside_its_teacher_and_its_twin(
    here: Path, chat_dir: Path, distill: Distill
) -> None:
    import distill as package

    config: dict[str, Any] = {
        "name": "lm",
        "model": {
            "task": "causal-lm",
            "teacher": str(chat_dir),
            "student": {"layers": "uniform", "num_layers": 1},
            "losses": [{"class_path": "HintonKL"}],
            "optimizer": {"lr": 0.05},
        },
        "data": {"files": {"train": "texts.jsonl", "validation": "texts.jsonl"}, "pack_length": 32, "batch_size": 4},
        "callbacks": [{"class_path": "QuantizationAwareTraining", "init_args": {"activations": None}}],
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False, "csv": False},
    }
    Path("texts.jsonl").write_text("".join(json.dumps({"text": f"{row(n)}"}) + "\n" for n in range(16)))
    Path("lm.yaml").write_text(yaml.safe_dump(config))
    for run_id, losses in (("twin", '["CrossEntropy"]'), ("one", '["HintonKL"]')):
        fitted = distill("fit", "-c", "lm.yaml", "--id", run_id, "--model.losses", losses)
        assert fitted.code == 0, fitted.err
    done = distill("evaluate", "runs/lm/one", "--tasks", "tasks/capitals.yaml,tasks/likely.yaml")
    assert done.code == 0, done.err
    [kept] = Path("runs/lm/one/evaluations").iterdir()
    outcome = json.loads(kept.read_text())
    assert list(outcome["models"]) == ["teacher", "alone", "student"]
    for column in ("teacher", "without a teacher", "student"):
        assert column in done.out
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_dir)
    for who, folder in (("teacher", chat_dir), ("student", "runs/lm/one"), ("alone", "runs/lm/twin")):
        check(outcome["scores"], who, likelihoods(package.load(folder), tokenizer, str))
    alone = distill("evaluate", "runs/lm/one", "--tasks", "tasks/capitals.yaml", "--student-only", "--limit", "3")
    assert alone.code == 0, alone.err
    assert "not to be compared with published scores" in alone.out
    [limited] = set(Path("runs/lm/one/evaluations").iterdir()) - {kept}
    outcome = json.loads(limited.read_text())
    assert list(outcome["models"]) == ["student"]
    assert outcome["tasks"]["capitals"]["rows"] == 3


CODE = "import pathlib\npathlib.Path('ran').touch()\ndef docs(data):\n    return data\n"
ESCAPE = "{{ cycler.__init__.__globals__.os.mkdir('ran') }}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("process_docs: !function helper.docs\n", "names Python code, !function helper.docs"),
        ("include: base.yaml\n", "names Python code, !function helper.docs"),
        ("metric_list: [{metric: mine}]\n", "lm_eval has no metric mine"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]\n", "fetched as code"),
        ("dataset_path: pandas\n", "reads pickles"),
        ("generation_kwargs: {custom_generate: x, trust_remote_code: true}\n", "generation_kwargs has no custom_gen"),
        (f'doc_to_text: "{ESCAPE}"\n', "unsafe"),
        ("test_split: other\n", "cannot be loaded"),
    ],
)
def test_a_task_file_runs_no_code_that_was_not_allowed(
    change: str, says: str, here: Path, chat_dir: Path, distill: Distill
) -> None:
    Path("helper.py").write_text(CODE)
    Path("base.yaml").write_text("process_docs: !function helper.docs\n")
    key = change.partition(":")[0]
    task = {name: value for name, value in CHOICES.items() if name != key}
    Path("bad.yaml").write_text(yaml.safe_dump(task) + change)
    done = distill("evaluate", str(chat_dir), "--tasks", "bad.yaml")
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not Path("ran").exists()


def test_python_that_is_allowed_is_run(here: Path, chat_dir: Path, distill: Distill) -> None:
    Path("helper.py").write_text(CODE)
    Path("mine.yaml").write_text(yaml.safe_dump(CHOICES) + "process_docs: !function helper.docs\n")
    done = distill("evaluate", str(chat_dir), "--tasks", "mine.yaml", "--allow", "helper")
    assert done.code == 0, done.err
    assert Path("ran").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--tasks", "none.yaml"), "no such file or folder"),
        (("--tasks", "capitals.jsonl"), "is no task file"),
        ((), "--tasks: must be given"),
        (("--tasks", "tasks", "--limit", "0"), "must be at least 1"),
        (("--tasks", "tasks", "--to", "capitals.jsonl"), "must be a .json file"),
        (("--tasks", "lost.yaml"), "cannot be loaded"),
    ],
)
def test_what_cannot_be_scored_is_one_message(
    given: tuple[str, ...], says: str, here: Path, chat_dir: Path, distill: Distill
) -> None:
    lost = CHOICES | {"dataset_kwargs": {"data_files": {"test": "lost.jsonl"}}}
    Path("lost.yaml").write_text(yaml.safe_dump(lost))
    done = distill("evaluate", str(chat_dir), *given)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1


def test_only_a_language_model_is_asked(here: Path, teacher_dir: str, distill: Distill) -> None:
    done = distill("evaluate", teacher_dir, "--tasks", "tasks")
    assert done.code == 2
    assert "which writes no text" in done.err


def test_what_is_wrong_with_a_model_is_said_of_the_argument(here: Path, distill: Distill) -> None:
    done = distill("evaluate", "nowhere", "--tasks", "tasks")
    assert done.code == 2
    assert "error: MODEL = 'nowhere': no such folder" in done.err


def test_a_folder_that_is_named_like_a_task_of_lm_eval_is_not_taken_in_silence(
    here: Path, chat_dir: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill.workflows.benchmark import harness

    assert "tasks" not in harness._values()  # so the index of all, which takes seconds, is not made for such a folder

    class Few(harness.TaskManager):
        def __init__(self, *args: Any, **arguments: Any) -> None:
            super().__init__(*args, **arguments | {"include_defaults": False})

        @property
        def all_tasks(self) -> list[str]:
            return ["hellaswag"]

    monkeypatch.setattr(harness, "TaskManager", Few)
    Path("tasks").rename("hellaswag")
    done = distill("evaluate", str(chat_dir), "--tasks", "hellaswag")
    assert done.code == 2
    assert "--tasks = 'hellaswag': is a task of lm_eval, and lies here too. write ./hellaswag" in done.err


@pytest.mark.slow
def test_every_task_of_lm_eval_is_a_value_of_its_files() -> None:
    from distill.workflows.benchmark import harness

    names = harness.TaskManager(metadata={}).all_tasks
    assert len(names) > 5000
    assert set(names) - harness._values() == set()


def test_more_tokens_than_a_model_has_positions_for_are_refused_and_texts_that_are_cut_counted(
    here: Path, distill: Distill, chat_tokenizer: Callable[..., Any]
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = chat_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 24}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained("small")
    tokenizer.save_pretrained("small")
    code, _, err = distill("evaluate", "small", "--tasks", "tasks", "--max-length", "25")
    assert code == 2, err
    assert "--max-length = 25: this GPT2LMHeadModel reads 24 tokens" in err
    writes = {name: value for name, value in CHOICES.items() if name != "doc_to_choice"} | {
        "output_type": "generate_until",
        "doc_to_target": "x",
        "generation_kwargs": {"until": ["x"], "max_gen_toks": 9},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    Path("writes.yaml").write_text(yaml.safe_dump(writes))
    lengths = [len(tokenizer(f"The capital of {row(number)['country']} is")["input_ids"]) for number in range(8)]
    long = sum(length > 24 - 9 for length in lengths)
    assert 1 < long < 8
    code, out, err = distill("evaluate", "small", "--tasks", "writes.yaml", "--max-length", "24")
    assert code == 0, err
    assert f"{long} texts for model were longer than 24 tokens" in out
