"""Norms that leave out the coordinates of the residual stream that are switched off."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.core.internals.torch import own_buffers, own_parameters
from distill.core.utils.errors import UserError

__all__ = ["mask_norm", "refuse_norm", "unmask_norm"]


class _MaskedNorm(nn.Module):
    """A norm whose mean and variance are over the coordinates of ``hidden_mask``, boolean, ``[hidden]``, alone.

    Its weight and bias are zero at the others, and so is its output.
    """

    weight: nn.Parameter
    hidden_mask: Tensor
    plain: type[nn.Module]

    def forward(self, hidden_states: Tensor) -> Tensor:
        kept = self.hidden_mask.float()
        count = kept.sum()
        x = hidden_states.float() * kept
        if issubclass(self.plain, nn.LayerNorm):
            x = (x - x.sum(-1, keepdim=True) / count) * kept
        variance = x.square().sum(-1, keepdim=True) / count
        eps = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
        out = self.weight * (x * torch.rsqrt(variance + eps)).to(self.weight.dtype)  # type: ignore[operator]
        bias = own_parameters(self).get("bias")
        return out if bias is None else out + bias


def refuse_norm(module: nn.Module, key: str) -> None:
    """Refuse what is neither a layer norm nor a root-mean-square norm.

    Raises:
        UserError: naming its class.
    """
    name = type(module).__name__
    if not isinstance(module, (nn.LayerNorm, _MaskedNorm)) and "RMSNorm" not in name:
        problem = f"how to leave coordinates out of a {name} is not known"
        raise UserError(problem, key=key, hint="leave hidden out")


def mask_norm(module: nn.Module, key: str) -> None:
    """Make a layer norm, or a root-mean-square norm, one that respects its mask; in place, the mask all true.

    Raises:
        UserError: if it is neither.
    """
    refuse_norm(module, key)
    if isinstance(module, _MaskedNorm):
        return
    plain = type(module)
    weight = module.weight
    assert isinstance(weight, Tensor)
    module.register_buffer("hidden_mask", torch.ones(len(weight), dtype=torch.bool, device=weight.device))
    module.plain = plain  # type: ignore[assignment]
    module.__class__ = _MaskedNorm


def unmask_norm(module: nn.Module) -> None:
    """Give back the plain norm."""
    if isinstance(module, _MaskedNorm):
        module.__class__ = module.plain  # type: ignore[assignment]
        del module.plain
        del own_buffers(module)["hidden_mask"]
