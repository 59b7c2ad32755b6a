"""The promises of teachers that each teach rows of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.core.signals import ROUTE, Batch, Request
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.losses import CrossEntropy, FitNetHint, HintonKL
from distill.models.teachers import LiveTeacher, RoutedTeacher, TeacherConfig, build_teacher
from distill.tasks import Plain, TextClassification
from distill.training.module import Distillation

LOGITS = Request(logits=True)
NAMES = ["de", "en", "fr"]
ROUTES = [1, 0, 1, 2, 0, 1]


class Counting(nn.Linear):
    """Counts the rows that it is asked for."""

    rows = 0

    def forward(self, input: Tensor) -> Tensor:
        self.rows += len(input)
        return super().forward(input)


class Rows:
    """Data of which rows name these teachers."""

    def __init__(self, *names: str) -> None:
        self.routes = {name: f"row {number + 1} of the split train" for number, name in enumerate(names)}


def teachers(classes: tuple[int, ...] = (5, 5, 5)) -> list[LiveTeacher]:
    torch.manual_seed(0)
    return [LiveTeacher(Counting(4, count), Plain()) for count in classes]


def batch(ids: list[int] | None = None, routes: list[int] = ROUTES) -> Batch:
    inputs = torch.randn(len(routes), 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(len(routes)) % 5
    return Batch({"input": inputs}, labels=labels, ids=ids, extras={ROUTE: torch.tensor(routes)})


def routed(sources: list[LiveTeacher], names: list[str] = NAMES, said: list[str] = NAMES) -> RoutedTeacher:
    made = RoutedTeacher(dict(zip(names, sources, strict=True)))
    made.meet_data(Rows(*said))
    return made


def logits(source: Any, of: Batch) -> Tensor:
    found = source.signals(of, LOGITS).logits
    assert found is not None
    return found


def test_each_row_has_the_logits_of_its_own_teacher_which_alone_runs_on_it() -> None:
    sources = teachers()
    expected = torch.stack([logits(sources[route], batch())[row] for row, route in enumerate(ROUTES)])
    for source in sources:
        source.model.rows = 0
    found = routed(sources)
    torch.testing.assert_close(logits(found, batch()), expected)
    torch.testing.assert_close(found.evaluate(batch()).logits, expected)
    assert [source.model.rows for source in sources] == [2 * ROUTES.count(place) for place in range(3)]


def test_teachers_are_found_by_name_in_whatever_order_the_data_names_them() -> None:
    sources = teachers()
    expected = logits(routed(sources), batch())
    other = routed([sources[2], sources[0], sources[1]], ["fr", "de", "en"])
    assert torch.equal(logits(other, batch()), expected)
    one = routed(sources, NAMES, ["fr"])
    alone = logits(sources[2], batch(routes=[0, 0]))
    assert torch.equal(logits(one, batch(routes=[0, 0])), alone)


def test_the_objective_is_that_of_each_part_of_the_batch_beside_its_teacher_alone() -> None:
    sources, student = teachers(), nn.Linear(4, 5)
    losses = [HintonKL(weight=0.5), CrossEntropy(weight=0.5)]
    module = Distillation(student, Plain(), routed(sources), losses=losses)
    whole, _ = module.terms(batch().at(0, 1))
    parts = torch.zeros(())
    for place, source in enumerate(sources):
        rows = [row for row, route in enumerate(ROUTES) if route == place]
        alone = Distillation(student, Plain(), source, losses=losses)
        parts = parts + alone.terms(batch().rows(rows).at(0, 1))[0]
    torch.testing.assert_close(whole, parts)


def test_what_one_has_said_is_remembered_by_it_and_is_part_of_a_checkpoint() -> None:
    sources, ids = teachers(), [10, 11, 12, 13, 14, 15]
    found = routed(sources)
    expected = logits(found, batch(ids))
    fresh = routed(teachers())
    fresh.load_state_dict(found.state_dict())
    for source in fresh.sources:
        source.model.rows = 0  # type: ignore[attr-defined]
    assert torch.equal(logits(fresh, batch(ids)), expected)
    back = batch(ids[::-1], ROUTES[::-1])  # another epoch's order
    back.inputs["input"] = back.inputs["input"].flip(0)
    assert torch.equal(logits(fresh, back), expected.flip(0))
    assert [source.model.rows for source in fresh.sources] == [0, 0, 0]  # type: ignore[attr-defined]


def test_the_fingerprint_says_who_teaches_what() -> None:
    sources = teachers()
    one, same, other = (routed(sources, names).fingerprint for names in (NAMES, NAMES, ["en", "de", "fr"]))
    assert one == same != other


def test_a_row_that_names_no_teacher_is_refused_and_so_are_rows_that_name_none() -> None:
    with pytest.raises(UserError, match=r"data\.columns\.teacher = 'it': no teacher teaches this \(row 2 of the split"):
        routed(teachers(), NAMES, ["de", "it"])
    with pytest.raises(UserError, match="need a column that says which"):
        RoutedTeacher(dict(zip(NAMES, teachers(), strict=True))).meet_data(object())


def test_layers_of_several_models_are_refused() -> None:
    with pytest.raises(UserError, match="no common space of hidden states"):
        routed(teachers()).signals(batch(), Request(hidden_states=frozenset({1})))


def test_other_outputs_are_refused() -> None:
    with pytest.raises(UserError, match=r"the teachers have 5, 4, 5 outputs"):
        logits(routed(teachers((5, 4, 5))), batch())


# ---------------------------------------------------------------------- by configuration


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"teaches": "a"}, {}], r"model\.teacher\.1\.teaches: does not say which rows it teaches, as 'a' does"),
        ([{"teaches": "a"}, {"teaches": "a"}], r"model\.teacher\.1\.teaches = 'a': two teachers teach the same rows"),
        ([{"teaches": "a", "weight": 2.0}, {"teaches": "b"}], r"model\.teacher\.0\.weight = 2\.0: has no effect with"),
        ([{"teaches": "a"}], r"model\.teacher\.0\.teaches = 'a': has no effect with a single teacher"),
    ],
)
def test_what_several_teachers_say_must_fit(teacher_dir: str, given: list[dict[str, Any]], message: str) -> None:
    configs = [TeacherConfig(path=teacher_dir, **one) for one in given]
    with pytest.raises(UserError, match=message):
        build_teacher(configs, TextClassification(["negative", "positive"]))


def rows_of(folder: Path, rows: list[dict[str, Any]], **options: Any) -> TextData:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files: Any = dict.fromkeys(("train", "validation"), str(folder / "rows.jsonl"))
    return TextData(files=files, columns={"teacher": "lang"}, **options)


def test_batches_say_of_each_row_what_its_column_says(tmp_path: Path, chat_dir: Path, tiny_tokenizer_dir: str) -> None:
    languages = ["en", "de", "en", "en", "de", "fr", "en"]
    texts = ["a good film", "bad", "", "dull story", "", "never bright", "a"]
    rows = [{"text": t, "label": i % 2, "lang": name} for i, (t, name) in enumerate(zip(texts, languages, strict=True))]
    given: dict[str, Any] = {"batch_size": 3}
    for task, tokenizer in (("text-classification", tiny_tokenizer_dir), ("causal-lm", str(chat_dir))):
        lengths = {"pack_length": 0} if task == "causal-lm" else {}
        data = rows_of(tmp_path, rows, task=task, tokenizer=tokenizer, **given, **lengths)
        data.setup("fit")
        assert list(data.routes) == ["de", "en", "fr"]
        found = []
        for batch in data.train_dataloader():
            for ids, route in zip(batch.inputs["input_ids"], batch.extras[ROUTE].tolist(), strict=True):
                text = data.tokenizer.decode(ids, skip_special_tokens=True).replace(" ##", "").strip()
                found.append((text, list(data.routes)[route]))
        kept = [(t, name) for t, name in zip(texts, languages, strict=True) if t or task == "text-classification"]
        assert sorted(found) == sorted(kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pack_length": 8}, r"data\.columns\.teacher = 'lang': rows of several teachers cannot share a block"),
        ({"pack_length": 0, "join": " "}, r"data\.columns\.teacher = 'lang': has no effect with rows joined"),
    ],
)
def test_rows_of_several_teachers_stay_apart(
    tmp_path: Path, chat_dir: Path, options: dict[str, Any], message: str
) -> None:
    data = rows_of(
        tmp_path, [{"text": "a b c", "lang": "en"}] * 9, task="causal-lm", tokenizer=str(chat_dir), **options
    )
    with pytest.raises(UserError, match=message):
        data.setup("fit")


def test_a_split_without_the_column_is_refused(tmp_path: Path, tiny_tokenizer_dir: str) -> None:
    data = rows_of(tmp_path, [{"text": "a", "label": i % 2} for i in range(4)], tokenizer=tiny_tokenizer_dir)
    with pytest.raises(UserError, match=r"data\.columns\.teacher = 'lang': the split train has no such column"):
        data.setup("fit")


def test_one_teacher_of_all_rows_heeds_no_column(tmp_path: Path, teacher_dir: str, tiny_tokenizer_dir: str) -> None:
    rows = [
        {"text": "a good film", "label": "negative", "lang": "en"},
        {"text": "a", "label": "positive", "lang": "de"},
    ]
    data = rows_of(tmp_path, rows, tokenizer=tiny_tokenizer_dir)
    for teacher in (teacher_dir, None):
        module = Distillation(
            teacher_dir, "text-classification", teacher, labels=["negative", "positive"], losses=[CrossEntropy()]
        )
        if teacher is None:  # the twin takes the same data
            module.meet(data)
        else:
            with pytest.raises(UserError, match=r"data\.columns\.teacher = 'de, en': has no effect with a teacher of"):
                module.meet(data)


def test_a_run_names_the_rows_that_no_teacher_teaches(
    base: dict[str, Any], distill: Any, teacher_dir: str, fitted: Any
) -> None:
    both = json.dumps([{"path": teacher_dir, "teaches": name} for name in ("positive", "negative")])
    column = ("--data.columns.teacher", "label", "--model.teacher", both)
    result = json.loads((fitted(*column, "--trainer.max_steps", "2") / "result.json").read_text())
    assert "accuracy" in result["scores"]["teacher"]
    one = both.replace("negative", "neutral")
    code, _, err = distill("fit", "-c", "base.yaml", *column[:-1], one)
    assert code == 2
    assert "data.columns.teacher = 'negative'" in err
    assert "of the split train" in err


def test_losses_on_layers_are_refused_before_training(teacher_dir: str) -> None:
    names = ["negative", "positive"]
    both = [TeacherConfig(path=teacher_dir, teaches=name) for name in names]
    with pytest.raises(UserError, match="no common space of hidden states"):
        Distillation(teacher_dir, "text-classification", both, labels=names, losses=[FitNetHint(), CrossEntropy()])
