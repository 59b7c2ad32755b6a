"""The promises of loading teachers (and whatever else is pretrained) by path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from distill.core.utils.errors import UserError
from distill.models.pretrained import load_model, load_tokenizer
from distill.models.students import StudentConfig, build_student
from distill.models.teachers import Ensemble, LiveTeacher, TeacherConfig, build_teacher
from distill.tasks import CausalLM, Plain, TextClassification

NAMES = ["no", "maybe", "yes"]
TASK = TextClassification(NAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "teacher")


def saved(folder: Path, seed: int = 0, names: list[str] = NAMES, words: str = "abcd") -> Path:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    config = AutoConfig.for_model("bert", vocab_size=10, **sizes, id2label=dict(enumerate(names)))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[PAD]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, "[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return folder


def test_a_path_makes_a_live_teacher_with_its_tokenizer(folder: Path) -> None:
    teacher = build_teacher(str(folder), TASK, NAMES)
    assert isinstance(teacher, LiveTeacher)
    assert teacher.tokenizers[0].get_vocab()["a"] == 2
    assert not teacher.models[0].training
    assert teacher.spec.num_layers == 2


def test_dtype_attention_and_memory_are_as_configured(folder: Path) -> None:
    config = TeacherConfig(path=str(folder), dtype="bfloat16", attn_implementation="eager", remember=False)
    teacher = build_teacher(config, TASK)
    assert isinstance(teacher, LiveTeacher)
    assert {p.dtype for p in teacher.models[0].parameters()} == {torch.bfloat16}
    assert teacher.spec.config._attn_implementation == "eager"
    assert not teacher.remember


def test_several_make_an_ensemble_and_one_in_a_list_is_one(folder: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "other", seed=1)
    made = build_teacher([str(folder), TeacherConfig(path=str(other), weight=3.0)], TASK)
    assert isinstance(made, Ensemble)
    assert made.weights == [0.25, 0.75]
    assert isinstance(build_teacher([str(folder)], TASK), LiveTeacher)


def test_teachers_of_other_words_or_classes_are_refused_together(folder: Path, tmp_path: Path) -> None:
    words = saved(tmp_path / "words", words="badc")
    with pytest.raises(UserError, match="differ in 4 tokens"):
        build_teacher([str(folder), str(words)], TASK)
    classes = saved(tmp_path / "classes", names=["yes", "maybe", "no"])
    with pytest.raises(UserError, match="the same in another order"):
        build_teacher([str(folder), str(classes)], TextClassification(["0", "1", "2"]))


def test_a_teacher_of_other_classes_than_the_data_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"3 classes \(.*\) and the data has 2 \(no, yes\)"):
        build_teacher(str(folder), TextClassification(["no", "yes"]))
    with pytest.raises(UserError, match="the same in another order: yes, maybe, no"):
        build_teacher(str(folder), TASK, NAMES[::-1])


def test_a_head_that_was_trained_for_another_kind_of_outputs_is_refused(folder: Path) -> None:
    AutoConfig.from_pretrained(folder, problem_type="single_label_classification").save_pretrained(folder)
    build_teacher(str(folder), TASK)
    for kind in ("multi_label_classification", "regression"):
        AutoConfig.from_pretrained(folder, problem_type=kind).save_pretrained(folder)
        with pytest.raises(UserError, match=f"^model.teacher: was trained for {kind}, and would be used for single"):
            build_teacher(str(folder), TASK)


def test_the_datas_names_can_be_given_to_a_teachers_classes(folder: Path) -> None:
    data = ["nein", "vielleicht", "ja"]
    with pytest.raises(UserError, match=r"model\.teacher\.labels: \[nein, vielleicht, ja\]"):
        build_teacher(str(folder), TASK, data)
    teacher = build_teacher(TeacherConfig(path=str(folder), labels=data), TASK, data)
    assert teacher.models[0].config.id2label == dict(enumerate(data))  # type: ignore[union-attr]
    with pytest.raises(UserError, match="the same in another order"):
        build_teacher(TeacherConfig(path=str(folder), labels=data[::-1]), TASK, data)
    for wrong in (data[:2], ["ja", "ja", "nein"]):
        with pytest.raises(
            UserError, match=r"model\.teacher\.labels = .*name each of the teacher's 3 classes once.*maybe"
        ):
            build_teacher(TeacherConfig(path=str(folder), labels=wrong), TASK, data)


def test_a_teacher_without_a_trained_head_is_refused(folder: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "body")
    load_tokenizer(str(folder), "").save_pretrained(tmp_path / "body")
    with pytest.raises(UserError, match=r"no trained head for the task: classifier\.bias.*fine-tune it"):
        build_teacher(str(tmp_path / "body"), TASK)
    student = build_student(StudentConfig(path=str(tmp_path / "body")), TASK)
    assert student.config.id2label == dict(enumerate(NAMES))  # type: ignore[union-attr]


def test_a_teacher_of_another_kind_of_model_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "distilbert", "dim": 8}))
    with pytest.raises(UserError, match=r"cannot do this task \(AutoModelForCausalLM\)"):
        build_teacher(str(folder), CausalLM())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "brat"}))
    with pytest.raises(UserError, match="brat"):
        build_teacher(str(folder), TASK)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only as pytorch_model\.bin, a format that can run code.*save_pretrained"):
        build_teacher(str(folder), TASK)


def load(folder: Path | str, **head: Any) -> Any:
    return load_model(str(folder), AutoModelForSequenceClassification, "model.student.path", head=head)


def test_the_way_to_convert_them_works(folder: Path) -> None:
    expected = load(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(expected, folder / "pytorch_model.bin")
    with pytest.raises(UserError) as raised:
        load(folder)
    exec(raised.value.hint.split('"')[1])
    assert all(torch.equal(load(folder).state_dict()[name], tensor) for name, tensor in expected.items())


def test_folders_that_hold_no_model_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.student\.path = .*no such folder"):
        load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        load(tmp_path / "empty")
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="is no file of safetensors"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        load(folder)


def test_a_name_that_the_hub_does_not_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no such folder, and the hub did not give"):
        load("no-such-owner/no-such-model")


def test_weights_that_do_not_fit_below_the_head_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 16}))
    with pytest.raises(UserError, match=r"do not fit the model's config\.json"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"they lack bert\.encoder\.layer\.2"):
        load(folder)


def test_a_head_of_another_number_of_classes_is_made_anew(folder: Path) -> None:
    assert load(folder, num_labels=7).classifier.weight.shape == (7, 8)


def test_a_student_artifact_that_cannot_be_rebuilt_is_refused(folder: Path) -> None:
    (folder / "compression.json").write_text('{"version": 1, "steps": [{"kind": "heads"}]}')
    with pytest.raises(UserError, match="'heads', which this version cannot rebuild"):
        load(folder)


def test_a_model_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        build_teacher(str(folder), TASK)


def test_an_attention_implementation_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.teacher\.attn_implementation = 'fast'.*eager and sdpa"):
        build_teacher(TeacherConfig(path=str(folder), attn_implementation="fast"), TASK)


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(folder, num_labels=7)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_a_plain_task_takes_modules_not_paths() -> None:
    with pytest.raises(UserError, match="give a module"):
        build_teacher("x", Plain())


def test_yaml_makes_the_configuration() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=str | TeacherConfig | list[TeacherConfig])
    parsed = parser.parse_object({"teacher": [{"path": "a"}, {"path": "b", "weight": 2.0}]})
    assert parser.instantiate(parsed).teacher == [TeacherConfig(path="a"), TeacherConfig(path="b", weight=2.0)]
