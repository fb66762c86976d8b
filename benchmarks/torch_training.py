"""The peer of benchmarks.training: the same networks, recipe and augmentation in PyTorch.

ResNet v2 in both forms, with the same layers as redundancy.models.resnet. The data lie on the device, which also crops and
flips them. Random crops take one gather for each batch, the fastest plain form we know.
"""

import contextlib
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_EXPANSION = 4


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


class Block(nn.Module):
    """Pre-activation block: basic, or bottleneck."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = width * _EXPANSION if bottleneck else width
        shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        if not bottleneck:
            shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        self.norms = nn.ModuleList(_norm(shape[0]) for shape in shapes)
        self.convs = nn.ModuleList(_conv(*shape) for shape in shapes)
        self.shortcut = _conv(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x):
        y = F.relu(self.norms[0](x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        for index, conv in enumerate(self.convs):
            y = conv(y if index == 0 else F.relu(self.norms[index](y)))
        return shortcut + y


class ResNet(nn.Module):
    """ResNet v2 with the arguments of redundancy.models.ResNet."""

    def __init__(self, stage_blocks, widths, num_classes, bottleneck, imagenet_stem):
        super().__init__()
        self.stem = _conv(3, widths[0], 7, 2) if imagenet_stem else _conv(3, widths[0], 3)
        self.pooled = imagenet_stem
        channels, blocks = widths[0], []
        for stage, (width, count) in enumerate(zip(widths, stage_blocks, strict=True)):
            for index in range(count):
                blocks.append(Block(channels, width, 2 if stage and not index else 1, bottleneck))
                channels = width * _EXPANSION if bottleneck else width
        self.blocks = nn.Sequential(*blocks)
        self.norm = _norm(channels)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=channels**-0.5)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x):
        x = self.stem(x)
        if self.pooled:
            x = F.max_pool2d(x, 3, 2, padding=1)
        x = F.relu(self.norm(self.blocks(x)))
        return self.classifier(x.mean(dim=(2, 3), dtype=torch.float32))


def parameters(network: nn.Module) -> int:
    """Trained numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


class Training:
    """Steps of one network on data that lie on the device.

    Args:
      network: of any device; it is moved.
      images: uint8 [N, H, W, 3].
      labels: int [N].
      batch_size: images a step.
      device: 'cpu' or 'cuda'.
      channels_last: memory format of images and kernels.
      bfloat16: autocast.
      compiled: None, or a mode of torch.compile.
      pad: pixels of zeros around, before the random crop; 0 crops nothing.
      rate: learning rate of a step, counted from 0.
      mean, std: of pixel / 255, one or one per channel.
    """

    def __init__(
        self,
        network: nn.Module,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        device: str,
        channels_last: bool,
        bfloat16: bool,
        compiled: str | None,
        pad: int,
        rate: Callable[[int], float] = lambda step: 0.1,
        mean: tuple[float, ...] = (0.5,),
        std: tuple[float, ...] = (0.25,),
    ):
        self._device, self._batch_size, self._pad = device, batch_size, pad
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(device).to(memory_format=self._format).train()
        kernels = [p for p in self.network.parameters() if p.ndim > 1]
        rest = [p for p in self.network.parameters() if p.ndim == 1]
        self._optimizer = torch.optim.SGD(
            [{"params": kernels, "weight_decay": 1e-4}, {"params": rest}],
            lr=0.1,
            momentum=0.9,
            fused=device == "cuda" or None,
        )
        self._mean = torch.tensor(mean, device=device).reshape(1, -1, 1, 1)
        self._std = torch.tensor(std, device=device).reshape(1, -1, 1, 1)
        self._images = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self._cast = (lambda: torch.autocast(device, torch.bfloat16)) if bfloat16 else contextlib.nullcontext
        self._rate, self._taken = rate, 0
        self._loss: Callable = self._forward
        if compiled:
            self._loss = torch.compile(self._forward, mode=None if compiled == "default" else compiled)

    def _augmented(self, rows):
        images = F.pad(self._images[rows], (self._pad,) * 4)
        count, _, height, width = images.shape
        side = height - 2 * self._pad, width - 2 * self._pad
        top, left = torch.randint(0, 2 * self._pad + 1, (2, count, 1), device=self._device)
        down = top + torch.arange(side[0], device=self._device)
        across = left + torch.arange(side[1], device=self._device)
        flip = torch.rand(count, 1, device=self._device) < 0.5
        across = torch.where(flip, across.flip(1), across)
        batch = torch.arange(count, device=self._device)[:, None, None]
        return images.permute(0, 2, 3, 1)[batch, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)

    def _scaled(self, images):
        return ((images.float() / 255 - self._mean) / self._std).contiguous(memory_format=self._format)

    def _forward(self, images, labels):
        x = self._scaled(images)
        with self._cast():
            logits = self.network(x)
        return F.cross_entropy(logits.float(), labels)

    def steps(self, count: int) -> float:
        """Trains for `count` steps on rows drawn at random; returns the last loss, waited for."""
        for _ in range(count):
            loss = self._step(torch.randint(0, len(self._images), (self._batch_size,), device=self._device))
        return loss.item()

    def epochs(self, steps: int) -> None:
        """Trains for `steps` steps in shuffled epochs, batches running over their borders."""
        order = torch.empty(0, dtype=torch.int64, device=self._device)
        for _ in range(steps):
            if len(order) < self._batch_size:
                order = torch.cat([order, torch.randperm(len(self._images), device=self._device)])
            rows, order = order[: self._batch_size], order[self._batch_size :]
            self._step(rows)

    def _step(self, rows):
        images = self._augmented(rows) if self._pad else self._images[rows]
        loss = self._loss(images, self._labels[rows])
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self._taken)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._taken += 1
        return loss

    @torch.no_grad()
    def accuracy(self, images: np.ndarray, labels: np.ndarray, batch_size: int = 1000) -> float:
        """Share of right answers on images uint8 [N, H, W, 3]."""
        self.network.eval()
        right = 0
        for first in range(0, len(images), batch_size):
            part = torch.from_numpy(images[first : first + batch_size]).to(self._device).permute(0, 3, 1, 2)
            x = self._scaled(part)
            with self._cast():
                answers = self.network(x).argmax(1)
            right += int((answers.cpu().numpy() == labels[first : first + batch_size]).sum())
        self.network.train()
        return right / len(images)
