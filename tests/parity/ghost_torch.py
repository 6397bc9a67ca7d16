"""Plain PyTorch versions of the networks that timm doesn't have, written from the papers.

They share no code with the package, because its networks are compared with them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class GhostModule(nn.Module):
    def __init__(self, inp, oup, k=1, ratio=2, d=3, stride=1, relu=True):
        super().__init__()
        self.oup = oup
        m = math.ceil(oup / ratio)
        act = nn.ReLU if relu else nn.Identity
        self.primary_conv = nn.Sequential(
            nn.Conv2d(inp, m, k, stride, k // 2, bias=False), nn.BatchNorm2d(m), act()
        )
        g = m * (ratio - 1)
        self.cheap_operation = None
        if g:
            self.cheap_operation = nn.Sequential(
                nn.Conv2d(m, g, d, 1, d // 2, groups=m, bias=False), nn.BatchNorm2d(g), act()
            )

    def forward(self, x):
        x = self.primary_conv(x)
        if self.cheap_operation is None:
            return x
        return torch.cat([x, self.cheap_operation(x)], 1)[:, : self.oup]


class Bottleneck(nn.Module):
    def __init__(self, inp, planes, stride, **ghost):
        super().__init__()
        self.conv1 = GhostModule(inp, planes, 1, **ghost)
        self.conv2 = GhostModule(planes, planes, 3, stride=stride, **ghost)
        self.conv3 = GhostModule(planes, 4 * planes, 1, relu=False, **ghost)
        if stride != 1 or inp != 4 * planes:
            self.downsample = GhostModule(inp, 4 * planes, 1, stride=stride, relu=False, **ghost)
        else:
            self.downsample = nn.Identity()

    def forward(self, x):
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + self.downsample(x))


class GhostResNet50(nn.Module):
    def __init__(self, num_classes=1000, in_channels=3, **ghost):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inp = 64
        for i, (n, planes) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
            blocks = []
            for j in range(n):
                blocks.append(Bottleneck(inp, planes, 2 if i > 1 and j == 0 else 1, **ghost))
                inp = 4 * planes
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, num_classes)

    def features(self, x):
        stem = F.relu(self.bn1(self.conv1(x)))
        maps = [stem, self.layer1(F.max_pool2d(stem, 3, 2, 1))]
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps

    def forward(self, x):
        return self.fc(self.features(x)[-1].mean((2, 3)))


class CifarBlock(nn.Module):
    def __init__(self, inp, planes, stride, ratio):
        super().__init__()
        self.conv1 = GhostModule(inp, planes, 3, ratio, d=1, stride=stride)
        self.conv2 = GhostModule(planes, planes, 3, ratio, d=1, relu=False)
        self.stride, self.new = stride, planes - inp

    def forward(self, x):
        shortcut = x
        if self.new:
            shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return F.relu(self.conv2(self.conv1(x)) + shortcut)


class GhostResNet20Cifar(nn.Module):
    def __init__(self, num_classes=10, ratio=2):
        super().__init__()
        self.conv1 = GhostModule(3, 16, 3, ratio, d=1)
        inp = 16
        for i, planes in enumerate((16, 32, 64), start=1):
            blocks = []
            for j in range(3):
                blocks.append(CifarBlock(inp, planes, 2 if i > 1 and j == 0 else 1, ratio))
                inp = planes
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, num_classes)

    def features(self, x):
        maps = [self.layer1(self.conv1(x))]
        maps.append(self.layer2(maps[-1]))
        maps.append(self.layer3(maps[-1]))
        return maps

    def forward(self, x):
        return self.fc(self.features(x)[-1].mean((2, 3)))


class GhostVGG16(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        inp = 3
        for i, (n, c) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
            modules = []
            for _ in range(n):
                modules.append(GhostModule(inp, c, 3))
                inp = c
            setattr(self, f"layer{i}", nn.Sequential(*modules))
        self.hidden = nn.Linear(512, 512)
        self.classifier = nn.Linear(512, num_classes)

    def features(self, x):
        maps = []
        for i in range(1, 6):
            maps.append(getattr(self, f"layer{i}")(x))
            x = F.max_pool2d(maps[-1], 2)
        return maps

    def forward(self, x):
        x = F.max_pool2d(self.features(x)[-1], 2).mean((2, 3))
        return self.classifier(F.relu(self.hidden(x)))


class XBlock(nn.Module):
    def __init__(self, inp, width, stride, group):
        super().__init__()
        self.conv1 = nn.Conv2d(inp, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        groups = width // min(width, group)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample = nn.Identity()
        if stride != 1 or inp != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inp, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class GhostStage(nn.Module):
    def __init__(self, inp, width, depth, group):
        super().__init__()
        self.base = XBlock(inp, width, 2, group)
        self.end = XBlock(width, width, 1, group)
        thin = int(group * 0.75)
        self.raw = int(width * 0.5 / thin) * thin
        c = width - self.raw
        mixed = width + self.raw * (depth - 2)
        self.merge = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(mixed, c, 1, bias=False), nn.BatchNorm2d(c),
            nn.ReLU(), nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c),
        )  # fmt: skip
        self.cheap = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))
        self.layers = nn.Sequential(
            *(XBlock(self.raw, self.raw, 1, thin) for _ in range(depth - 2))
        )

    def forward(self, x):
        x = self.base(x)
        maps, e = [x], x[:, : self.raw]
        for block in self.layers:
            e = block(e)
            maps.append(e)
        c = F.relu(self.cheap(x[:, self.raw :]) + self.merge(torch.cat(maps, 1)))
        return self.end(torch.cat([e, c], 1))


class GGhostRegNetX002(nn.Module):
    def __init__(self, num_classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = nn.Sequential(XBlock(32, 24, 2, 8))
        self.layer2 = nn.Sequential(XBlock(24, 56, 2, 8))
        self.layer3 = GhostStage(56, 152, 4, 8)
        self.layer4 = GhostStage(152, 368, 7, 8)
        self.fc = nn.Linear(368, num_classes)

    def features(self, x):
        maps = [F.relu(self.bn1(self.conv1(x)))]
        for i in range(1, 5):
            maps.append(getattr(self, f"layer{i}")(maps[-1]))
        return maps

    def forward(self, x):
        return self.fc(self.features(x)[-1].mean((2, 3)))
