"""Whether a class of one's own can be called as its contract says, which else shows only when it is called."""

from __future__ import annotations

import inspect

from distill.core.utils.errors import UserError

__all__ = ["refuse_signatures"]

_CONTRACTS = ("distill.", "pytorch_lightning.callbacks.callback")
_FOREIGN = ("distill.", "pytorch_lightning.", "torch.")


def refuse_signatures(one: object, key: str) -> None:
    """Refuse an object whose methods do not take what those that they stand for take.

    Args:
        one: Of a class of one's own; of ours, Lightning's or torch's all pass.
        key: Where it stands.

    Raises:
        UserError: naming the first such method, with how it is to be written.
    """
    if type(one).__module__.startswith(_FOREIGN):
        return
    for contract in type(one).__mro__:
        for name, method in vars(contract).items() if contract.__module__.startswith(_CONTRACTS) else ():
            own = getattr(type(one), name)
            if name.startswith("_") or not inspect.isfunction(method) or own is method or not inspect.isroutine(own):
                continue
            asked = list(inspect.signature(method).parameters)[1:]
            takes = inspect.signature(getattr(one, name))
            try:
                takes.bind(*asked)
            except TypeError:
                problem = f"{name} must take ({', '.join(asked)}), and takes ({', '.join(takes.parameters)})"
                hint = f"write def {name}({', '.join(['self', *asked])})"
                raise UserError(problem, key=key, value=type(one).__name__, hint=hint) from None
