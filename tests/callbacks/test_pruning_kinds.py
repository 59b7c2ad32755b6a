"""Weights that are not their module's one ``weight`` (recurrent layers, attention, experts), and transposed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.callbacks import Determinism, GradualMagnitudePruning
from distill.compression.pruning.granularity import as_matrix, from_matrix
from distill.compression.pruning.weights import Sole, weights_of
from distill.core.utils.errors import UserError
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig


class Experts(nn.Module):
    """Three experts in two parameters, of which the input's sign chooses one of the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 3
        self.is_transposed = False
        self.up, self.down = nn.Parameter(torch.randn(3, 12, 8)), nn.Parameter(torch.randn(3, 8, 12))

    def forward(self, x: Tensor) -> Tensor:
        which = (x[..., 0] > 0).long()
        inner = torch.einsum("bti,btoi->bto", x, self.up[which]).relu()
        return torch.einsum("bti,btoi->bto", inner, self.down[which])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.ConvTranspose1d(1, 8, 2, 2)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.experts = Experts()
        self.head = nn.Linear(8, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.encoder(self.lift(input[:, None]).transpose(1, 2))
        return self.head((x + self.experts(self.lstm(x)[0])).mean(1))


WEIGHTS = [
    "lift.weight",
    "encoder.self_attn.in_proj_weight",
    "encoder.self_attn.out_proj.weight",
    "encoder.linear1.weight",
    "encoder.linear2.weight",
    *(f"lstm.weight_{of}_l0{end}" for end in ("", "_reverse") for of in ("ih", "hh")),
    "experts.up",
    "experts.down",
]


def fit(*callbacks: Any, resume: Path | None = None) -> nn.Module:
    torch.manual_seed(0)
    student, generator = Net(), torch.Generator().manual_seed(0)
    rows = [(torch.randn(6, generator=generator), torch.tensor(i % 3)) for i in range(8)]
    module = Distillation(student, Plain(), optimizer=OptimizerConfig(lr=0.05, warmup=0))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=6,
        callbacks=[Determinism(0), *callbacks],
    )
    trainer.fit(module, DataLoader(rows * 4, batch_size=8), ckpt_path=resume, weights_only=True)  # type: ignore[arg-type]
    return student


@pytest.mark.parametrize("criterion", ["magnitude", "movement"])
def test_every_kind_of_weight_is_pruned_exactly_and_keeps_its_name(criterion: str) -> None:
    pruning = GradualMagnitudePruning(0.5, begin=2, end=5, scope="layer", criterion=criterion)
    student = fit(pruning)
    assert sorted(pruning.masked(student)) == sorted(WEIGHTS)
    [step] = pruning.finish(student)
    assert student.state_dict().keys() == Net().state_dict().keys()
    parameters = dict(student.named_parameters())
    for name in WEIGHTS:
        assert int((parameters[name] == 0).sum()) == parameters[name].numel() / 2, name
    assert {name: of["zeros"] for name, of in step["layers"].items()} == {
        name.removesuffix(".weight"): parameters[name].numel() / 2 for name in WEIGHTS
    }
    x = torch.randn(2, 6)
    student.eval()
    with torch.no_grad():
        fused = student(x)
    torch.testing.assert_close(fused, student(x), rtol=1e-5, atol=1e-6)


def test_a_resumed_run_of_them_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"begin": 1, "end": 5, "criterion": "movement", "regrow": 0.2, "every_n_steps": 1}

    class Keep(Determinism):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "c.ckpt")

    whole = fit(GradualMagnitudePruning(0.6, **settings), Keep(0)).state_dict()
    resumed = fit(GradualMagnitudePruning(0.6, **settings), resume=tmp_path / "c.ckpt").state_dict()
    assert whole.keys() == resumed.keys()
    assert "lstm.weight_ih_l0_mask" in whole
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_wanda_leaves_those_of_whose_input_it_knows_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    pruning = GradualMagnitudePruning(0.5, begin=2, end=5, criterion="wanda")
    student = fit(pruning)
    assert sorted(pruning.masked(student)) == [n for n in sorted(WEIGHTS) if n.endswith(".weight")]
    assert "not pruned, for Wanda reads an input of one map" in caplog.text
    assert "encoder.self_attn.in_proj_weight" in caplog.text
    projection = "encoder.self_attn.out_proj"  # attention reads its weight, and never calls it
    [step] = pruning.finish(student)
    assert list(step["unscored"]) == [projection]
    assert step["layers"][projection]["zeros"] > 0
    assert f"ranked by magnitude among themselves: {projection}" in caplog.text


def test_an_override_of_a_module_holds_for_each_of_its_weights() -> None:
    student = Net()
    pruning = GradualMagnitudePruning(0.5, overrides={"lstm": 0.25})
    pruning.prepare(student)
    assert pruning._masks is not None
    pruning._masks.update(0.5, {}, 0.0)
    found = {name: float((weight == 0).float().mean()) for name, weight in student.lstm.named_parameters()}
    assert found["weight_ih_l0"] == found["weight_hh_l0_reverse"] == 0.25
    assert found["bias_ih_l0"] == 0


def test_a_recurrent_layer_whose_weight_a_hook_writes_is_refused() -> None:
    student = Net()
    torch.nn.utils.parametrizations.weight_norm(student.lstm, "weight_hh_l0")
    with pytest.raises(UserError, match="weight_hh_l0 is written anew before every pass"):
        GradualMagnitudePruning(0.5).prepare(student)


def test_experts_of_transformers_are_found() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    student = MixtralForCausalLM(config)
    pruning = GradualMagnitudePruning(granularity="2:4", types=["Experts"])
    pruning.prepare(student)
    assert pruning._masks is not None
    pruning._masks.update(0.5, {}, 0.0)
    prefix = "model.layers.0.mlp.experts"
    assert pruning.masked(student) == [f"{prefix}.gate_up_proj", f"{prefix}.down_proj"]
    for name in pruning.masked(student):
        weight = student.get_parameter(name)  # [experts, out, in]
        assert ((weight.view(3, weight.shape[1], -1, 4) == 0).sum(-1) == 2).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_seen_as_outputs_by_inputs(groups: int) -> None:
    module = nn.ConvTranspose1d(4, 6, 1, groups=groups, bias=False)
    matrix = as_matrix(module, module.weight.detach())
    outputs = module(torch.eye(4)[:, :, None])[:, :, 0].T.detach()  # [out, in]: what each input alone gives
    own = 4 // groups
    for output in range(6):
        first = output // (6 // groups) * own
        torch.testing.assert_close(matrix[output], outputs[output, first : first + own])


@pytest.mark.parametrize(
    "module",
    [nn.ConvTranspose2d(4, 6, (2, 3), groups=2), nn.LSTM(4, 6), nn.MultiheadAttention(8, 2), Experts()],
    ids=lambda module: type(module).__name__,
)
def test_the_matrix_leads_back_to_the_weight(module: nn.Module) -> None:
    for name in weights_of(module):
        view: Any = module if name == "weight" else Sole(module, name)
        assert torch.equal(from_matrix(view, as_matrix(view, view.weight)), view.weight)
    if isinstance(module, Experts):
        module.is_transposed = True  # as GPT-OSS's, [experts, in, out]
        view = Sole(module, "up")
        assert as_matrix(view, view.weight).shape == (3 * 8, 12)
        assert torch.equal(from_matrix(view, as_matrix(view, view.weight)), view.weight)
