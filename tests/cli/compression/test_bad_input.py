"""What a user gets wrong about compression is one message with key, value, problem and hint, and nothing written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

ELECTRA = "{layers: null, num_layers: null, config: {model_type: electra, hidden_size: 16, num_hidden_layers: 1}}"
PRUNING, QAT, STRUCTURED = (
    f"callbacks.{name}" for name in ("GradualMagnitudePruning", "QuantizationAwareTraining", "StructuredPruning")
)


def callbacks(*given: str) -> list[str]:
    """The argument that gives these callbacks, each written as ``NAME: ARGUMENTS``."""
    named = (text.partition(": ") for text in given)
    return ["--callbacks", "[" + ", ".join(f"{{class_path: {n}, init_args: {{{a}}}}}" for n, _, a in named) + "]"]


CASES: dict[str, tuple[list[str], list[str]]] = {
    "sparsity of 1": (
        callbacks("GradualMagnitudePruning: final_sparsity: 1.0"),
        [f"{PRUNING}.final_sparsity = 1.0: a sparsity lies in [0, 1)", "0.8 prunes 80 %"],
    ),
    "negative sparsity of some layers": (
        callbacks("GradualMagnitudePruning: overrides: {query: -0.5}"),
        [f"{PRUNING}.overrides.query = -0.5: a sparsity lies in [0, 1)", "0.8 prunes 80 %"],
    ),
    "pruning that begins after its end": (
        callbacks("GradualMagnitudePruning: begin: 0.7, end: 0.3"),
        [f"{PRUNING}.begin = 0.7: must not lie after 'end'", "end is 0.3"],
    ),
    "pruning that ends after the run": (
        callbacks("GradualMagnitudePruning: end: 50"),
        [f"{PRUNING}.end = 50: the run ends after 2 steps", "let it end earlier, or train longer"],
    ),
    "pruning of no layer": (
        callbacks("GradualMagnitudePruning: include: [attention.self.querry]"),
        [
            f"{PRUNING}.include.0 = 'attention.self.querry'",
            "in no module's name",
            "did you mean 'attention.self.query'",
        ],
    ),
    "override of no layer": (
        callbacks("QuantizationAwareTraining: overrides: {outputt.dense: 4}"),
        [f"{QAT}.overrides.outputt.dense: ", "in no module's name", "output.dense'"],
    ),
    "override of a layer that is not quantized": (
        callbacks("QuantizationAwareTraining: overrides: {classifier: 4}"),
        [
            f"{QAT}.overrides.classifier: ",
            "found only in modules that are not compressed: classifier.",
            "the head too",
        ],
    ),
    "override of a layer that is not pruned": (
        callbacks("GradualMagnitudePruning: exclude: [attention], overrides: {key: 0.9}"),
        [f"{PRUNING}.overrides.key: ", "not compressed: bert.encoder.layer.0.attention.self.key, ", "exclude"],
    ),
    "pruning of what is not pruned": (
        callbacks("GradualMagnitudePruning: include: [LayerNorm, query]"),
        [f"{PRUNING}.include.0 = 'LayerNorm'", "not compressed: bert.embeddings.LayerNorm", "of type Linear or Conv1D"],
    ),
    "a type that there is not": (
        callbacks("QuantizationAwareTraining: types: [Linear, conv1d]"),
        [f"{QAT}.types.1 = 'conv1d'", "Linear, Conv1D, Conv1d, Conv2d", "did you mean 'Conv1d'"],
    ),
    "a cap on layers that are ranked by themselves": (
        callbacks("GradualMagnitudePruning: scope: layer, max_layer_sparsity: 0.9"),
        [f"{PRUNING}.max_layer_sparsity = 0.9: with a ranking for each layer", "scope: global"],
    ),
    "Lightning's pruning beside ours": (
        callbacks("GradualMagnitudePruning: ", "pytorch_lightning.callbacks.ModelPruning: pruning_fn: l1_unstructured"),
        [
            "callbacks = ['GradualMagnitudePruning', 'ModelPruning']",
            "names of its own",
            "GradualMagnitudePruning alone",
        ],
    ),
    "bits that there are not": (
        callbacks("QuantizationAwareTraining: weights: {bits: 9}"),
        ["callbacks.0.weights.bits = 9: must be one of 2, 3, 4, 5, 6, 7, 8, 16. choose one of these"],
    ),
    "bits of some layers that there are not": (
        callbacks("QuantizationAwareTraining: overrides: {query: 17}"),
        ["callbacks.0.overrides.query = 17: must be ", "one of 2, 3, 4, 5, 6, 7, 8, 16. choose one of these"],
    ),
    "groups that do not divide a layer": (
        callbacks("QuantizationAwareTraining: weights: {bits: 4, granularity: group, group_size: 24}"),
        [f"{QAT}.weights.group_size = 24", "divide", "32"],
    ),
    "rounding that begins after ranges are frozen": (
        callbacks("QuantizationAwareTraining: begin: 0.9, freeze_observers: 0.5"),
        [f"{QAT}.begin = 0.9: must not lie after freeze_observers (0.5)", "order them"],
    ),
    "structure of an unknown architecture": (
        [*callbacks("StructuredPruning: heads: 0.5"), "--model.student", ELECTRA],
        [f"{STRUCTURED}: it is known how bert, ", "this is electra", "GradualMagnitudePruning"],
    ),
    "more layers than there are": (
        callbacks("StructuredPruning: layers: 2"),
        [f"{STRUCTURED}.layers = 2", "has layers 1 to 2, and one must stay", "fewer than 2"],
    ),
    "quantized before pruned": (
        callbacks("QuantizationAwareTraining: ", "GradualMagnitudePruning: "),
        ["callbacks = ['QuantizationAwareTraining', 'Gradual", "then masks, then quantization", "change their order"],
    ),
    "one callback twice": (
        callbacks("GradualMagnitudePruning: ", "GradualMagnitudePruning: final_sparsity: 0.5"),
        ["callbacks = ['GradualMagnitudePruning', 'Gradual", "is given once", "join their targets"],
    ),
    "the same weights masked twice": (
        callbacks("GradualMagnitudePruning: ", "StructuredPruning: heads: 0.5"),
        [
            "callbacks = ['GradualMagnitudePruning', 'StructuredPruning']",
            "both would mask bert.encoder.layer.0.attention.self.query.weight and 7 other weights",
            "leave one of them out, or have one leave what the other masks (include, exclude)",
        ],
    ),
    "the same weights masked twice, the other way round": (
        callbacks("StructuredPruning: layers: [2]", "GradualMagnitudePruning: exclude: [attention]"),
        ["['StructuredPruning', 'GradualMagnitudePruning']", "both would mask bert.encoder.layer.1.intermediate.dense"],
    ),
    "an average of more than everything": (
        callbacks("ExponentialMovingAverage: decay: 1.0"),
        ["callbacks.ExponentialMovingAverage.decay = 1.0: must lie in [0, 1)", "write 0.999"],
    ),
}


@pytest.mark.parametrize(("argv", "said"), CASES.values(), ids=CASES.keys())
def test_a_mistake_is_one_message_and_nothing_is_written(
    argv: list[str], said: list[str], refused: Callable[..., str]
) -> None:
    message = refused(*argv)
    for words in said:
        assert words in message
