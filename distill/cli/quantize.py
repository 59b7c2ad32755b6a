"""``distill quantize``."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from distill.cli.command import argument, of_run
from distill.cli.needs import Need, refuse_idle_options
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError

if TYPE_CHECKING:
    from distill.compression.quantization.scheme import WeightScheme
    from distill.compression.quantization.starts.settings import Start

__all__ = ["QUANTIZE"]

_CALIBRATE = 256


def _quantize(options: Namespace, overrides: Overrides) -> None:
    from distill.compression.quantization.scheme import ActivationScheme
    from distill.workflows.quantize import quantize

    start = _start(options)
    refuse_idle_options(options, _NEEDS)
    quantize(
        options.run,
        calibrate=_CALIBRATE if options.calibrate is None else options.calibrate,
        weights=_weights(options),
        activations=None if options.activations == "none" else ActivationScheme(kind=options.activations),
        embeddings=not options.no_embeddings,
        start=start,
        outputs="auto" if options.outputs is None else options.outputs,
        run_id=options.id,
        overrides=overrides,
        allow=options.allow,
    )


def _reads_inputs(options: Namespace) -> bool:
    start = _start(options)
    return options.activations == "static" or (start is not None and start.reads_inputs)


_NEEDS = (
    Need("calibrate", _reads_inputs, "--activations {activations}", "take static ones"),
    Need("outputs", lambda options: options.activations == "static", "--activations {activations}", "take static ones"),
)


def _weights(options: Namespace) -> WeightScheme:
    """The scheme that the options describe; mistakes in it are theirs."""
    from distill.compression.quantization.scheme import Bits, WeightScheme, usual

    bits, group = usual(options.format)
    bits, group = (bits if options.bits is None else options.bits), (group if options.group is None else options.group)
    try:
        return WeightScheme(
            bits=cast(Bits, bits),
            granularity="channel" if group is None else "group",
            group_size=group,
            format=options.format,
            symmetric=not options.asymmetric,
            reduced_range=options.reduced_range,
        )
    except UserError as error:
        named = {"group_size": "group", "reduced_range": "reduced-range", "symmetric": "asymmetric"}
        option = f"--{named.get(error.key or '', error.key)}"
        value = None if isinstance(error.value, bool) else error.value  # of a switch, which has none
        raise UserError(error.problem, key=option, value=value, hint=error.hint) from error


def _start(options: Namespace) -> Start | None:
    """What the weights start from; mistakes in it are of the options."""
    from distill.compression.quantization.starts.settings import Start

    given = {key: getattr(options, key) for key in ("damping", "act_order", "alpha", "steps")}
    given = {key: value for key, value in given.items() if value is not None and value is not False}
    calibrate = _CALIBRATE if options.calibrate is None else options.calibrate
    option = {"method": "--start", "samples": "--calibrate"}
    try:
        start = Start(method=options.start, **given)
        start.refuse_idle("")
        return None if start.method == "rtn" else replace(start, samples=calibrate)
    except UserError as error:
        key = error.key or ""
        key = option.get(key, f"--{key.replace('_', '-')}")
        raise UserError(error.problem, key=key, value=error.value, hint=error.hint) from error


QUANTIZE = of_run(
    "Quantize the student of a run without training it, into a run of its own: what quantization-aware training\n"
    "has to beat.",
    _quantize,
    argument("--calibrate", type=int, metavar="N", help=f"training samples that ranges are from ({_CALIBRATE})"),
    argument("--bits", type=int, help="bits of a weight: 2 to 8, or 16 (8, or as the format has)"),
    argument(
        "--format",
        default="int",
        metavar="NAME",
        help="what weights are rounded to: int (evenly spaced, the default), nf4, pot, apot, kmeans, fp4, mxfp4,\n"
        "nvfp4, fp8_e4m3, fp8_e5m2, fp16, bf16",
    ),
    argument("--group", type=int, metavar="N", help="weights that share a scale (a channel's)"),
    argument("--asymmetric", action="store_true", help="weights with a zero point"),
    argument("--reduced-range", action="store_true", help="weights of 7 bits in 8, for x86 without VNNI"),
    argument(
        "--start",
        default="rtn",
        metavar="METHOD",
        help="how weights are rounded: rtn (to the nearest, the default), mse, gptq, adaround; or scaled before:\n"
        "smoothquant, awq, smoothquant+gptq, awq+gptq, ...",
    ),
    argument("--damping", type=float, metavar="PART", help="of gptq: added to the Hessian's diagonal (0.01)"),
    argument("--act-order", action="store_true", help="of gptq: the inputs with the largest mean squares first"),
    argument("--alpha", type=float, metavar="PART", help="of smoothquant: the weights' part of the range (0.5)"),
    argument("--steps", type=int, metavar="N", help="of adaround: for how long a layer is trained (500)"),
    argument(
        "--activations",
        choices=("static", "dynamic", "none"),
        default="static",
        help="inputs of layers (%(default)s)",
    ),
    argument(
        "--outputs",
        choices=("auto", "none"),
        help="of nets of convolutions: whether sums, products and pools between them are rounded (auto)",
    ),
    argument("--no-embeddings", action="store_true", help="leave embeddings in floating point"),
    argument("--id", help="the new run's id, a new one if not given"),
)
