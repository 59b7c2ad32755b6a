import pytest
from torch import nn
from transformers import BertConfig, BertModel

from distill.core.model_spec import ModelSpec
from distill.core.utils.errors import UserError
from distill.losses import AttentionTransfer, CosineHidden, FitNetHint, RelationTransfer
from distill.losses.layer_map import layer_pairs
from distill.models.students import choose_layers


def spec(layers=2, hidden=8, heads=2, attention="eager", key="model.student"):
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=8,
        vocab_size=9,
        attn_implementation=attention,
    )
    return ModelSpec(BertModel(config), key)


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "expected"),
    [
        ("uniform", 2, 4, [(1, 2), (2, 4)]),
        ("uniform", 3, 4, [(1, 1), (2, 3), (3, 4)]),
        ("uniform", 4, 2, [(1, 1), (2, 1), (3, 2), (4, 2)]),
        ("last", 2, 4, [(1, 3), (2, 4)]),
        ({-1: -1, 0: 0}, 2, 4, [(0, 0), (2, 4)]),
    ],
)
def test_student_layers_meet_the_teacher_layers_of_the_rule(layers, student, teacher, expected):
    assert layer_pairs(layers, spec(student), spec(teacher)) == expected


def test_a_student_of_uniform_layers_takes_its_hints_from_the_layers_that_it_is_made_of():
    for depth in range(1, 25):
        teacher = ModelSpec(_Deep(depth), "model.teacher")
        for count in range(1, depth + 1):
            pairs = layer_pairs("uniform", ModelSpec(_Deep(count), "model.student"), teacher)
            assert [theirs for _, theirs in pairs] == choose_layers("uniform", count, depth)


class _Deep(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.config = BertConfig(num_hidden_layers=layers)

    def forward(self, input_ids, output_hidden_states=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("layers", "attention"), [({3: 1}, False), ({1: 5}, False), ({2: 1, -1: 2}, False), ({0: 0}, True)]
)
def test_layers_that_do_not_exist_or_stand_twice_are_refused(layers, attention):
    with pytest.raises(UserError) as error:
        layer_pairs(layers, spec(2), spec(4), attention=attention)
    assert error.value.key == "layers"


def test_a_student_deeper_than_its_teacher_cannot_take_the_last_layers():
    with pytest.raises(UserError, match="uniform"):
        layer_pairs("last", spec(4), spec(2))


def test_attention_maps_of_sdpa_are_refused_for_either_model():
    for models in ((spec(attention="sdpa"), spec()), (spec(), spec(attention="sdpa", key="model.teacher"))):
        with pytest.raises(UserError, match=r"attn_implementation = 'sdpa': .*eager"):
            AttentionTransfer().bind(*models)


def test_relations_work_under_sdpa():
    RelationTransfer().bind(spec(attention="sdpa"), spec(4, attention="sdpa"))


@pytest.mark.parametrize("loss", [AttentionTransfer(), RelationTransfer(version=1)])
def test_models_of_different_head_counts_are_refused_where_heads_are_compared(loss):
    with pytest.raises(UserError, match="version: 2"):
        loss.bind(spec(heads=2), spec(heads=4))


def test_models_of_different_head_counts_and_widths_may_share_relation_heads():
    loss = RelationTransfer(version=2)
    loss.bind(spec(hidden=8, heads=2), spec(hidden=16, heads=4))
    assert loss.heads == 4
    with pytest.raises(UserError, match=r"relation_heads = 4.*model\.student, 6"):
        loss.bind(spec(hidden=6, heads=2), spec(hidden=16, heads=4))


def test_a_cosine_of_different_widths_is_refused_and_the_hint_named():
    with pytest.raises(UserError, match="FitNetHint"):
        CosineHidden().bind(spec(hidden=8), spec(hidden=16))


def test_hints_between_layers_get_a_regressor_each():
    loss = FitNetHint()
    loss.bind(spec(2, hidden=8), spec(4, hidden=16))
    assert {name: (r.in_features, r.out_features) for name, r in loss.regressors.items()} == {
        "1": (8, 16),
        "2": (8, 16),
    }
    assert loss.needs.student.hidden_states == {1, 2}
    assert loss.needs.teacher.hidden_states == {2, 4}
    with pytest.raises(UserError, match="regressor = 'never'"):
        FitNetHint(regressor="never").bind(spec(2, hidden=8), spec(4, hidden=16))


@pytest.mark.parametrize(
    ("loss", "key"),
    [
        (CosineHidden(student_layer=3), "student_layer"),
        (CosineHidden(teacher_layer=-6), "teacher_layer"),
        (RelationTransfer(student_layer=0), "student_layer"),
        (RelationTransfer(teacher_layer=5), "teacher_layer"),
    ],
)
def test_a_layer_out_of_range_is_refused(loss, key):
    with pytest.raises(UserError) as error:
        loss.bind(spec(2), spec(4))
    assert error.value.key == key
