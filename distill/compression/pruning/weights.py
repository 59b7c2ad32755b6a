"""The weights of modules that keep several, or one under another name: recurrent ones, attention, experts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill.core.internals.torch import flat_weights, own_buffers, own_parameters
from distill.core.module_selection import CONVOLUTIONS, LINEAR, refuse_rewritten
from distill.core.orientation import TRANSPOSED
from distill.core.utils.errors import UserError

__all__ = ["PRUNABLE", "SEVERAL", "Experts", "Sole", "check_written", "name_beside", "weights_of"]

_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class _Stacked(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, nn.Module) and bool(_stacks(instance))


class Experts(nn.Module, metaclass=_Stacked):
    """Any module that stacks the matrices of its experts: ``gate_up_proj`` ``[experts, out, in]`` (Mixtral, Qwen).

    It is one where such a parameter, each side larger than 1, lies in a module that counts its experts
    (``num_experts``), or whose class is named after them.
    """


SEVERAL = (nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention, Experts)
"""Modules whose weights are not one ``weight``."""

PRUNABLE = (*LINEAR, *CONVOLUTIONS, *TRANSPOSED, *SEVERAL)
"""Modules whose weights are pruned where nothing else is said."""


def _stacks(module: nn.Module) -> list[str]:
    kind = type(module).__name__.lower()
    if not ("expert" in kind or "moe" in kind or hasattr(module, "num_experts")):
        return []
    return [name for name, p in own_parameters(module).items() if p is not None and p.dim() == 3 and min(p.shape) > 1]


def weights_of(module: nn.Module) -> list[str]:
    """Names of the parameters of a module that are pruned: ``weight`` of most."""
    if isinstance(module, nn.RNNBase):
        return [name for name in flat_weights(module) if name.startswith("weight")]
    if isinstance(module, nn.MultiheadAttention):  # its out_proj is a module of its own
        return [name for name in _ATTENTION if getattr(module, name, None) is not None]
    return _stacks(module) if isinstance(module, Experts) else ["weight"]


def check_written(name: str, module: nn.Module, key: str) -> None:
    """Refuse a module that does not keep its weights itself.

    As :func:`~distill.core.module_selection.refuse_rewritten` does.

    Raises:
        UserError: naming it.
    """
    if weights_of(module) == ["weight"]:
        refuse_rewritten({name: module}, key)
    for own in weights_of(module):
        if not isinstance(own_parameters(module).get(own), nn.Parameter):
            problem = f"its {own} is written anew before every pass, which would undo a compression"
            raise UserError(problem, key=key, value=name, hint=f"let it be a parameter, or exclude: ['{name}']")


def name_beside(parameter: str, buffer: str) -> str:
    """A buffer's name beside a parameter of this name, where it is ``weight_mask`` or the like beside a ``weight``."""
    if parameter == "weight":
        return buffer
    return f"{parameter}_{buffer.removeprefix('weight_')}"


class Sole(nn.Module):
    """One of the weights of a module, as criteria and granularities read it: the only one, by the name ``weight``.

    Buffers that are registered on it are the module's, named after the parameter.

    Args:
        module: The module.
        parameter: Name of the weight in it.
    """

    def __init__(self, module: nn.Module, parameter: str) -> None:
        super().__init__()
        self.__dict__.update(_of=module, _parameter=parameter)  # no child, whose buffers would have two names

    @property
    def weight(self) -> nn.Parameter:
        weight = own_parameters(self._of)[self._parameter]
        assert isinstance(weight, nn.Parameter)
        return weight

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        self.__dict__["_of"].register_buffer(name_beside(self.__dict__["_parameter"], name), tensor, persistent)

    def __getattr__(self, name: str) -> Any:
        module, beside = self.__dict__["_of"], name_beside(self.__dict__["_parameter"], name)
        return getattr(module, beside if beside in own_buffers(module) else name)
