"""What an export came to: sizes, and the table that is printed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distill.core.utils.console import number, wide
from distill.core.utils.words import amount

__all__ = ["BATCH", "MANY", "STUDENT", "TEACHER", "megabytes", "show", "sizes"]

_BLOCK = 1 << 20

TEACHER, STUDENT = "the float teacher", "the float student"
BATCH, MANY = 32, "latency_ms_of_32"
"""The larger batch that integers are timed with, and where the report has it."""


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files in ``folder``, and what gzip makes of them: only this one grows smaller with zeros."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {"bytes": sum(path.stat().st_size for path in files), "gzipped_bytes": sum(map(gzipped_bytes, files))}


def gzipped_bytes(path: Path) -> int:
    compress, size = zlib.compressobj(wbits=31), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(compress.compress(block))
    return size + len(compress.flush())


def show(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the report of an export."""
    table = Table(title=str(report["folder"]), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    for name, value in _rows(report).items():
        table.add_row(name, escape(value))
    console = console or wide()
    console.print(table)
    for line in report.get("verdict", ()):
        console.print(escape(f"warning: {line}"), soft_wrap=True)


def _rows(report: Mapping[str, Any]) -> dict[str, str]:
    found, reference = report["verified"], report.get("reference")
    size = f"{megabytes(report['bytes'])} ({megabytes(report['gzipped_bytes'])} gzipped)"
    if reference:
        ratio = reference["bytes"] / report["bytes"]
        size += f", {ratio:.2f} times smaller than {reference['name']} ({megabytes(reference['bytes'])})"
    rows = {"size": size}
    if "integer_matmuls" in report and report["integer_products"]:
        left = report.get("float_products", {})
        names = ", ".join(f"{count} {name}" for name, count in report["integer_matmuls"].items())
        rows["integer products"] = f"{report['integer_products']} of {report['integer_products'] + len(left)} ({names})"
        if left:
            rows["left in floats"] = _reasons(left)
        rows["weights"] = f"{report['weights']} for {report['isa']}, the largest is {report['largest_weight']}"
    elif "integer_matmuls" in report and report["quantized_layers"]:
        rows["quantized layers"] = f"{report['quantized_layers']}, weights stored as integers and multiplied as floats"
    elif report["quantized_layers"]:
        rows["quantized layers"] = (
            f"{report['quantized_layers']}, weights rounded, stored as floats, inputs not rounded"
        )
    if found["agreement"] is not None:
        alike = ", but all of them are one class: a constant model's would be equal too" if found["one_class"] else ""
        rows["equal decisions"] = f"{found['agreement']:.2%} of {_compared(found)}{alike}"
    if found.get("cosine") is not None:
        rows["cosine"] = f"{found['cosine']:.4f} to the trained student's vectors, the mean of {found['predictions']:,}"
    if "greedy_tokens" in report:
        rows["greedy tokens"] = f"the first {report['equal_greedy_tokens']} of {report['greedy_tokens']} are torch's"
    if found.get("divergence") is not None:
        rows["distributions"] = f"{found['divergence']:.1e} nats a token from the trained model's (KL)"
    rows["difference"] = (
        f"{found['mean_error']:.1e} of the logits' spread, at most {found['relative_error']:.1e} of the largest"
    )
    fixed = {name: sizes for name, sizes in report.get("inputs", {}).items() if any(type(n) is int for n in sizes)}
    if fixed:
        rows["inputs"] = ", ".join(f"{name} [{', '.join(map(str, sizes))}]" for name, sizes in fixed.items())
    rows[found["metric"]] = f"{number(found['exported'])} (in torch {number(found['trained'])})"
    if "latency_ms" in report:
        rows["latency"] = _latency(report)
    return rows


def _compared(found: Mapping[str, Any]) -> str:
    """``872`` samples of one decision each, or ``4,096 predictions in 32 samples``."""
    predictions, samples = found["predictions"], found.get("samples") or found["predictions"]
    return (
        f"{predictions:,}" if predictions == samples else f"{predictions:,} predictions in {amount(samples, 'sample')}"
    )


def _reasons(left: Mapping[str, str]) -> str:
    """The layers that are multiplied as floats, by what keeps them from integers."""
    layers: dict[str, list[str]] = {}
    for name, why in left.items():
        layers.setdefault(why, []).append(name)
    few = {
        why: ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        for why, names in layers.items()
    }
    return "; ".join(f"{names}: {why}" for why, names in few.items())


def _latency(report: Mapping[str, Any]) -> str:
    times, reference = report["latency_ms"], report.get("reference")
    text = f"{times['export']:.2f} ms, one thread, batch 1"
    text += f", {report['length']} tokens" if report.get("length") else ""
    if reference:
        taken = times[reference["name"]]
        text += f": {taken / times['export']:.2f} times as fast as {reference['name']} ({taken:.2f} ms)"
    if many := report.get(MANY):
        taken, ours = many[STUDENT], many["export"]
        text += f"; batch {BATCH}: {ours:.2f} ms, {taken / ours:.2f} times as fast as {STUDENT} ({taken:.2f} ms)"
    return text


def megabytes(count: int) -> str:
    """``12.3 MB``, of 10⁶ bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
