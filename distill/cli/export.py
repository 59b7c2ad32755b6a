"""``distill export``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import argument, of_run
from distill.cli.parser import Overrides, checked_value
from distill.core.utils.errors import UserError

__all__ = ["EXPORT", "FORMATS"]

FORMATS = (
    "hf",
    "onnx",
    "onnx-int8",
    "onnx-fp16",
    "onnx-genai",
    "compressed-tensors",
    "gguf",
    "openvino",
    "torch-export",
    "triton",
    "tensorrt",
)
"""The names of ``distill.export.targets.TARGETS``, which needs torch; a test holds them equal."""


def _export(options: Namespace, overrides: Overrides) -> None:
    if options.to is None:
        raise UserError("must be given", key="--to", hint="one of " + ", ".join(FORMATS))
    if "." not in options.to:  # else a class of one's own
        checked_value("--to", options.to, {"choices": FORMATS})
    from distill.workflows.export import export

    more = {"samples": options.samples, "dtype": options.dtype, "overrides": overrides, "allow": options.allow}
    more["timed"] = not options.no_timing
    export(options.run, options.to, options.output, options.isa, **more)


EXPORT = of_run(
    "Write a run's student in a format that others run, verify on its validation data that it does the same,\n"
    "and measure it. Needs the export extra for ONNX.",
    _export,
    argument("--to", metavar="FORMAT", help=f"{', '.join(FORMATS)}, or the path of a class of your own (--allow)"),
    argument("--output", metavar="DIR", help="folder to write; exports/FORMAT in the run's own if not given"),
    argument("--samples", type=int, metavar="N", help="verify on so many validation samples; all if not given"),
    argument("--no-timing", action="store_true", help="measure no latency, and export no teacher to compare with"),
    argument("--dtype", choices=("float32", "bfloat16", "float16"), help="what hf keeps weights in (float32)"),
    argument("--isa", choices=("avx2", "vnni", "arm"), help="what integers are for; this machine if not given"),
)
