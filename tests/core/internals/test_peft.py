"""What peft keeps to itself does what we count on."""

from __future__ import annotations

import peft
import torch
from torch import nn

from distill.core.internals.peft import adapter_layers, without_adapter


def test_an_adapter_is_switched_off_in_a_block_and_trained_as_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    assert adapter_layers(model) == []
    x = torch.randn(3, 4)
    plain = model(x)
    config = peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    with torch.no_grad():
        model[2].modules_to_save["default"].bias.add_(1)  # type: ignore[index, union-attr]
    assert len(adapter_layers(model)) == 2
    trained = [p for p in model.parameters() if p.requires_grad]
    changed = model(x)
    assert not torch.equal(changed, plain)
    with without_adapter(model):
        assert torch.equal(model(x), plain)
        assert all(p.requires_grad for p in trained)
    assert torch.equal(model(x), changed)
