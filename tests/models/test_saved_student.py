"""The promises of the folder that holds a student."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

import distill
from distill.compression.quantization.ptq import quantize
from distill.core.record import RECORD, note, recount_zeros, set_steps, steps_of, summary
from distill.core.utils.errors import UserError
from distill.models import saved_student
from distill.models.pretrained import load_model
from distill.models.saved_student import load, save
from distill.run.folder import Run

STEPS = [{"kind": "layers", "kept": [2, 4, 6], "of": 6}, {"kind": "sparsity", "target": 0.5}]


def classifier(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", vocab_size=10, **sizes))


class Tied(nn.Module):
    """An embedding whose matrix is its output layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.embedding.weight
        self.register_buffer("scale", torch.rand(3))


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model = classifier()
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, "[UNK]")))
    save(model, tmp_path / "student", words, STEPS)
    loaded = distill.load(tmp_path / "student")
    assert type(loaded) is type(model)
    assert same(loaded, model)
    assert steps_of(loaded) == STEPS
    assert not loaded.training
    assert AutoTokenizer.from_pretrained(tmp_path / "student").get_vocab() == {"[UNK]": 0, "a": 1}
    assert sorted(load_file(tmp_path / "student" / "model.safetensors")) == sorted(model.state_dict())


def test_transformers_opens_the_folder_too(tmp_path: Path) -> None:
    model = classifier()
    save(model, tmp_path / "student")
    assert same(AutoModelForSequenceClassification.from_pretrained(tmp_path / "student"), model)


def test_a_run_stands_for_its_student(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    save(classifier(), tmp_path / "student")
    assert same(load(tmp_path), classifier())


def test_steps_noted_on_the_model_are_saved_in_order(tmp_path: Path) -> None:
    model = classifier()
    for step in STEPS:
        note(model, step)
    save(model, tmp_path / "student")
    record = json.loads((tmp_path / "student" / "compression.json").read_text())
    assert (record["version"], record["steps"]) == (1, STEPS)
    assert not any("steps" in name for name in model.state_dict())


def test_a_plain_module_with_tied_weights_is_filled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tied()
    save(model, tmp_path / "student")
    fresh = Tied()
    assert not same(fresh, model)
    assert load(tmp_path / "student", model=fresh) is fresh
    assert same(fresh, model)
    assert fresh.out.weight is fresh.embedding.weight


def test_a_newer_artifact_replaces_the_older_and_leaves_nothing_behind(tmp_path: Path) -> None:
    save(classifier(0), tmp_path / "student", steps=STEPS)
    (tmp_path / "student" / "stray").write_text("")
    save(classifier(1), tmp_path / "student")
    assert same(load(tmp_path / "student"), classifier(1))
    assert [p.name for p in tmp_path.iterdir()] == ["student"]
    assert not (tmp_path / "student" / "stray").exists()


def test_a_write_that_fails_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(classifier(0), tmp_path / "student")

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    for step in ("_sync", "_swap"):
        with monkeypatch.context() as patch:
            patch.setattr(f"distill.core.utils.replacing.{step}", fail)
            with pytest.raises(OSError, match="no space left"):
                save(classifier(1), tmp_path / "student")
        assert same(load(tmp_path / "student"), classifier(0))
        assert [p.name for p in tmp_path.iterdir()] == ["student"]


def test_what_a_kill_left_behind_hinders_no_save(tmp_path: Path) -> None:
    for name in (".student.new", ".student.old", ".student.1a2b3c4d.new", ".student.1a2b3c4d.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("")
    for seed in (0, 1):
        save(classifier(seed), tmp_path / "student")
        assert same(load(tmp_path / "student"), classifier(seed))


def test_zeros_are_counted_anew(tmp_path: Path) -> None:
    model = classifier()
    name = "bert.pooler.dense"
    counts = {name: {"weights": 64, "zeros": 60}, "gone": {"weights": 10, "zeros": 10}}
    note(model, {"kind": "sparsity", "target": 0.8, "actual": 0.9, "layers": counts}, {"kind": "layers"})
    with torch.no_grad():
        model.get_parameter(f"{name}.weight").fill_(1)[0].zero_()  # 1 of 8 rows
    recount_zeros(model)
    first, second = steps_of(model)
    assert first == {
        "kind": "sparsity",
        "target": 0.8,
        "actual": 0.125,
        "layers": {name: {"weights": 64, "zeros": 8}},
    }
    assert second == {"kind": "layers"}


def record(folder: Path, **changes: Any) -> None:
    folder.joinpath("compression.json").write_text(json.dumps({"version": 1, "steps": []} | changes))


def test_an_artifact_that_cannot_be_rebuilt_is_refused(tmp_path: Path) -> None:
    save(classifier(), tmp_path / "student")
    record(tmp_path / "student", steps=[{"kind": "layres"}])
    with pytest.raises(UserError, match=r"'layres', which this version cannot rebuild.*did you mean 'layers'"):
        load(tmp_path / "student")
    record(tmp_path / "student", version=2)
    with pytest.raises(UserError, match="of format 2"):
        load(tmp_path / "student")
    (tmp_path / "student" / "compression.json").write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "student")


def by_load(folder: Path) -> Any:
    return load(folder)


def by_transformers(folder: Path) -> Any:
    return load_model(str(folder), AutoModelForSequenceClassification, "model.teacher.path", head={})


@pytest.mark.parametrize("opens", [by_load, by_transformers])
@pytest.mark.parametrize("store", ["float", "integers"])
def test_a_quantized_student_whose_record_is_lost_is_no_float_model(opens: Any, store: str, tmp_path: Path) -> None:
    model = classifier()
    x = {"input_ids": torch.arange(6)[None]}
    set_steps(model, quantize(model, [x], store=store))  # type: ignore[arg-type]
    save(model, tmp_path / "saved")
    assert torch.equal(opens(tmp_path / "saved")(**x).logits, model.eval()(**x).logits)
    if store == "float":  # as it would be of a record that was written anew
        record(tmp_path / "saved", steps=[])
        with pytest.raises(UserError, match=r"hold bert\S+weight_scale|hold bert\S+input_scale"):
            opens(tmp_path / "saved")
    (tmp_path / "saved" / RECORD).unlink()
    with pytest.raises(UserError, match=r"there is no compression\.json .* from a copy"):
        opens(tmp_path / "saved")


@pytest.mark.parametrize("opens", [by_load, by_transformers])
def test_the_student_of_a_run_has_a_record(opens: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / "plan.json").write_text('{"learning_rate": 1e-3}')
    save(classifier(), tmp_path / "student", steps=STEPS)  # of which the weights alone show nothing
    assert same(opens(tmp_path), classifier())
    (tmp_path / "student" / RECORD).unlink()
    assert same(opens(tmp_path), classifier())  # files of these names, and no run
    plan, result = Run(tmp_path), {"monitor": "accuracy", "scores": {}}
    for write in (lambda: plan.write_plan({}), lambda: plan.write_result(result)):
        write()
        with pytest.raises(UserError, match=r"there is no compression\.json"):
            opens(tmp_path)
        (tmp_path / "plan.json").unlink(missing_ok=True)


@pytest.mark.parametrize("opens", [by_load, by_transformers])
def test_weights_beside_a_layers_own_are_never_passed_over(opens: Any, tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    weights, file = load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors"
    taken_by_none = {"cls.predictions.bias": torch.ones(3), "bert.embeddings.position_ids": torch.arange(4)[None]}
    save_file(weights | taken_by_none, file, {"format": "pt"})  # another task's head; counted anew
    assert same(opens(tmp_path), classifier())
    save_file(weights | {"bert.encoder.layer.0.output.dense.gain": torch.ones(8)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"hold bert\.encoder\.layer\.0\.output\.dense\.gain.*Linear without it"):
        opens(tmp_path)


def test_a_few_words_tell_what_was_made_smaller() -> None:
    layers = {"a": {"weights": {"bits": 4}}, "b": {"weights": {"bits": 8}}, "c": {"weights": {"bits": 4}}}
    removed = {"kind": "remove", "heads": {}, "neurons": {}}
    sparse, quantized = {"kind": "sparsity", "actual": 0.80049}, {"kind": "quantize", "modules": layers}
    assert summary([{"kind": "layers"}, removed, sparse, quantized]) == "units removed, 80 % zero, int4/8"
    assert summary([{"kind": "layers", "kept": [1], "of": 2}]) == ""


def test_unknown_steps_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        save(classifier(), tmp_path / "student", steps=[{"kind": "magic"}])
    assert not list(tmp_path.iterdir())


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nothing")
    save(Tied(), tmp_path / "plain")
    with pytest.raises(UserError, match=r"load\(folder, model=module\)"):
        load(tmp_path / "plain")
    with pytest.raises(UserError, match="not those of this Linear"):
        load(tmp_path / "plain", model=nn.Linear(2, 2))
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.onnx").touch()
    with pytest.raises(UserError, match=r"for onnxruntime, not a student.*onnxruntime\.InferenceSession"):
        load(tmp_path / "export")
    save(classifier(), tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "cut")


@pytest.mark.parametrize(
    "step",
    [
        {"kind": "quantize"},
        {"kind": "quantize", "modules": {"0": {"weights": 8}}},
        {"kind": "quantize", "modules": {"0": {"weights": {"bits": 8}}}},  # of no scheme
        {"kind": "quantize", "modules": {"nowhere": {"weights": {"bits": 8}, "activations": None}}},
        {"kind": "sparsity", "actual": "half"},
        {"kind": "sparsity", "actual": 0.5, "layers": {"0": 3}},
        {"kind": "remove", "heads": [1]},
        {"kind": "remove", "heads": {"one": [1]}},
        {"kind": "low_rank", "modules": ["0"]},
        {"kind": "low_rank", "modules": {"0": 10**30}},
        {"kind": "share", "groups": [[1, "a"]]},
        {"kind": "share", "groups": [[1, 2]]},
    ],
    ids=str,
)
def test_a_step_that_does_not_say_what_was_done_is_one_message(step: dict[str, Any], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    saved_student.save(model, tmp_path / "saved")
    (tmp_path / "saved" / RECORD).write_text(json.dumps({"version": 1, "steps": [step]}))
    with pytest.raises(UserError, match=r"compression\.json"):
        saved_student.load(tmp_path / "saved", nn.Sequential(nn.Linear(4, 4)))


def test_a_kind_of_step_of_ones_own_is_done_again_when_the_folder_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_student, "STEP_KINDS", kinds := dict(saved_student.STEP_KINDS))
    monkeypatch.setattr("distill.core.record.STEP_KINDS", kinds)
    monkeypatch.setattr(saved_student, "_REBUILD", dict(saved_student._REBUILD))

    def widen(model: nn.Module, step: Mapping[str, Any]) -> None:
        model.append(nn.Linear(2, step["width"]))  # type: ignore[operator]

    wide = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))
    with pytest.raises(ValueError, match="unknown kind"):
        save(wide, tmp_path / "wide", steps=[{"kind": "widen", "width": 5}])
    saved_student.register("widen", widen)
    save(wide, tmp_path / "wide", steps=[{"kind": "widen", "width": 5}])
    again = load(tmp_path / "wide", nn.Sequential(nn.Linear(3, 2)))
    assert torch.equal(again(torch.ones(1, 3)), wide(torch.ones(1, 3)))
    with pytest.raises(ValueError, match="already"):
        saved_student.register("share", widen)
