"""Nets of convolutions that tests of several rooms remove channels of; they read ``[B, 1, 12, 12]``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(into: int, out: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(into, out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class Residual(nn.Module):
    """Two blocks of a ResNet, of which the second has a shortcut of its own."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = conv_norm(1, width)
        self.a, self.b = conv_norm(width, width), conv_norm(width, width)
        self.c, self.d = conv_norm(width, 2 * width, stride=2), conv_norm(2 * width, 2 * width)
        self.short = conv_norm(width, 2 * width, 1, 2)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.stem(input).relu()
        x = F.relu(self.b(self.a(x).relu()) + x)
        x = F.relu(self.d(self.c(x).relu()) + self.short(x))
        return self.head(x.mean((2, 3)))


class Inverted(nn.Module):
    """A block of a MobileNet with squeeze and excitation, flattened before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depth = conv_norm(1, 6, stride=2), conv_norm(6, 12), conv_norm(12, 12, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 5, 1), nn.Conv2d(5, 12, 1)
        self.project, self.act, self.pool = conv_norm(12, 6, 1), nn.Hardswish(), nn.MaxPool2d(2)
        self.hidden, self.head = nn.Linear(6 * 9, 7), nn.Linear(7, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.act(self.stem(input))
        y = self.act(self.depth(self.act(self.expand(x))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = self.pool(self.project(y) + x)
        return self.head(torch.sigmoid(self.hidden(torch.flatten(x, 1))))


class Mixed(nn.Module):
    """Concatenation before a norm, groups, group norm, transposed convolutions, PReLU, a scale and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.norm, self.grouped = nn.BatchNorm2d(12, affine=False), nn.Conv2d(12, 12, 3, groups=3)
        self.groups, self.up, self.act = nn.GroupNorm(6, 12), nn.ConvTranspose2d(12, 6, 2, 2), nn.PReLU(6)
        self.wide, self.scale = nn.ConvTranspose2d(6, 9, 2, groups=3), nn.Parameter(torch.rand(6, 1, 1) + 0.5)
        self.head = nn.Linear(9, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.a(input)
        x = F.relu(self.norm(torch.cat([x, self.b(x.sigmoid())], 1)))
        x = self.act(self.up(self.groups(self.grouped(F.pad(x, (1, 1))))))
        return self.head(F.interpolate(self.wide(x * self.scale), scale_factor=2).amax((2, 3)))


class Patches(nn.Module):
    """A vision transformer without a layer: positions, a class token, a map of gated neurons, and norm-free."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cls = nn.Conv2d(1, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 10, 8))
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.embed(input).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head((x + self.down(F.glu(self.up(x))))[:, 0])


def randomize(net: nn.Module) -> nn.Module:
    """Weights and running statistics of which none is 0 or 1, so that every channel matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
        for name, buffer in net.named_buffers():
            if name.endswith("var"):
                buffer.abs_().add_(0.1)
    return net
