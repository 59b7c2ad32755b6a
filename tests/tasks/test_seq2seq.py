"""Text to text: batches as transformers makes them, losses over the decoder's positions, a run from end to end."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

import distill.losses as losses
from distill.cli.main import main
from distill.core.signals import DECODER_INPUT, IGNORE, tokens_within
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.one_sample import one_sample
from distill.models.sampling import continuations
from distill.tasks import Seq2Seq
from distill.training.module import Distillation

SMALL: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "encoder_decoders.py")))
KINDS, encoder_decoder, letters, recipe = SMALL.KINDS, SMALL.encoder_decoder, SMALL.letters, SMALL.recipe
WORDS = ["abc", "f", "edcbaabcde", "bad"]
BACK = [word[::-1] for word in WORDS]
every_kind = pytest.mark.parametrize("kind", KINDS)


def features(task, words=WORDS, targets=BACK, length=16):
    made = task.encode(letters(), length)({"text": words, "target": targets})
    return [
        {name: np.asarray(values[i]) for name, values in made.items()} | {"id": i, "epoch": 0, "seed": 0}
        for i in range(len(words))
    ]


def met(kind, **settings):
    """A model, and its task."""
    model, task = encoder_decoder(kind), Seq2Seq(**settings)
    task.meet_models(model, None)
    return model, task


@every_kind
def test_cross_entropy_is_the_loss_that_transformers_computes_of_the_labels(kind):
    model, task = met(kind, prefix="p: ")
    batch = task.collate(features(task), letters())
    module = Distillation(model, task)
    module.student.eval()
    total, _ = module.terms(batch)
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != DECODER_INPUT}
    expected = model(**inputs, labels=batch.labels).loss
    assert float(total / batch.count) == pytest.approx(float(expected), rel=1e-6)
    assert int(batch.count) == sum(len(word) + 1 for word in WORDS)


@every_kind
def test_the_decoder_reads_what_its_model_would_shift_the_labels_to(kind):
    model, task = met(kind)
    batch = task.collate(features(task), letters())
    expected = model.prepare_decoder_input_ids_from_labels(batch.labels)
    assert batch.inputs[DECODER_INPUT].equal(expected)
    assert batch.decoder_tokens.equal(batch.labels != IGNORE)


def test_a_size_says_of_which_of_the_two_texts_a_tensor_is():
    task = met("t5")[1]
    for targets in (["a", "b", "c", "d"], [*BACK[:2], "edcbaabcde", "z"]):
        batch = task.collate(features(task, targets=targets), letters())
        lengths = batch.tokens.shape[1], batch.decoder_tokens.shape[1]
        assert lengths[0] != lengths[1]
        for tokens, length in zip(batch.positions, lengths, strict=True):
            assert tokens_within(torch.zeros(4, length, 3), batch.positions) is tokens
            assert tokens_within(torch.zeros(4 * length, 3), batch.positions).equal(tokens.flatten())
        assert batch.mask.sum() == sum(len(word) + 1 for word in targets)


@every_kind
@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_written_is_what_generate_writes_token_for_token(kind, beams):
    model, tokenizer = encoder_decoder(kind, seed=3), letters()
    prompts = [torch.tensor(tokenizer(word)["input_ids"]) for word in WORDS]
    found = continuations(model, prompts, 12, beams=beams)
    model.generation_config.update(forced_eos_token_id=None, do_sample=False, num_beams=beams, max_new_tokens=12)
    for prompt, written in zip(prompts, found, strict=True):
        alone = model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.long))[0, 1:]
        assert written.tolist() == alone[: len(written)].tolist()
        assert len(written) == 12 or written[-1] == 1
    assert len({tuple(one.tolist()) for one in found}) > 1


ROW_WISE = [
    losses.CrossEntropy(),
    losses.HintonKL(2.0),
    losses.ReverseKL(),
    losses.JensenShannon(),
    losses.SkewKL(),
    losses.AlphaBeta(),
    losses.TotalVariation(),
    losses.TopKKL(k=3),
    losses.DecoupledKD(),
    losses.LogitMSE(),
]


@pytest.mark.parametrize("loss", ROW_WISE, ids=lambda loss: loss.name)
def test_a_loss_over_the_decoder_is_the_same_however_a_batch_is_divided(loss):
    _, task = met("bart")
    student, teacher = encoder_decoder("bart", (1, 1), seed=1), encoder_decoder("bart", seed=2)
    module = Distillation(student, task, teacher, [loss])
    module.student.eval()
    samples, found = features(task), []
    for size in (4, 2, 1):
        student.zero_grad()
        total = count = 0
        for start in range(0, 4, size):
            batch = task.collate(samples[start : start + size], letters())
            value, _ = module.terms(batch)
            value.backward()
            total, count = total + value.detach(), count + batch.count
        found.append([total, count, *(p.grad.clone() for p in student.parameters() if p.grad is not None)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)
    assert any(bool(gradient.any()) for gradient in found[0][2:])


def data(tmp_path, rows, **settings):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = tmp_path / "tokenizer"
    letters().save_pretrained(folder)
    files = {"train": str(file), "validation": str(file)}
    made = TextData(files=files, task="seq2seq", tokenizer=str(folder), **settings)
    made.task.start = 0
    return made


def pairs(words=WORDS):
    return [{"source": word, "target": word[::-1]} for word in words]


def test_what_is_cut_of_either_text_is_counted_and_said(tmp_path):
    made = data(tmp_path, pairs(), max_length=8, max_target_length=5)
    made.setup("fit")
    said = "\n".join(made.account)
    assert "1 of 4 rows of train are cut to 8 tokens (data.max_length); the longest of them has 11" in said
    cut = "the targets of 1 of 4 rows of validation are cut to 5 tokens (data.max_target_length); the longest of them"
    assert f"{cut} has 11" in said
    for sample in made.samples("train"), made.samples("validation"):
        assert max(len(sample[0, row]["labels"]) for row in range(4)) == 5
        assert all(sample[0, row]["labels"][-1] == 1 for row in range(4))  # a cut one has its end


def test_the_first_sample_is_shown_token_by_token(tmp_path):
    made = data(tmp_path, pairs(["ab"]), prefix="p:", max_length=8)
    made.setup("fit")
    assert one_sample(made) == [
        "sample 0 of train: 5 tokens read, 3 to be written",
        "  reads    p│:│a│b│</s>",
        "  writes   b│a│</s>",
    ]


def test_a_row_with_nothing_to_be_written_is_refused_by_its_number(tmp_path):
    rows = [*pairs(), {"source": "abc", "target": " \t"}, {"source": "d", "target": ""}]
    with pytest.raises(UserError, match=r"2 rows of the split train with nothing to be written, .* row 5") as error:
        data(tmp_path, rows).setup("fit")
    assert error.value.key == "data.columns.target"


@pytest.mark.parametrize(("setting", "value"), [("max_length", 65), ("max_target_length", 80)])
def test_texts_longer_than_a_model_has_positions_are_refused_by_their_setting(tmp_path, setting, value):
    made = data(tmp_path, pairs(), **{"max_length": 16, "max_target_length": 16, setting: value})
    with pytest.raises(UserError, match=r"model\.student has 64 positions") as error:
        Distillation(encoder_decoder("bart"), "seq2seq").meet(made)
    assert error.value.key == f"data.{setting}"


def test_decoders_that_start_otherwise_are_refused():
    with pytest.raises(UserError, match="starts its decoder with token 1, and the student with 0") as error:
        Distillation(encoder_decoder("t5"), "seq2seq", encoder_decoder("bart"))
    assert error.value.key == "model.teacher"
    model = encoder_decoder("t5")
    del model.config.decoder_start_token_id
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(UserError, match="nothing says which token starts the decoder"):
        Distillation(model, "seq2seq")
    task = Seq2Seq()
    with pytest.raises(UserError, match="its models do, and none has been met"):
        task.collate(features(task), letters())


@pytest.mark.parametrize("setting", [{"prefix": "p: "}, {"max_target_length": 8}])
def test_what_is_for_targets_alone_is_refused_elsewhere(setting):
    with pytest.raises(UserError, match="a task that writes no text of its own"):
        _ = TextData(path="a", tokenizer="b", task="causal-lm", **setting).uses


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A teacher, and a run that it has taught."""
    folder = tmp_path_factory.mktemp("world")
    made = recipe(folder, completions={"scored": 4, "shown": 2, "max_new_tokens": 12})
    (folder / "recipe.yaml").write_text(json.dumps(made))
    assert main(["fit", "-c", str(folder / "recipe.yaml"), "--name", "pairs", "--id", "one"]) == 0
    return folder


def test_a_run_is_judged_by_its_tokens_and_by_what_it_writes(world, capsys):
    run = world / "runs/pairs/one"
    result = json.loads((run / "result.json").read_text())
    of_text = {"rouge_l", "chrf", "exact_match"}
    assert result["scores"]["student"].keys() == {"perplexity", "token_accuracy", "agreement", "acceptance", *of_text}
    assert result["scores"]["teacher"].keys() == {"perplexity", "token_accuracy", *of_text}
    shown = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    assert len(shown) == 2
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "student").eval()
    tokenizer = letters()
    for line in shown:
        prompt = line["prompt"]
        assert prompt == f"p: {line['expected'][::-1]}"
        written = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=12)[0]
        assert line["student"] == tokenizer.decode(written, skip_special_tokens=True)
    assert main(["validate", str(run)]) == 0
    assert "rouge_l" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["hf", "onnx"])
def test_an_export_writes_what_the_student_writes(world, target, tmp_path, capsys):
    run, file = world / "runs/pairs/one", tmp_path / "words.csv"
    file.write_text("source\nabc\nfed\nabcabc\n")
    assert main(["export", str(run), "--to", target, "--output", str(tmp_path / target)]) == 0
    said = []
    for folder in (run, tmp_path / target):
        capsys.readouterr()
        assert main(["predict", str(folder), str(file), "--jsonl", "--max-new-tokens", "12"]) == 0
        said.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert said[0] == said[1]
    assert [row["text"] for row in said[0]] == ["abc", "fed", "abcabc"]
    generation = json.loads((tmp_path / target / "generation_config.json").read_text()) if target == "hf" else {}
    assert generation.get("decoder_start_token_id", 0) == 0
    script = [sys.executable, str(tmp_path / target / "predict.py"), "abc", "fed", "abcabc"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == [row["completion"] for row in said[0]]


def test_what_a_teacher_writes_is_data_that_the_same_recipe_trains_on(world, tmp_path):
    words, made = tmp_path / "words.txt", tmp_path / "made.jsonl"
    words.write_text("abc\nfed\nbad\ncab\n")
    argv = ["generate", str(world / "teacher"), str(words), "--to", str(made), "--max-new-tokens", "8", "--beams", "2"]
    assert main([*argv, "--keep-unfinished"]) == 0
    rows = [json.loads(line) for line in made.read_text().splitlines()]
    assert [row["source"] for row in rows] == ["abc", "fed", "bad", "cab"]
    empty = [row for row in rows if not row["target"].strip()]
    assert not empty
    fit = ["fit", "-c", str(world / "recipe.yaml"), "--data.files.train", str(made), "--name", "written", "--id", "one"]
    assert main([*fit, "--trainer.max_epochs", "1"]) == 0
    assert (Path(world) / "runs/written/one/student/model.safetensors").is_file()
