"""Small vision nets of the usual kinds, in plain PyTorch: what their integers cost is measured on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NETS", "ConvNeXt", "MobileNet", "ResNet", "vgg", "vit"]


def _unit(
    into: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), *([act()] if act else []))


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = _unit(into, out, 3, stride), _unit(out, out, act=None)
        self.short = nn.Identity() if into == out and stride == 1 else _unit(into, out, 1, stride, act=None)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.b(self.a(x)) + self.short(x))
        return out


class ResNet(nn.Module):
    """Three residual blocks."""

    def __init__(self, width: int = 32, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.stem = _unit(channels, width, 3, 2)
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4 * width, classes)

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pool(self.blocks(self.stem(input))).flatten(1))
        return out


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        less = max(4, width // 4)
        self.pool, self.relu, self.gate = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Hardsigmoid()
        self.fc1, self.fc2 = nn.Conv2d(width, less, 1), nn.Conv2d(less, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))
        return out


class Inverted(nn.Module):
    """An inverted residual."""

    def __init__(self, into: int, out: int, stride: int, act: type[nn.Module], gated: bool) -> None:
        super().__init__()
        wide = 3 * into
        self.expand, self.dw = _unit(into, wide, 1, act=act), _unit(wide, wide, 3, stride, wide, act)
        self.se = Gate(wide) if gated else nn.Identity()
        self.project, self.skip = _unit(wide, out, 1, act=None), stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.se(self.dw(self.expand(x))))
        return x + y if self.skip else y


class MobileNet(nn.Module):
    """Three inverted residuals: with ReLU6 as V2, with Hardswish and gates as V3."""

    def __init__(
        self,
        width: int = 32,
        classes: int = 10,
        channels: int = 1,
        act: type[nn.Module] = nn.ReLU6,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.stem = _unit(channels, width, 3, 2, act=act)
        self.blocks = nn.Sequential(
            Inverted(width, width, 1, act, gated),
            Inverted(width, 2 * width, 2, act, gated),
            Inverted(2 * width, 2 * width, 1, act, gated),
        )
        self.last = _unit(2 * width, 4 * width, 1, act=act)
        self.pool, self.drop, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.1), nn.Linear(4 * width, classes)

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.fc(self.drop(self.pool(self.last(self.blocks(self.stem(input)))).flatten(1)))
        return out


def vgg(width: int = 32, classes: int = 10, channels: int = 1) -> nn.Sequential:
    """A plain chain."""
    layers: list[nn.Module] = []
    for into, out in ((channels, width), (width, 2 * width)):
        layers += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    head = nn.Linear(2 * width * 49, 64), nn.ReLU(), nn.Linear(64, classes)
    return nn.Sequential(*layers, nn.Flatten(), *head)


class Mixer(nn.Module):
    """A block of ConvNeXt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.pw1, self.act, self.pw2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gamma * self.pw2(self.act(self.pw1(self.norm(self.dw(x).permute(0, 2, 3, 1)))))
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out


class ChannelNorm(nn.LayerNorm):
    """A layer norm over channels that come first."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Three blocks of it."""

    def __init__(self, width: int = 32, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 4, 4), ChannelNorm(width))
        self.first = nn.Sequential(Mixer(width), Mixer(width))
        self.down = nn.Sequential(ChannelNorm(width), nn.Conv2d(width, 2 * width, 2, 2, padding=1))
        self.second, self.norm = Mixer(2 * width), nn.LayerNorm(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.second(self.down(self.first(self.stem(input)))).mean((2, 3))))
        return out


def vit(width: int = 64, classes: int = 10) -> Any:
    """A transformer of two layers over 16 patches."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * width}
    config: Any = {"image_size": 28, "patch_size": 7, "num_channels": 1, "num_labels": classes} | sizes
    return ViTForImageClassification(ViTConfig(**config))


NETS: dict[str, Callable[[], nn.Module]] = {
    "ResNet": ResNet,
    "MobileNet, ReLU6": MobileNet,
    "MobileNet, Hardswish and gates": lambda: MobileNet(act=nn.Hardswish, gated=True),
    "VGG": vgg,
    "ConvNeXt": ConvNeXt,
    "ViT": vit,
}
"""Name -> net for images of 28 x 28 in one channel."""
