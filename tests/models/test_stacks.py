"""Encoder-decoders: layers of both stacks copied, and losses on the layers of either."""

import copy
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForSequenceClassification,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from distill.core.forward import forward
from distill.core.model_spec import ModelSpec
from distill.core.record import steps_of
from distill.core.signals import Request
from distill.core.utils.errors import UserError
from distill.losses import (
    AttentionTransfer,
    CosineHidden,
    FitNetHint,
    HintonKL,
    RelationTransfer,
    SimilarityPreserving,
)
from distill.models.students import StudentConfig
from distill.models.students.build import build_student
from distill.tasks import Seq2Seq, TextClassification
from distill.training.module import Distillation

SMALL: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "encoder_decoders.py")))
WORDS = ["abc", "f", "edcbaabcde", "bad"]
every_kind = pytest.mark.parametrize("kind", SMALL.KINDS)
every_stack = pytest.mark.parametrize("stack", ["encoder", "decoder"])


def batches(model: Any, size: int = 4) -> list[Any]:
    """The same four samples, so many at a time."""
    task, tokenizer = Seq2Seq(), SMALL.letters()
    task.meet_models(model, None)
    made = task.encode(tokenizer, 16)({"text": WORDS, "target": ["cb", "fedcba", "a", "dabba"]})
    rows = [{n: np.asarray(v[i]) for n, v in made.items()} | {"id": i, "epoch": 0, "seed": 0} for i in range(4)]
    return [task.collate(rows[start : start + size], tokenizer) for start in range(0, 4, size)]


def taken_out(model: Any, stack: str, kept: list[int]) -> None:
    """Leave the layers ``kept`` (0 is the first) of one stack in their list; the first gives all others their bias."""
    parent = model.get_submodule(stack) if hasattr(model, stack) else model.get_submodule(f"model.{stack}")
    name = "block" if hasattr(parent, "block") else "layers"
    layers = getattr(parent, name)
    if name == "block":
        bias = layers[0].layer[0].SelfAttention.relative_attention_bias
        attention = layers[kept[0]].layer[0].SelfAttention
        attention.relative_attention_bias, attention.has_relative_attention_bias = bias, True
    setattr(parent, name, nn.ModuleList(layers[number] for number in kept))


@every_kind
@pytest.mark.parametrize(
    ("settings", "encoder", "decoder"),
    [
        ({"num_layers": 2}, [1, 3], [1, 2]),
        ({"num_layers": 2, "num_decoder_layers": 1}, [1, 3], [2]),
        ({"num_decoder_layers": 2, "decoder_layers": "first"}, [0, 1, 2, 3], [0, 1]),
        ({"layers": [2, 4], "decoder_layers": [2]}, [1, 3], [1]),
    ],
)
def test_layers_of_both_stacks_are_copied_as_asked(kind, settings, encoder, decoder, tmp_path):
    teacher = SMALL.encoder_decoder(kind, (4, 3), seed=1)
    student = build_student(StudentConfig(**settings), Seq2Seq(), teacher).eval()
    oracle = copy.deepcopy(teacher)
    for stack, kept in (("encoder", encoder), ("decoder", decoder)):
        taken_out(oracle, stack, kept)
    [batch] = batches(teacher)
    with torch.no_grad():
        found, expected = student(**batch.inputs).logits, oracle(**batch.inputs).logits
        whole = teacher(**batch.inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, whole, atol=1e-3)
    cut = {step["stack"]: step["kept"] for step in steps_of(student)}
    every = {"encoder": (encoder, 4), "decoder": (decoder, 3)}
    assert cut == {stack: [k + 1 for k in kept] for stack, (kept, depth) in every.items() if len(kept) < depth}
    student.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch.inputs).logits, found, rtol=1e-6, atol=1e-6)
    names = ("num_layers", "num_decoder_layers") if kind == "t5" else ("encoder_layers", "decoder_layers")
    assert [getattr(again.config, name) for name in names] == [len(encoder), len(decoder)]
    assert next(student.parameters()).data_ptr() != next(teacher.parameters()).data_ptr()


def test_where_every_layer_has_a_bias_of_its_own_each_keeps_its_own():
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 3}
    teacher = UMT5ForConditionalGeneration(UMT5Config(**sizes, decoder_start_token_id=0, pad_token_id=0)).eval()
    student = build_student(StudentConfig(layers=[2, 3], decoder_layers=[3]), Seq2Seq(), teacher)
    for stack, kept in (("encoder", [2, 3]), ("decoder", [3])):
        for place, number in enumerate(kept):
            bias = f"{stack}.block.{{}}.layer.0.SelfAttention.relative_attention_bias.weight"
            found, expected = student.state_dict()[bias.format(place)], teacher.state_dict()[bias.format(number - 1)]
            assert found.equal(expected)
            assert found.any()


def test_layers_that_are_not_there_are_refused_by_the_setting_of_their_stack():
    teacher = SMALL.encoder_decoder("bart", (4, 2))
    for settings, key in (({"num_layers": 3}, "num_layers"), ({"num_decoder_layers": 3}, "num_decoder_layers")):
        with pytest.raises(UserError, match="has 2 layers") as error:
            build_student(StudentConfig(**settings), Seq2Seq(), teacher)
        assert error.value.key == f"model.student.{key}"
    bert = BertForSequenceClassification(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=2))
    with pytest.raises(UserError, match="is for encoder-decoders") as error:
        build_student(StudentConfig(num_decoder_layers=1), TextClassification(["a", "b"]), bert)
    assert error.value.key == "model.student.num_decoder_layers"


def close(found: Any, expected: Any) -> None:
    """But for the last bits: with a cache transformers computes in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@every_kind
@every_stack
def test_what_is_kept_of_a_stack_is_what_transformers_gives_of_it(kind, stack):
    model = SMALL.encoder_decoder(kind, (3, 2), attn_implementation="eager")
    [batch] = batches(model)
    request = Request(logits=True, hidden_states={0, 1, -1}, attentions={-1}, projections={2})  # type: ignore[arg-type]
    with torch.no_grad():
        found = forward(model, batch.inputs, request.of(stack)).of(stack)
        output = model(**batch.inputs, output_hidden_states=True, output_attentions=True)
    for layer in (0, 1, -1):
        close(found.hidden_states[layer], output[f"{stack}_hidden_states"][layer])
    close(found.attentions[-1], output[f"{stack}_attentions"][-1])
    paths = ModelSpec(model, "model", stack).projections(2, "layer")
    parts = ("q", "k", "v") if kind == "t5" else ("q_proj", "k_proj", "v_proj")
    inside = "layer.0.SelfAttention" if kind == "t5" else "self_attn"
    begin = f"{stack}.block.1" if kind == "t5" else f"model.{stack}.layers.1"
    assert paths == tuple(f"{begin}.{inside}.{part}" for part in parts)
    assert found.projections[2][0].shape[2] == output[f"{stack}_hidden_states"][0].shape[1]


ON_LAYERS = {
    "hint": lambda stack: FitNetHint({1: 2, -1: -1}, stack=stack, regressor="always"),
    "cosine": lambda stack: CosineHidden(stack=stack),
    "attention": lambda stack: AttentionTransfer(stack=stack),
    "relation": lambda stack: RelationTransfer(2, stack=stack),
    "relation_v1": lambda stack: RelationTransfer(1, stack=stack),
}


@pytest.mark.parametrize("kind", ["t5", "bart"])
@every_stack
@pytest.mark.parametrize("name", ON_LAYERS)
def test_a_loss_on_the_layers_of_a_stack_is_the_same_however_a_batch_is_divided(kind, stack, name):
    """Of those that see none but a sample's own tokens: padding of either text adds nothing."""
    student = SMALL.encoder_decoder(kind, (2, 2), seed=1, attn_implementation="eager")
    teacher = SMALL.encoder_decoder(kind, (3, 2), seed=2, attn_implementation="eager")
    torch.manual_seed(0)
    student, teacher = student.double(), teacher.double()  # so that nothing but the order of sums may differ
    module = Distillation(student, Seq2Seq(), teacher, [ON_LAYERS[name](stack), HintonKL(weight=0.5)])
    student.eval()
    module.losses.double()
    found = []
    for size in (4, 2, 1):
        module.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for batch in batches(student, size):
            value, _ = module.terms(batch)
            value.backward()
            total += value.detach()
        gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        found.append([total, *gradients])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-7)
    reached = module.student.get_submodule(stack if kind == "t5" else f"model.{stack}")
    assert any(p.grad is not None and bool(p.grad.any()) for p in reached.parameters())


@every_stack
def test_relations_between_samples_are_those_of_the_mean_over_a_stacks_own_tokens(stack):
    student, teacher = SMALL.encoder_decoder("t5", (1, 1), seed=1), SMALL.encoder_decoder("t5", seed=2)
    module = Distillation(student, Seq2Seq(), teacher, [SimilarityPreserving(stack=stack)])
    student.eval()
    [batch] = batches(student)
    real = batch.tokens if stack == "encoder" else batch.decoder_tokens
    similarities = []
    with torch.no_grad():
        value, _ = module.terms(batch)
        for model in (student, teacher):
            hidden = model(**batch.inputs, output_hidden_states=True)[f"{stack}_hidden_states"][-1].double()
            means = torch.stack([row[own].mean(0) for row, own in zip(hidden, real, strict=True)])
            products = means @ means.T
            similarities.append(products / products.norm(dim=1, keepdim=True))
    expected = (similarities[0] - similarities[1]).square().sum() / 4**2
    assert float(value / batch.count) == pytest.approx(float(expected), rel=1e-5)


def test_which_stack_is_meant_must_be_said_and_only_where_there_are_two():
    models = SMALL.encoder_decoder("t5", seed=1), SMALL.encoder_decoder("t5", seed=2)
    with pytest.raises(UserError, match="has layers in its encoder and in its decoder") as error:
        Distillation(models[0], Seq2Seq(), models[1], [FitNetHint()])
    assert "stack: encoder, or stack: decoder" in error.value.hint
    config = BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=2)
    berts = [BertForSequenceClassification(config) for _ in range(2)]
    with pytest.raises(UserError, match="is for encoder-decoders") as error:
        Distillation(berts[0], "text-classification", berts[1], [FitNetHint(stack="decoder")], labels=["a", "b"])
    assert error.value.key == "model.losses.0.stack"
    with pytest.raises(UserError, match="must be 'encoder' or 'decoder'"):
        FitNetHint(stack="both")  # type: ignore[arg-type]
