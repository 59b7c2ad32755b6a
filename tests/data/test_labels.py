"""What stands in a label column, and what a task is given for it: all written out by hand."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from distill.core.signals import IGNORE
from distill.core.task import LabelForm
from distill.core.utils.errors import UserError
from distill.data.account import doubts
from distill.data.labels import Labels, read_labels
from distill.data.raw_data import RawData, read_raw_data
from distill.tasks import CausalLM, TextClassification, TokenClassification
from distill.tasks.text_classification import TextClassification as _Base

CLASS, TAGS = TextClassification(), TokenClassification()


class Several(_Base):
    """A task that takes any number of the classes."""

    takes: ClassVar[frozenset[LabelForm]] = frozenset({"set"})


def read(labels: list[Any], *others: list[Any], task: Any = CLASS, **options: Any) -> Labels:
    names = ("train", "validation", "test")
    splits = {n: Dataset.from_dict({"label": rows}) for n, rows in zip(names, [labels, *others], strict=False)}
    return read_labels(task, splits, "label", **options)


def understood(labels: list[Any], **options: Any) -> tuple[list[str] | None, list[Any]]:
    read_once = read(labels, **options)
    return read_once.names, read_once.ids(labels)


NUMBERS = [str(i) for i in range(12)]


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        ([1, 0, 2], ["0", "1", "2"], [1, 0, 2]),
        (["10", "2", "0"], ["0", "2", "10"], [2, 1, 0]),
        (["5", "1"], ["1", "5"], [1, 0]),
        (["1.0.2", "1.10.2"], ["1.0.2", "1.10.2"], [0, 1]),
        (["29.11.26", "5,a"], ["5,a", "29.11.26"], [1, 0]),
        ([f"LABEL_{i}" for i in range(12)], [f"LABEL_{i}" for i in range(12)], list(range(12))),
        (["class 10", "class 9"], ["class 9", "class 10"], [1, 0]),
        (["b", "a", "3d", "7"], ["3d", "7", "a", "b"], [3, 2, 0, 1]),
        (["007", "01"], ["01", "007"], [1, 0]),
        ([str(2**70 + 1), str(2**70), "0"], ["0", str(2**70), str(2**70 + 1)], [2, 1, 0]),
        (["a" + "1" * 5000, "a2"], ["a2", "a" + "1" * 5000], [1, 0]),
        (["a\u0663", "a2"], ["a2", "a\u0663"], [1, 0]),
        ([f"{2**53 + 8}", f"{2**53 + 7}"], [f"{2**53 + 7}", f"{2**53 + 8}"], [1, 0]),
        (["NA", "None", "null"], ["NA", "None", "null"], [0, 1, 2]),
        ([True, False], ["False", "True"], [1, 0]),
        ([[1], [0]], ["0", "1"], [1, 0]),
        ([["no"], ["yes"], []], ["no", "yes"], [0, 1, IGNORE]),
        ([0, 1, None, -1, -100], ["0", "1"], [0, 1, IGNORE, IGNORE, IGNORE]),
        (["0", "1", "", " ", "-1", "-100", None], ["0", "1"], [0, 1, *[IGNORE] * 5]),
        (["no", "yes", "", "-1"], ["no", "yes"], [0, 1, IGNORE, IGNORE]),
    ],
)
def test_classes_are_understood_and_rows_without_one_are_none(labels: Any, names: Any, ids: Any) -> None:
    assert understood(labels) == (names, ids)
    data = Dataset.from_dict({"label": labels})
    assert read(labels).missing(data) == ids.count(IGNORE)


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ([0.5, 1.0, -1.0, None, math.nan], [0.5, 1.0, -1.0, math.nan, math.nan]),
        (["0.5", "1", "-1.0", "", "1e-3"], [0.5, 1.0, -1.0, math.nan, 0.001]),
        ([[2.5], [3.0]], [2.5, 3.0]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.5, -2.0, -100.0, -100.0], [0.5, -2.0, math.nan, math.nan]),
        (["0.5", "1.5", "-100", "-1"], [0.5, 1.5, math.nan, -1.0]),
        ([0.5, -60.0, -100.0], [0.5, -60.0, -100.0]),
    ],
)
def test_numbers_to_regress_on_keep_their_values(labels: Any, numbers: Any) -> None:
    names, values = understood(labels)
    assert names is None
    assert values == pytest.approx(numbers, nan_ok=True)
    assert read(labels).missing(Dataset.from_dict({"label": labels})) == sum(map(math.isnan, numbers))


@pytest.mark.parametrize("labels", [[0.0, 1.0, math.nan], ["0.0", "1.0", ""], [0, 1, None]])
def test_integers_are_classes_beside_a_classifier_and_numbers_beside_a_model_of_one_output(labels: Any) -> None:
    assert understood(labels, outputs=lambda: ("model.teacher", 2)) == (["0", "1"], [0, 1, IGNORE])
    assert understood(labels, outputs=lambda: ("model.teacher", 1))[1] == pytest.approx([0, 1, math.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("labels", "given", "ids"),
    [
        (["neg", "pos"], ["pos", "neg"], [1, 0]),
        (["neg", "pos"], ["neutral", "neg", "pos"], [1, 2]),
        ([0, 1], ["neg", "pos", "neutral"], [0, 1]),
        (["0", "1"], ["neg", "pos"], [0, 1]),
        ([1, 5], [5, 3, 1], [2, 0]),
        ([-1, 1, 0], ["0", "1", "-1"], [2, 1, 0]),
        ([True, False], [True, False], [0, 1]),
        (["0.5", "1.5"], ["1.5", "0.5"], [1, 0]),
    ],
)
def test_names_that_are_given_say_which_class_is_which(labels: Any, given: Any, ids: Any) -> None:
    assert understood(labels, given=given) == ([str(name) for name in given], ids)


def test_words_that_yaml_reads_as_truth_values_are_to_be_quoted() -> None:
    for labels in (["no", "yes"], [0, 1], ["0", "1"], [0.0, 1.0, None]):
        with pytest.raises(UserError, match=r"a class called False, and no row .* quote them in data\.labels"):
            read(labels, given=[False, True])
        assert read(labels, given=["no", "yes"]).ids(labels)[:2] == [0, 1]
    with pytest.raises(UserError, match=r"the label 'no', .* quote them in data\.labels"):
        read(["no", "yes", "True"], given=[False, True])
    assert read(["true", "False"], given=["False", "true"]).ids(["true", "False"]) == [1, 0]
    assert read([0, 1], [True, False], given=[False, True]).ids([1, True]) == [1, 1]


@pytest.mark.parametrize(
    ("labels", "given", "ids"),
    [
        (["1.10", "1.1"], ["1.10", "1.1"], [0, 1]),
        (["1", "1.0"], ["1", "2"], [0, 0]),  # a spreadsheet's way of writing it
        (["1.1", "1.10"], ["1.1", "2.0"], r"the label '1\.10', which is none of the 2 classes"),
        ([1, 2, 1], ["1", "2", "other"], [0, 1, 0]),
        ([2, 0, 1], ["1", "2", "other"], "the label 0, .* as a class is called '1', a number is a name here"),
        ([0, 1], ["a", "0"], "the label 1, .* a class is called '0', a number is a name"),
        ([0, 1, 2], ["a", "b", "2"], [0, 1, 2]),  # by its name and by its id
        ([1, 0, 10], ["10", "20", "other"], "the label 10, which is the class '10', and so is 0"),
        ([10, 20], ["10", "20", "other"], [0, 1]),
        ([1, 0], ["10", "20", "other"], [1, 0]),
    ],
)
def test_no_two_classes_become_one(labels: Any, given: Any, ids: Any) -> None:
    if isinstance(ids, list):
        assert read(labels, given=given).ids(labels) == ids
        return
    with pytest.raises(UserError, match=ids):
        read(labels, given=given)


def test_a_number_that_two_classes_are_called_is_neither() -> None:
    assert read(["1", "1.0"], given=["1", "1.0"]).ids(["1.0", "1"]) == [1, 0]
    assert read(["1", "1.0", "x"], ["1.0", "1"]).ids(["1", "x", "1.0"]) == [0, 2, 1]
    with pytest.raises(UserError, match=r"the label 1, .* the classes '1' and '1\.0' are one number"):
        read(["1", "1.0"], [1], given=["1", "1.0"])


@pytest.mark.parametrize(
    ("splits", "listed"),
    [
        (([-2, -1, 0, 1, 2],), ["-2", "-1", "0", "1", "2"]),
        (([1, 2], [0, 1]), ["0", "1", "2"]),
        (([0, 1], [1, 5], [7]), ["0", "1", "5", "7"]),
        (([1, 2, 4, -1],), ["1", "2", "4"]),
        ((["a", "b"], ["c", "a"], ["d"]), ["a", "b", "c", "d"]),
    ],
)
def test_the_classes_that_a_hint_lists_are_those_of_all_splits(splits: Any, listed: list[str]) -> None:
    with pytest.raises(UserError, match=r"list all classes in data\.labels: ") as caught:
        read(*splits)
    assert f"data.labels: {listed}" in str(caught.value)
    assert ("(-1 stands for no label unless it is listed)" in str(caught.value)) == (-1 in splits[0])
    followed = read(*splits, given=listed)
    rows = [label for split in splits for label in split]
    assert [listed[i] if i != IGNORE else "-1" for i in followed.ids(rows)] == [str(label) for label in rows]


def test_a_number_written_otherwise_than_its_class_is_led_to_that_class_and_makes_no_second() -> None:
    rows = ["0.50", "1", "1.5"]
    with pytest.raises(UserError, match=r"the number of the class '0\.5': write both alike, as texts") as caught:
        read(rows, given=[0.5, 1.0, 1.5])
    assert "['0.5'" not in str(caught.value)
    assert read(rows, given=["0.50", "1.0", "1.5"]).ids(rows) == read(["0.5", *rows[1:]], given=[0.5, 1.0, 1.5]).ids(
        ["0.5", *rows[1:]]
    )
    rows = ["0.5", "1", "2.5"]
    with pytest.raises(UserError, match=r"label '2\.5', .*data\.labels: \['0\.5', '1\.0', '1\.5', '2\.5'\]"):
        read(rows, given=[0.5, 1.0, 1.5])
    assert read(rows, given=["0.5", "1.0", "1.5", "2.5"]).ids(rows) == [0, 1, 3]


def test_names_of_a_hubs_data_set_can_be_put_in_another_order() -> None:
    features = Features({"label": ClassLabel(names=["no", "yes"]), "text": Value("string")})
    rows = Dataset.from_dict({"label": [0, 1, -1], "text": ["a"] * 3}, features=features)
    assert read_labels(CLASS, {"train": rows}, "label").ids([0, 1, -1]) == [0, 1, IGNORE]
    assert read_labels(CLASS, {"train": rows}, "label", ["yes", "no"]).ids([0, 1, -1]) == [1, 0, IGNORE]


@pytest.mark.parametrize(
    ("labels", "task", "said"),
    [
        ([[0], [0, 1]], CLASS, r"the split train has the label \[0, 1\], .* one class a row, in row 2"),
        ([{"id": 0}, {"id": 1}], CLASS, r"the label \{'id': 0\}, which is no label .* in row 1"),
        ([1, 2, 4], CLASS, r"label 4, which is none of the 3 classes \(0, 1, 2\), in row 3.*labels: \['1', '2', '4'\]"),
        ([2, 2], CLASS, r"every label of the split train is 2, and a classifier needs two classes\. check the column"),
        ([1, -1, 1], CLASS, r"train is 1, and .*; -1 is taken for no label\. .*data\.labels: \[-1, 1\]"),
        (["-1", "-2"], CLASS, r"train is '-2', and .*; '-1' is taken for no label\. .*data\.labels: \[-2, -1\]"),
        ([None, 1], TAGS, r"the label 1, and token-classification takes a class for each word, in row 2"),
        ([[0.0], [0.0, 0.5]], TAGS, r"the label 0\.5, which is no class, in row 2"),
        ([["a"], ["b", None]], Several(), r"the label \['b', None\], of which a part is no class, in row 2"),
        (["a", "b"], Several(), r"the label 'a', and .* takes any number of classes, in row 1"),
        ([[0.5, 2.0]], Several(), r"the label 0\.5, which is no class, in row 1"),
        (["1e400", "0.5"], CLASS, r"the label '1e400', which is no finite number, in row 1"),
        (["0", "9" * 5000], CLASS, r"the label '9{60}' \.\.\., which is no finite number, in row 2"),
        ([[0, 1, 1], [1, 0]], Several(), r"the label \[0, 1, 1\], which seems to be 0 or 1 for every class"),
        ([["0", "1"], ["1", "1"]], Several(), r"\['1', '1'\], which seems to be 0 or 1 for every class, .* in row 2"),
        (["0.25", "n/a", "1"], CLASS, r"the label 'n/a', which is no number, .* in row 2"),
        (
            ["0", "1", "NaN"],
            CLASS,
            r"the label 'NaN', and all others are numbers: it is a class, or no label, in row 3",
        ),
        (["0,25", "1", "0,5"], CLASS, r"the label '0,25', which is no number as it is written, in row 1"),
        (["1,000.5", "2,100.5"], CLASS, r"the label '1,000\.5', which is no number as it is written"),
        (["5 %", "7%"], CLASS, r"the label '5 %', which is no number as it is written"),
        ([2.5, 2.5, math.nan], CLASS, r"the label 2\.5, and so has every other row"),
        ([[0, 1], [1, 0], []], Several(), r"the label \[\], which are not 2 numbers from 0 to 1"),
    ],
)
def test_what_is_no_label_is_refused_with_the_first_value_and_its_row(labels: Any, task: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(labels, task=task)


def test_other_splits_are_held_against_the_classes_of_training() -> None:
    assert read(["no", "yes"], ["yes", ""]).ids(["yes", ""]) == [1, IGNORE]
    assert read([0, 1], ["1", "0"]).ids(["1"]) == [1]
    for train, validation, said in (
        (["3", "7a"], ["7a", "0"], "the split validation has the label '0', which is none of the 2 classes"),
        ([0.5, 1.0], ["a"], "the split validation has the label 'a', which is no number"),
        (["Caf\u00e9", "b"], ["cafe\u0301.", "b"], r"did you mean 'Caf\\xe9'\? capitals, blanks and signs"),
        ([0, 1], [2, 1], r"the label 2, .*data\.labels: \['0', '1', '2'\]"),
    ):
        with pytest.raises(UserError, match=said):
            read(train, validation)
    with pytest.raises(UserError, match=r"0\.5, and model\.teacher is a classifier of 2 classes, in row 2"):
        read([1.0, 0.5], outputs=lambda: ("model.teacher", 2))


def test_splits_that_number_their_classes_differently_are_refused() -> None:
    def split(names: list[str]) -> Any:
        return Dataset.from_dict({"label": [0, 1]}, features=Features({"label": ClassLabel(names=names)}))

    splits = {"train": split(["no", "yes"]), "validation": split(["yes", "no"])}
    with pytest.raises(UserError, match="the split validation has the label 0, which is 'yes' there and 'no' in"):
        read_labels(CLASS, splits, "label")
    assert read_labels(CLASS, splits | {"validation": split(["no", "yes"])}, "label").names == ["no", "yes"]


def test_rows_of_which_none_has_a_class_are_without_labels() -> None:
    labels = read([[], []], task=Several())
    assert labels.missing(Dataset.from_dict({"label": [[], []]})) == 2


def test_a_split_without_labels_leaves_the_classes_to_the_next() -> None:
    for none in ([None, None], [-1, -1], ["", ""], [-100.0, -1.0]):
        labels = read(none, [1, 0])
        assert (labels.names, labels.ids(none)) == (["0", "1"], [IGNORE, IGNORE])
    assert read([0.5, 1.5], [-1.0, -1.0]).ids([0.5]) == [0.5]


def test_tags_are_understood_word_by_word() -> None:
    labels = [["B-10", "B-9", None], None, [], ["B-9"]]
    assert understood(labels, task=TAGS) == (["B-9", "B-10"], [[1, 0, IGNORE], None, None, [0]])
    assert understood([[0.0, 1.0], [-1.0, 1.0]], task=TAGS) == (["0", "1"], [[0, 1], [IGNORE, 1]])


@pytest.mark.parametrize(
    ("labels", "names", "vectors"),
    [
        ([["joy"], ["anger", "joy"], [], None], ["anger", "joy"], [[0, 1], [1, 1], [0, 0], None]),
        ([[2], [0, 1]], ["0", "1", "2"], [[0, 0, 1], [1, 1, 0]]),
        ([[2, 2], [2, 0, 1, 0]], ["0", "1", "2"], [[0, 0, 1], [1, 1, 1]]),
        ([["joy", " joy", "joy"], ["anger"]], ["anger", "joy"], [[0, 1], [1, 0]]),
        ([[1, 0, 1], [0, 0, 0], [-1, -1, -1]], ["0", "1", "2"], [[1, 0, 1], [0, 0, 0], None]),
        ([[1.0, 0.25], [0.0, 0.0]], ["0", "1"], [[1, 0.25], [0, 0]]),
        ([[True, False]], ["0", "1"], [[1, 0]]),
    ],
)
def test_several_classes_a_row_become_one_number_for_each(labels: Any, names: Any, vectors: Any) -> None:
    found, values = understood(labels, task=Several())
    assert found == names
    expected = [[math.nan] * len(names) if vector is None else vector for vector in vectors]
    torch.testing.assert_close(torch.tensor(values), torch.tensor(expected, dtype=torch.float32), equal_nan=True)


def test_given_names_are_refused_where_they_name_nothing() -> None:
    rows = {"train": Dataset.from_dict({"text": ["a"]}), "validation": Dataset.from_dict({"text": ["a"]})}
    with pytest.raises(UserError, match=r"data\.labels = \['a', 'b'\]: causal-lm has no classes"):
        read_raw_data(CausalLM(), rows, labels=["a", "b"])
    with pytest.raises(UserError, match=r"data\.labels = \['a', 'a'\]: must name each class once"):
        read(["a", "b"], given=["a", "a"])


def test_names_that_look_like_other_countries_numbers_are_classes_once_they_are_listed() -> None:
    assert understood(["5%", "10%"], given=["10%", "5%"]) == (["10%", "5%"], [1, 0])
    assert understood(["0", "?"], given=["?", "0"]) == (["?", "0"], [1, 0])


def rows_of(*splits: dict[str, list[Any]], **options: Any) -> RawData:
    names = ("train", "validation", "test")
    source = {n: Dataset.from_dict(one) for n, one in zip(names, splits, strict=False)}
    return read_raw_data(CLASS, source, **options)


def test_a_pair_of_texts_is_one_in_every_split() -> None:
    pair = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    alone = {name: values for name, values in pair.items() if name != "hypothesis"}
    for splits in ((pair, alone), (pair, pair, alone), (alone, pair)):
        with pytest.raises(UserError, match="lacks this column") as error:
            rows_of(*splits)
        assert error.value.key == "data.columns.text_pair"


def test_a_text_that_is_named_takes_no_second_one_of_a_pair_it_is_not_in() -> None:
    columns = {"body": ["a", "b"], "premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    assert rows_of(columns, columns, columns={"text": "body"}).columns["train"] == {"text": "body", "label": "label"}
    named = {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    assert rows_of(columns, columns, columns={"text": "premise"}).columns["train"] == named


def test_a_split_whose_labels_have_another_name_is_refused_with_both() -> None:
    train, validation = {"text": ["a", "b"], "labels": [0, 1]}, {"text": ["a", "b"], "label": [0, 1]}
    with pytest.raises(UserError, match="the split train has no such column, and one that is called 'labels'"):
        rows_of(train, validation)
    read = rows_of({"text": ["a", "b"]}, validation)  # a teacher's to label
    assert read.without_label == {"train": 2, "validation": 0}
    assert rows_of(train, validation, columns={"label": "label"}).without_label == {"train": 2, "validation": 0}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Yes", "yes"),
        ("pos", "pos."),
        ("a b", "a  b"),
        ("caf\u00e9", "cafe\u0301"),
        ("neg", "n\u200beg"),
        ("\u2764", "\u2764\ufe0f"),
    ],
)
def test_classes_that_an_eye_does_not_tell_apart_are_named(one: str, two: str) -> None:
    def said(*names: str) -> list[str]:
        labels = {"text": ["a"] * len(names), "label": list(names)}
        read = rows_of(labels, labels)
        assert read.labels is not None
        assert len(read.labels.names or ()) == len(names)  # they stay classes of their own
        return doubts(read, read.labels, "label")

    [line] = said(one, two, "other")
    assert line.startswith(f"the classes {', '.join(map(ascii, sorted([one, two])))} differ in")
    assert said("C", "C#", "C++", "other", "-", ".", "1", "10") == []
