"""How far each model's confidence can be believed."""

from __future__ import annotations

from collections.abc import Sequence

from distill.core.utils.plots import new_figure
from distill.core.utils.svg import GRID, inline_svg, themed
from distill.workflows.report.schema import Measured
from distill.workflows.report.views.blocks import Picture

__all__ = ["calibration_picture"]


def calibration_picture(models: Sequence[Measured], name: str) -> Picture | None:
    """How often each model is right where it is so sure, and its expected calibration error."""
    known = [(model.key, model.calibration) for model in models if model.calibration and model.calibration.bins]
    if not known:
        return None
    with themed():
        drawn = new_figure(5, 3.6 + 0.2 * len(known))
        place = drawn.subplots()
        place.plot([0, 1], [0, 1], "--", color=GRID, linewidth=1)
        for key, found in known[:6]:
            x, y = [one.confidence for one in found.bins], [one.accuracy for one in found.bins]
            place.plot(x, y, marker="o", markersize=3.5, label=f"{key}: error {found.ece:.3f}")
        place.set_xlabel("confidence")
        place.set_ylabel("part that is right")
        place.spines[["top", "right"]].set_visible(False)
        drawn.legend(loc="outside lower left", frameon=False, fontsize=10)
        words = ", ".join(f"{key} {found.ece:.3f}" for key, found in known)
        svg = inline_svg(drawn, f"calibration; expected calibration error: {words}", name)
    return Picture(svg, "calibration: on the dashed line a model is right as often as it is sure")
