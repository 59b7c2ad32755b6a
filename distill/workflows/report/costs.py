"""What a model costs where it runs, and on which machine that was measured. Light: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Generation", "Latency", "Machine", "Memory", "Size"]


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        parameters: All, those that are shared once; ``None`` where the format does not say.
        nonzero: Of them.
        bytes: Of its weights on disk, as they are run.
        gzipped_bytes: What gzip makes of the same files: only this one grows smaller with zeros.
        flops: Of one sample of :attr:`flops_length` tokens, forward, a multiplication and an addition each one; as
            dense as the shapes are.
        flops_length: Tokens; ``None`` of what is no text.
    """

    parameters: int | None = None
    nonzero: int | None = None
    bytes: int | None = None
    gzipped_bytes: int | None = None
    flops: int | None = None
    flops_length: int | None = None


@dataclass(frozen=True)
class Latency:
    """One kind of call, timed in turns with those of the other models.

    Attributes:
        runtime: ``torch``, ``onnxruntime``, ``openvino``.
        threads: Of it.
        batch: Samples of a call.
        length: Tokens of each; ``None`` of what is no text.
        calls: Timed; others warmed it up before.
        p50_ms: Median of a call.
        p95_ms: 95 of 100 calls take no longer.
        p99_ms: Likewise.
        throughput: Samples a second, at the median.
    """

    runtime: str
    threads: int
    batch: int
    length: int | None
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    throughput: float


@dataclass(frozen=True)
class Memory:
    """The most memory of one call, with the weights.

    Attributes:
        runtime: As of :class:`Latency`.
        batch: Likewise.
        length: Likewise.
        peak_bytes: At most, as ``how`` says.
        how: ``tensors``: weights, and the tensors that the call holds at once; ``resident``: what a process of its own
            grows by as it opens the model and calls it.
    """

    runtime: str
    batch: int
    length: int | None
    peak_bytes: int
    how: str


@dataclass(frozen=True)
class Generation:
    """How fast a language model writes, greedily: in ``runtime``, on ``threads``, after ``prompt`` tokens, ``tokens``
    tokens.

    Attributes:
        tokens_per_second: After the first.
        first_token_ms: From the prompt to the first.
    """

    runtime: str
    threads: int
    prompt: int
    tokens: int
    tokens_per_second: float
    first_token_ms: float


@dataclass(frozen=True)
class Machine:
    """What it was measured on.

    Attributes:
        processor: Its name.
        isa: ``avx2``, ``vnni`` or ``arm``: what integers are multiplied by.
        instructions: What torch uses.
        cores: That this process may use.
        memory_bytes: Of the machine.
        system: Operating system and Python.
        versions: Name of a library -> its version.
        others: Cores that other processes kept busy while it was timed; ``None`` where nobody knows, or nothing was.
        busy: Whether others were at work while it was timed.
    """

    processor: str
    isa: str
    instructions: str
    cores: int
    memory_bytes: int | None
    system: str
    versions: Mapping[str, str]
    others: float | None = None
    busy: bool = False
