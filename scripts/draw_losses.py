"""Draws docs/losses.png: what temperature, direction and T^2 do, by the losses themselves.

python scripts/draw_losses.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from distill.core.utils.plots import new_figure, save
from distill.losses.hinton import hinton_kl
from distill.losses.reverse import reverse_kl

TEACHER = torch.tensor([[6.0, 3.0, 2.0, -1.0, -2.0]])
PLACES = torch.linspace(-6, 6, 121)
DIRECTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward KL": hinton_kl,
    "reverse KL": reverse_kl,
}


def bump(middle: Tensor, width: Tensor) -> Tensor:
    """Logits ``[1, places]`` of a student that can only be one bump."""
    return (-((PLACES - middle) ** 2) / (2 * width.exp() ** 2))[None]


def two_bumps() -> Tensor:
    """Logits of a teacher with two of them."""
    heights = torch.stack([0.6 * (-((PLACES + 2.5) ** 2) / 0.8).exp(), 0.4 * (-((PLACES - 2.5) ** 2) / 0.8).exp()])
    return heights.sum(0).log()[None]


def fitted(divergence: Callable[[Tensor, Tensor], Tensor], steps: int = 600) -> tuple[float, float]:
    """Middle and width of the bump that has the least divergence from the teacher."""
    middle, width = torch.tensor(-2.0, requires_grad=True), torch.tensor(-0.4, requires_grad=True)
    optimizer = torch.optim.Adam([middle, width], lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        divergence(bump(middle, width), two_bumps()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return middle.item(), width.exp().item()


def gradient(temperature: float, times: float) -> float:
    """The largest gradient on a student's logits of 0, the loss being ``times`` the one with its factor T^2."""
    student = torch.zeros_like(TEACHER, requires_grad=True)
    (times * hinton_kl(student, TEACHER, temperature)).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    return student.grad.abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/losses.png"))
    drawn = new_figure(12, 3.2)
    soft, modes, size = drawn.subplots(1, 3)
    for place, temperature in enumerate((1.0, 2.0, 4.0)):
        shares = (TEACHER / temperature).softmax(-1)[0]
        soft.bar(torch.arange(5) + 0.27 * (place - 1), shares, 0.25, label=f"T = {temperature:g}")
    soft.set(title="a teacher's prediction", xlabel="class", ylabel="probability")
    modes.fill_between(PLACES, two_bumps().softmax(-1)[0], color="lightgray", label="teacher")
    for name, divergence in DIRECTIONS.items():
        middle, width = fitted(divergence)
        student = bump(torch.tensor(middle), torch.tensor(width).log()).softmax(-1)[0]
        modes.plot(PLACES, student, label=name)
    modes.set(title="a student of one bump", xlabel="classes, in order", yticks=[])
    temperatures = [1 + 0.25 * i for i in range(37)]
    size.plot(temperatures, [gradient(t, 1.0) for t in temperatures], label="with T²")
    size.plot(temperatures, [gradient(t, t**-2) for t in temperatures], label="without")
    size.set(title="largest gradient on the logits", xlabel="temperature", ylim=(0, None))
    for axes in (soft, modes, size):
        axes.legend(frameon=False)
    save(drawn, parser.parse_args().out)


if __name__ == "__main__":
    main()
