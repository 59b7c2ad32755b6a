"""Answers in contexts: windows, masked positions, metrics, a run from its beginning to its predictions."""

import json
import runpy
import string
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast

import distill.losses as losses
from distill.cli.main import main
from distill.core.candidates import CANDIDATES
from distill.core.signals import IGNORE, Request, Signals
from distill.core.task import PART
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.tasks import QuestionAnswering
from distill.tasks.answers import LONGEST
from distill.training.module import Distillation

NAMES, THINGS = ["Ann", "Bob", "Cid", "Dora"], ["a red hat", "two cats", "the old book", "9 coins"]


def word_pieces(words=()):
    """A tokenizer of BERT's kind: single letters, and ``words``."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters), *words]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, model_max_length=64, **special)


@pytest.fixture(scope="module")
def tokenizer():
    words = f"who what does have has moon . {' '.join([*NAMES, *THINGS])}".lower().split()
    return word_pieces(words)


def bert(tokenizer, layers=2, seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=layers, initializer_range=0.5, **sizes)
    return BertForQuestionAnswering(config).eval()


def questions(count):
    """Rows in SQuAD's layout; some without an answer, one without a label."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(count):
        who, what = draw.permutation(NAMES), [THINGS[i] for i in draw.integers(0, 4, 4)]
        context = " ".join(f"{a} has {b}." for a, b in zip(who, what, strict=True))
        start = context.index(f"{who[0]} has") + len(who[0]) + 5
        answers = {"text": [what[0], what[0]], "answer_start": [start, start]}
        if number % 4 == 3:
            rows.append(
                {"question": "who has the moon", "context": context, "answers": {"text": [], "answer_start": []}}
            )
        else:
            rows.append({"question": f"what does {who[0]} have", "context": context, "answers": answers})
    if count > 1:
        rows[1]["answers"] = None
    return rows


def samples(task, tokenizer, rows, length=24):
    columns = {role: [row[name] for row in rows] for role, name in (("text", "question"), ("text_pair", "context"))}
    made = task.encode(tokenizer, length)(columns | {"label": [row["answers"] for row in rows]})
    count = len(made["input_ids"])
    one = [{name: np.asarray(values[i]) for name, values in made.items()} for i in range(count)]
    return [sample | {"id": i, "epoch": 0, "seed": 0} for i, sample in enumerate(one)]


def test_windows_overlap_and_together_show_the_whole_context(tokenizer):
    task, [row] = QuestionAnswering(doc_stride=5), questions(1)
    made = samples(task, tokenizer, [row])
    assert [int(sample[PART]) for sample in made] == list(range(len(made)))
    assert len(made) > 1
    pieces = [np.flatnonzero(sample[CANDIDATES])[1:] for sample in made]
    shown = [list(zip(s["starts"][at], s["ends"][at], strict=True)) for s, at in zip(made, pieces, strict=True)]
    every = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert sorted({span for window in shown for span in window}) == sorted(every)
    for one, other in pairwise(shown):
        assert one[-5:] == other[:5]
    assert all(len(sample["input_ids"]) <= 24 for sample in made)
    question = len(tokenizer(row["question"])["input_ids"])
    assert all(at[0] == question for at in pieces)  # behind [CLS], the question and [SEP]
    assert all(sample[CANDIDATES][0] == 1 for sample in made)


def test_a_label_is_the_answer_where_a_window_holds_it_and_else_none(tokenizer):
    rows = questions(4)
    made = samples(QuestionAnswering(doc_stride=5), tokenizer, rows)
    held = {"answer": 0, "none": 0}
    for sample in made:
        row = rows[np.cumsum([s[PART] == 0 for s in made])[sample["id"]] - 1]
        first, last = sample["labels"]
        if row["answers"] is None:
            assert (first, last) == (IGNORE, IGNORE)
            continue
        text = row["context"][sample["starts"][first] : sample["ends"][last]]
        expected = row["answers"]["text"][:1]
        places = [(at, at + len(expected[0])) for at in row["answers"]["answer_start"][:1]] if expected else []
        inside = np.flatnonzero(sample[CANDIDATES])[1:]
        low, high = sample["starts"][inside[0]], sample["ends"][inside[-1]]
        if expected and low <= places[0][0] and places[0][1] <= high:
            assert text == expected[0]
            held["answer"] += 1
        else:
            assert (first, last) == (0, 0)
            held["none"] += 1
    assert min(held.values()) > 0


def test_a_question_that_leaves_no_room_is_refused(tokenizer):
    row = {"question": "what " * 12, "context": "Ann has a hat.", "answers": None}
    with pytest.raises(UserError, match="leaves 9 tokens for the context beside the question") as error:
        samples(QuestionAnswering(doc_stride=9), tokenizer, [row])
    assert error.value.key == "data.max_length"
    assert "at least 25" in error.value.hint
    assert samples(QuestionAnswering(doc_stride=8), tokenizer, [row])


def test_a_tokenizer_without_a_first_token_of_its_own_is_refused():
    from transformers import AutoTokenizer

    from distill.core.utils.paths import resolve

    plain = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    with pytest.raises(UserError, match="no token of its own before a question"):
        samples(QuestionAnswering(), plain, questions(1), 64)


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
]


def total(loss, task, batch, student, teacher):
    """The loss of a batch, and its gradient by the logits as the model gave them."""
    student = student.clone().requires_grad_()
    found = loss(Signals(task.decisive(student, batch)), Signals(task.decisive(teacher, batch)), batch)
    found.total.backward()
    return float(found.total), student.grad, int(found.positions)


@pytest.mark.parametrize("loss", ROW_WISE, ids=lambda loss: loss.name)
def test_positions_that_a_window_lacks_add_nothing_to_a_loss(tokenizer, loss):
    task = QuestionAnswering(doc_stride=2)
    rows = [row for row in questions(4) if row["answers"] is not None]
    made = samples(task, tokenizer, rows, 32)
    together = task.collate(made, tokenizer)
    length = together.inputs["input_ids"].shape[1]
    assert len({len(sample["input_ids"]) for sample in made}) > 1
    torch.manual_seed(0)
    student, teacher = torch.randn(2, len(made), 2, length).unbind()
    whole, gradient, count = total(loss, task, together, student, teacher)
    assert count == 2 * len(made)
    alone = 0.0
    for i, sample in enumerate(made):
        n, batch = len(sample["input_ids"]), task.collate([sample], tokenizer)
        value, slopes, _ = total(loss, task, batch, student[i : i + 1, :, :n], teacher[i : i + 1, :, :n])
        alone += value
        torch.testing.assert_close(gradient[i : i + 1, :, :n], slopes, rtol=1e-4, atol=1e-6)
        out = ~torch.tensor(sample[CANDIDATES]).bool()
        assert not gradient[i, :, :n][:, out].any()
        assert not gradient[i, :, n:].any()
    assert whole == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (losses.LogitMSE(), "the mean over all classes"),
        (losses.DIST(), "correlates over all classes"),
        (losses.CrossEntropy(label_smoothing=0.1), "spreads label_smoothing"),
        (losses.CrossEntropy(class_weights=[1.0, 2.0]), "weighs classes"),
        (losses.BinaryKL(), "an answer has a place in its text"),
        (losses.VectorCosine(), "an answer has a place in its text"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_loss_to_which_they_would_add_is_refused(tokenizer, loss, why):
    with pytest.raises(UserError, match=why) as error:
        Distillation(bert(tokenizer), "question-answering", bert(tokenizer), [loss])
    assert error.value.key == "model.losses.0"


def naive(task, model, tokenizer, rows, length, cut=24):
    """Answers as transformers 4's pipeline had them: of each window alone, unpadded, by probabilities."""
    found = {}
    with torch.no_grad():
        for sample in samples(task, tokenizer, rows, cut):
            batch = task.collate([sample], tokenizer)
            output = model(**batch.inputs)
            wanted = torch.tensor(sample[CANDIDATES]).bool()
            start, end = (
                logits[0].masked_fill(~wanted, -1e9).softmax(-1).numpy()
                for logits in (output.start_logits, output.end_logits)
            )
            question = sample["id"] - int(sample[PART])
            answers, none = found.setdefault(question, ([], []))
            none.append(float(start[0] * end[0]))
            for i in np.flatnonzero(wanted)[1:]:
                for j in range(i, min(i + LONGEST, len(wanted))):
                    if wanted[j]:
                        answers.append((float(start[i] * end[j]), int(sample["starts"][i]), int(sample["ends"][j])))
    return [(max(answers, key=lambda one: one[0]), min(none)) for answers, none in found.values()]


@pytest.mark.parametrize("unanswerable", [True, False])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_scores_are_those_of_each_question_answered_alone(tokenizer, unanswerable, size):
    by_script = runpy.run_path(str(Path(__file__).with_name("test_answers.py")))["by_script"]

    task, model, rows = QuestionAnswering(None, 5, unanswerable), bert(tokenizer), questions(12)
    made, metrics = samples(task, tokenizer, rows), task.metrics()
    for at in range(0, len(made), size):
        batch = task.collate(made[at : at + size], tokenizer)
        with torch.no_grad():
            signals = task.forward(model, batch, Request(logits=True))
        task.score(metrics, signals, batch)
    expected = []
    for row, ((score, low, high), none) in zip(rows, naive(task, model, tokenizer, rows, 24), strict=True):
        if row["answers"] is not None:
            answer = "" if unanswerable and none > score else row["context"][low:high]
            expected.append(np.max([by_script(answer, one) for one in row["answers"]["text"] or [""]], axis=0))
    assert float(metrics["exact_match"].compute()) == pytest.approx(np.mean(expected, axis=0)[0], abs=1e-6)
    assert float(metrics["f1"].compute()) == pytest.approx(np.mean(expected, axis=0)[1], abs=1e-6)
    assert 0 < float(metrics["f1"].compute()) < 1


def test_logits_that_are_no_numbers_score_nothing(tokenizer):
    task = QuestionAnswering(doc_stride=5)
    batch = task.collate(samples(task, tokenizer, questions(4)), tokenizer)
    metrics = task.metrics()
    task.update(metrics, torch.full((batch.size, 2, batch.inputs["input_ids"].shape[1]), torch.nan), batch)
    assert float(metrics["f1"].compute()) == 0.0


def data_of(folder, tokenizer, train, validation=None, **settings):
    tokenizer.save_pretrained(folder / "tokenizer")
    for name, rows in (("train", train), ("validation", validation or train)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "validation")}
    settings = {"task": "question-answering", "max_length": 24, "doc_stride": 5} | settings
    return TextData(files=files, tokenizer=str(folder / "tokenizer"), **settings)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"answers": {"text": ["a moon"], "answer_start": [3]}}, "which does not stand in its context, in row 3"),
        ({"answers": {"text": ["has"], "answer_start": [0]}}, "several times, and not at 0, in row 3"),
        ({"answers": {"text": [" "], "answer_start": [0]}}, "which has the text ' ', in row 3"),
    ],
)
def test_an_answer_that_is_not_in_its_place_is_refused_by_its_row(tokenizer, tmp_path, change, why):
    rows = questions(4)
    rows[2] |= change
    with pytest.raises(UserError, match=why) as error:
        data_of(tmp_path, tokenizer, questions(4), rows).setup("fit")
    assert "the split validation" in error.value.problem
    assert error.value.key == "data.columns.label"


def test_an_answer_that_stands_elsewhere_once_is_taken_there_and_said(tokenizer, tmp_path):
    rows = [row | {"answer": None, "answer_start": 0} for row in questions(2)]
    rows[0] |= {"context": "Ann has a hat. Bob has two cats.", "answer": "two cats"}
    rows[1] |= {"context": "Ann has a hat. Bob has two cats.", "answer": "a hat", "answer_start": 8}
    data = data_of(tmp_path, tokenizer, [{k: v for k, v in row.items() if k != "answers"} for row in rows])
    data.setup("fit")
    said = "\n".join(data.account)
    assert (
        "2 answers stand elsewhere than said, and are taken where they stand once (row 1 of train: 'two cats'" in said
    )
    assert "0 of 4 questions have no answer" in said
    assert not data.task.unanswerable


def test_a_run_says_of_how_many_windows_its_rows_are_and_which_answers_none_holds(tokenizer, tmp_path):
    rows = questions(4)
    long = "a red hat a red hat a red hat a red hat a red hat a red hat"
    rows[0] |= {"context": f"Ann has {long}.", "answers": {"text": [long], "answer_start": [8]}}
    data = data_of(tmp_path, tokenizer, rows)
    data.setup("fit")
    said = "\n".join(data.account)
    windows = len(data.samples("train"))
    assert windows > 4
    assert f"4 rows for training in {windows} windows" in said
    assert "the answer of 1 question of train is cut" in said
    assert "are empty or blank" not in said
    assert "longer ones are cut" not in said
    assert data.task.unanswerable


def test_windows_share_nothing_in_a_task_that_has_none(tmp_path, tokenizer):
    with pytest.raises(UserError, match="a task whose texts are cut") as error:
        data_of(tmp_path, tokenizer, questions(2), task="text-classification").setup("fit")
    assert error.value.key == "data.doc_stride"


def test_a_teacher_of_another_tokenizer_is_refused(tokenizer, tmp_path):
    for name, one in (("teacher", word_pieces(["other", "words"])), ("student", tokenizer)):
        bert(one).save_pretrained(tmp_path / name)
        one.save_pretrained(tmp_path / name)
    with pytest.raises(UserError, match="vocabularies of student and teacher differ"):
        Distillation(str(tmp_path / "student"), "question-answering", str(tmp_path / "teacher"))


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory):
    """A teacher, questions, and a run."""
    folder = tmp_path_factory.mktemp("questions")
    bert(tokenizer).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    data_of(folder, tokenizer, questions(16))
    config = f"""
model: {{teacher: {folder}/teacher}}
data:
  files: {{train: {folder}/train.jsonl, validation: {folder}/validation.jsonl}}
  tokenizer: {folder}/teacher
  batch_size: 8
  max_length: 24
  doc_stride: 5
trainer: {{accelerator: cpu, min_epochs: null, min_steps: null, max_steps: 4}}
runs: {folder}/runs
"""
    (folder / "my.yaml").write_text(config)
    code = main(["fit", "-c", "question-answering/distill", "-c", str(folder / "my.yaml"), "--id", "one"])
    assert not code
    return folder, next(folder.glob("runs/**/one"))


def test_a_run_is_scored_beside_the_guess_of_no_answer(world):
    _, run = world
    found = json.loads((run / "result.json").read_text())
    assert found["monitor"] == "f1"
    assert found["scores"]["guess"] == pytest.approx({"exact_match": 4 / 15, "f1": 4 / 15})
    assert found["measured"]["guess_is"] == "that there is no answer"


def test_predictions_are_the_answers_of_the_windows_that_are_most_certain(world, tokenizer, capsys):
    from transformers import AutoModelForQuestionAnswering

    folder, run = world
    capsys.readouterr()
    assert not main(["predict", str(run), str(folder / "validation.jsonl"), "--jsonl", "--batch-size", "3"])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = AutoModelForQuestionAnswering.from_pretrained(run / "student").eval()
    rows = questions(16)
    expected = naive(QuestionAnswering(doc_stride=5), model, tokenizer, rows, 24)
    for row, one, ((score, low, high), none) in zip(rows, printed, expected, strict=True):
        assert (one["question"], one["context"]) == (row["question"], row["context"])
        assert one["no_answer"] == pytest.approx(none, rel=1e-4)
        if none > score:
            assert (one["answer"], one["start"]) == ("", None)
            assert one["score"] == pytest.approx(none, rel=1e-4)
        else:
            assert (one["answer"], one["start"], one["end"]) == (row["context"][low:high], low, high)
            assert one["score"] == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "hf"])
def test_an_export_answers_as_the_student_does_and_so_does_the_script_beside_it(world, to, capsys, monkeypatch):
    folder, run = world
    assert not main(["export", str(run), "--to", to, "--output", str(folder / to), "--no-timing"])
    verified = json.loads((folder / to / "export.json").read_text())["verified"]
    assert verified["relative_error"] < 1e-5
    assert verified["agreement"] == 1.0
    assert verified["exported"] == pytest.approx(verified["trained"])
    asked = []
    for place in (run, folder / to):
        capsys.readouterr()
        assert not main(["predict", str(place), str(folder / "validation.jsonl"), "--jsonl"])
        asked.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert [one["answer"] for one in asked[0]] == [one["answer"] for one in asked[1]]
    row, context = "what does Ann have", "Ann has a red hat."
    (folder / "one.jsonl").write_text(json.dumps({"question": row, "context": context}))
    assert not main(["predict", str(run), str(folder / "one.jsonl"), "--jsonl"])
    answer = json.loads(capsys.readouterr().out)["answer"]
    monkeypatch.setattr("sys.argv", ["predict.py", row, context])
    runpy.run_path(str(folder / to / "predict.py"))
    said = capsys.readouterr().out.strip()
    assert said.replace(" ", "").lower() == f"{answer or 'no answer'}|{row}".replace(" ", "").lower()


def test_what_needs_one_number_of_classes_is_refused_and_leaves_nothing(world, capsys):
    folder, run = world
    recipe = ["-c", "question-answering/distill", "-c", str(folder / "my.yaml")]
    assert main(["record", *recipe, "--to", str(folder / "recorded"), "--as", "logits"]) == 2
    assert "and not positions" in capsys.readouterr().err
    assert main(["report", str(run), "--no-timing"]) == 2
    assert "predicts places in a text" in capsys.readouterr().err
    assert not (folder / "recorded").exists()
    assert not (run / "report.json").exists()


def test_the_files_of_squad_are_read_as_they_are(tokenizer, tmp_path):
    rows = [row for row in questions(8) if row["answers"] is not None]
    paragraphs = []
    for number, row in enumerate(rows):
        given = [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]
        asked = {"id": str(number), "question": row["question"], "answers": given, "is_impossible": not given}
        paragraphs.append({"context": row["context"], "qas": [asked]})
    articles = [{"title": "one", "paragraphs": paragraphs[:3]}, {"title": "two", "paragraphs": paragraphs[3:]}]
    (tmp_path / "squad.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    plain = data_of(tmp_path, tokenizer, rows)
    files = {"train": str(tmp_path / "squad.json"), "validation": str(tmp_path / "squad.json")}
    settings = {"task": "question-answering", "max_length": 24, "doc_stride": 5}
    nested = TextData(files=files, tokenizer=str(tmp_path / "tokenizer"), **settings)
    for data in (plain, nested):
        data.setup("fit")
    assert nested.samples("train").fingerprint == plain.samples("train").fingerprint
