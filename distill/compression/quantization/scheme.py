"""What a layer's weights and inputs are rounded to: one dataclass each, in the words of the YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

from distill.core.idle_settings import Idle, idle, refuse_idle
from distill.core.utils.errors import UserError

__all__ = [
    "BITS",
    "ActivationScheme",
    "Bits",
    "Format",
    "LayerScheme",
    "WeightScheme",
    "check_bits",
    "integer_range",
    "usual",
]

Bits = Literal[2, 3, 4, 5, 6, 7, 8, 16]

BITS: tuple[Bits, ...] = get_args(Bits)
"""Widths that can be chosen."""

Format = Literal["int", "nf4", "pot", "apot", "kmeans", "fp4", "mxfp4", "nvfp4", "fp8_e4m3", "fp8_e5m2", "fp16", "bf16"]

_FORMATS: dict[str, tuple[tuple[int, ...], int | None]] = {
    **dict.fromkeys(("nf4", "fp4"), ((4,), None)),
    **dict.fromkeys(("fp8_e4m3", "fp8_e5m2"), ((8,), None)),
    **dict.fromkeys(("fp16", "bf16"), ((16,), None)),
    "pot": ((2, 3, 4, 5), None),
    "apot": ((3, 4, 5, 7), None),
    "kmeans": ((2, 3, 4, 5, 6, 7, 8), None),
    "mxfp4": ((4,), 32),
    "nvfp4": ((4,), 16),
}
"""Format -> the widths that it has, and the size of its groups where it says that."""


def usual(format: str) -> tuple[int, int | None]:
    """The width, and the size of the groups, of a format where nothing else is said."""
    widths, size = _FORMATS.get(format, ((8,), None))
    return (4 if 4 in widths else widths[0]), size


def integer_range(bits: int, symmetric: bool, signed: bool = True) -> tuple[int, int]:
    """The smallest and the largest integer.

    Symmetric: -(2^(b-1) - 1) to 2^(b-1) - 1, so that a number and its negative are both on the grid. Otherwise all
    2^b integers: from -2^(b-1) if ``signed``, else from 0.
    """
    half = 1 << (bits - 1)
    if symmetric:
        return 1 - half, half - 1
    return (-half, half - 1) if signed else (0, 2 * half - 1)


def check_bits(bits: Any, key: str) -> None:
    """Refuse a width that cannot be chosen: 9, 5.5, true, or a text.

    Raises:
        UserError: with those that can be.
    """
    if type(bits) is not int or bits not in BITS:
        widths = ", ".join(map(str, BITS))
        raise UserError(f"must be one of {widths}", key=key, value=bits, hint="choose one of these")


@dataclass(frozen=True, kw_only=True)
class WeightScheme:
    """How weights are rounded to integers q: weight = scale * (q - zero point).

    Attributes:
        bits: Width of an integer: 2 to 8, or 16.
        granularity: What shares one scale: the whole ``tensor``, an output ``channel`` (a row of an embedding), or a
            ``group`` of successive inputs of one channel.
        group_size: Weights in a group; it must divide a channel's number of inputs.
        symmetric: Whether the zero point is 0 and the range the same on both sides: [-127, 127] for 8 bits, and
            {-1, 0, 1} for 2. Otherwise all 2^bits integers are used, and zero is one of them exactly.
        reduced_range: Integers of 7 bits, [-63, 63], in 8: without VNNI, x86 adds two products of 8-bit integers in
            16 bits, and with the full range the sum may saturate.
        learned: The scale is trained (LSQ, Esser et al. 2020) instead of following the largest weight.
        format: What weights are rounded to. ``int``: evenly spaced values. ``nf4`` (QLoRA); ``pot`` and ``apot``,
            powers of two and sums of them; ``kmeans``, centroids of each block, trained (Deep Compression); ``fp4``
            (e2m1), ``mxfp4`` (in groups of 32) and ``nvfp4`` (of 16); ``fp8_e4m3``, ``fp8_e5m2``, ``fp16``, ``bf16``:
            see :mod:`~distill.compression.quantization.formats`.

    Raises:
        UserError: if the settings contradict each other.
    """

    bits: Bits = 8
    granularity: Literal["tensor", "channel", "group"] = "channel"
    group_size: int | None = None
    symmetric: bool = True
    reduced_range: bool = False
    learned: bool = False
    format: Format = "int"

    def __post_init__(self) -> None:
        check_bits(self.bits, "bits")
        if self.format != "int":
            self._check_format()
        if self.granularity not in ("tensor", "channel", "group"):
            raise UserError(
                "must be tensor, channel or group", key="granularity", value=self.granularity, hint="choose one of them"
            )
        if (self.granularity == "group") != (self.group_size is not None):
            raise UserError(
                "is given with granularity: group, and only there",
                key="group_size",
                value=self.group_size,
                hint="give both (32 is common), or neither",
            )
        if self.group_size is not None and self.group_size < 2:
            raise UserError("must be at least 2", key="group_size", value=self.group_size, hint="32 is common")
        if self.reduced_range and (self.bits != 8 or not self.symmetric):
            raise UserError(
                "is for symmetric weights of 8 bits; narrower ones do not saturate",
                key="reduced_range",
                value=True,
                hint="leave it out",
            )
        if self.learned and not self.symmetric:
            raise UserError("learned scales are symmetric", key="learned", value=True, hint="set symmetric: true")

    def _check_format(self) -> None:
        known = get_args(Format)
        if self.format not in known:
            problem = f"must be one of {', '.join(known)}"
            raise UserError(problem, key="format", value=self.format, hint="choose one of them")
        widths, size = _FORMATS[self.format]
        if self.bits not in widths:
            problem = f"{self.format} has {' or '.join(map(str, widths))} bits"
            raise UserError(problem, key="bits", value=self.bits, hint=f"set bits: {widths[0]}")
        if size is not None and self.group_size != size:
            hint = f"set granularity: group and group_size: {size}"
            raise UserError(f"{self.format} has groups of {size}", key="group_size", value=self.group_size, hint=hint)
        if widths == (16,) and self.granularity != "channel":  # a float of its own for each weight
            key = "granularity" if self.group_size is None else "group_size"
            raise idle(key, getattr(self, key), f"format: {self.format}", "take a format whose weights share a scale")
        for key, default in (("symmetric", True), ("reduced_range", False), ("learned", False)):
            if getattr(self, key) != default:
                raise idle(key, not default, f"format: {self.format}", "take format: int")

    @property
    def trains(self) -> bool:
        """Whether its scales, or its centroids, are trained."""
        return self.learned or self.format == "kmeans"

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return integer_range(self.bits - self.reduced_range, self.symmetric)

    def with_bits(self, bits: int) -> WeightScheme:
        """The same scheme in another width."""
        return replace(self, bits=cast(Bits, bits), reduced_range=self.reduced_range and bits == 8)


@dataclass(frozen=True, kw_only=True)
class ActivationScheme:
    """How the input of a layer is rounded to integers.

    Attributes:
        kind: ``static``: one scale, from the ranges that an observer saw in training. ``dynamic``: a scale for each
            token (for convolutions: each sample) from its own values. ``none``: inputs stay as they are.
        bits: Width of an integer: 2 to 8, or 16.
        symmetric: Whether the zero point is 0; otherwise integers run from 0, and where inputs do not lie evenly
            round zero more of them are used.
        observer: What a static range follows, batch by batch: ``minmax``, the widest seen; ``moving_average``, of the
            batches' smallest and largest; ``percentile``, of the percentiles of a sample of the batch; ``mse``, of the
            range that rounds such a sample with the least squared error.
        momentum: Weight of the newest batch in an average.
        percentile: Of ``percentile``: how much of the values lies below the upper end, and above the lower one.
        learned: From the range that was observed on, the scale of a static input is trained (LSQ, Esser et al. 2020),
            and where it is not symmetric its smallest value too (LSQ+, Bhalgat et al. 2020). Observers have then done
            their part: of ``momentum`` and of the callback's ``freeze_observers`` nothing matters beyond ``begin``.

    Raises:
        UserError: if a setting is out of range, or what has no scale of its own is to be learned.
    """

    kind: Literal["static", "dynamic", "none"] = "static"
    bits: Bits = 8
    symmetric: bool = False
    observer: Literal["minmax", "moving_average", "percentile", "mse"] = "moving_average"
    momentum: float = 0.05
    percentile: float = 99.99
    learned: bool = False

    def __post_init__(self) -> None:
        check_bits(self.bits, "bits")
        for key, value, choices in (
            ("kind", self.kind, ("static", "dynamic", "none")),
            ("observer", self.observer, ("minmax", "moving_average", "percentile", "mse")),
        ):
            if value not in choices:
                raise UserError(f"must be one of {', '.join(choices)}", key=key, value=value, hint="choose one of them")
        if not 0 < self.momentum <= 1:
            raise UserError("must lie in (0, 1]", key="momentum", value=self.momentum, hint="0.05 is common")
        if not 50 < self.percentile <= 100:
            raise UserError("must lie in (50, 100]", key="percentile", value=self.percentile, hint="99.99 is common")
        if self.learned and self.kind != "static":
            raise UserError("only static inputs have a scale to learn", key="learned", value=True, hint="kind: static")

    def refuse_idle(self, place: str) -> None:
        """Refuse settings without effect; not of what a saved student says of itself, which is read all the same.

        Args:
            place: Where the scheme stands.

        Raises:
            UserError: naming the setting.
        """
        static, kind = "take kind: static", f"kind: {self.kind}"
        rules = [Idle(key, self.kind != "static", kind, static) for key in ("observer", "momentum", "percentile")]
        rules += [Idle(key, self.kind == "none", kind, static) for key in ("bits", "symmetric")]
        rules += [
            Idle("momentum", self.observer == "minmax", "observer: minmax", "take moving_average"),
            Idle("percentile", self.observer != "percentile", f"observer: {self.observer}", "take percentile"),
        ]
        refuse_idle(ActivationScheme, vars(self), rules, f"{place}.")

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return integer_range(self.bits, self.symmetric, signed=False)


@dataclass(frozen=True, kw_only=True)
class LayerScheme:
    """How one layer is quantized.

    Attributes:
        weights: Its weights.
        activations: Its input; ``None`` where that stays as it is.
    """

    weights: WeightScheme
    activations: ActivationScheme | None = None

    def record(self) -> dict[str, Any]:
        """As ``compression.json`` keeps it."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> LayerScheme:
        """What :meth:`record` was made of."""
        inputs = record["activations"]
        return cls(weights=WeightScheme(**record["weights"]), activations=inputs and ActivationScheme(**inputs))
