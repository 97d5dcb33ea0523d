"""Write Torch 7 files byte by byte, and build torchvision's networks as the paper's code does."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

NAMES = {
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
    torch.float16: "Half",
    torch.float32: "Float",
    torch.float64: "Double",
}


@dataclass(eq=False)
class Module:
    """An object of a Lua class."""

    class_name: str
    fields: dict[Any, Any]


@dataclass(eq=False)
class LongStorage:
    """A storage of integers, in which ``nn.View`` has its sizes."""

    sizes: tuple[int, ...]


class Torch7Writer:
    """Write objects one after the other into ``data``.

    Args:
        cuda: tensors are written as Cuda tensors.
        versions: objects bear a version, as since 2014.
    """

    def __init__(self, *, cuda: bool = False, versions: bool = True) -> None:
        self.data = bytearray()
        self.cuda = cuda
        self.versions = versions
        self.indexes: dict[Any, int] = {}
        self.alive: list[Any] = []

    def integer(self, value: int) -> None:
        self.data += struct.pack("<i", value)

    def long(self, *values: int) -> None:
        self.data += struct.pack(f"<{len(values)}q", *values)

    def text(self, value: str) -> None:
        self.integer(len(value))
        self.data += value.encode("latin1")

    def write(self, value: Any) -> Torch7Writer:
        if value is None:
            self.integer(0)
        elif isinstance(value, bool):
            self.integer(5)
            self.integer(int(value))
        elif isinstance(value, int | float):
            self.integer(1)
            self.data += struct.pack("<d", value)
        elif isinstance(value, str):
            self.integer(2)
            self.text(value)
        elif isinstance(value, dict | list):
            self._table(value)
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, LongStorage):
            self._sizes(value)
        else:
            self._module(value)
        return self

    def _begun(self, kind: int, identity: Any, value: Any) -> bool:
        """Write type and index; return whether the object was written before."""
        self.integer(kind)
        known = identity in self.indexes
        self.indexes.setdefault(identity, len(self.indexes) + 1)
        self.alive.append(value)
        self.integer(self.indexes[identity])
        return known

    def _class(self, name: str) -> None:
        if self.versions:
            self.text("V 1")
        self.text(name)

    def _table(self, value: dict[Any, Any] | list[Any]) -> None:
        if self._begun(3, id(value), value):
            return
        entries = value if isinstance(value, dict) else dict(enumerate(value, start=1))
        self.integer(len(entries))
        for key, item in entries.items():
            self.write(key)
            self.write(item)

    def _sizes(self, value: LongStorage) -> None:
        if not self._begun(4, id(value), value):
            self._class("torch.LongStorage")
            self.long(len(value.sizes), *value.sizes)

    def _module(self, value: Module) -> None:
        if not self._begun(4, id(value), value):
            self._class(value.class_name)
            self.write(value.fields)

    def _tensor(self, value: Tensor) -> None:
        if self._begun(4, id(value), value):
            return
        cuda = "Cuda" if self.cuda else ""
        name = NAMES[value.dtype] if not (self.cuda and value.dtype == torch.float32) else ""
        self._class(f"torch.{cuda}{name}Tensor")
        self.integer(value.ndim)
        self.long(*value.shape, *value.stride(), value.storage_offset() + 1)
        if not value.numel():
            self.write(None)
            return
        storage = value.untyped_storage()
        if not self._begun(4, ("storage", storage.data_ptr()), value):
            self._class(f"torch.{cuda}{name}Storage")
            whole = torch.empty(0, dtype=value.dtype).set_(storage)
            self.long(len(whole))
            self.data += whole.numpy().tobytes()


def write_torch7(value: Any, **options: bool) -> bytes:
    return bytes(Torch7Writer(**options).write(value).data)


def make_sequential(*modules: Module) -> Module:
    return Module("nn.Sequential", {"modules": list(modules), "train": False})


def build_torch7_network(
    network: ResNet, *, form: str = "C", package: str = "cudnn", matrices: bool = False
) -> Module:
    """Build a network of torchvision as ``models/resnext.lua`` builds it.

    Args:
        network: of bottlenecks.
        form: "C" has grouped convolutions, "B" a path for each group.
        package: that convolutions come from.
        matrices: weights are (out, in * height * width), as in old files.
    """

    relu = Module(f"{package}.ReLU", {"inplace": True})

    def convolution(layer: nn.Conv2d, part: slice) -> Module:
        weight = layer.weight.detach()[part]
        out, planes, height, width = weight.shape
        groups = layer.groups if part == slice(None) else 1
        fields = {
            "weight": weight.reshape(out, -1).clone() if matrices else weight.clone(),
            "gradWeight": torch.zeros(out, planes, height, width),
            "nInputPlane": planes * groups,
            "nOutputPlane": out,
            "kH": height,
            "kW": width,
            "groups": groups,
        }
        return Module(f"{package}.SpatialConvolution", fields)

    def norm(layer: nn.BatchNorm2d, part: slice) -> Module:
        fields: dict[str, Any] = {"eps": 1e-5, "momentum": 0.1, "affine": True}
        for name in ("weight", "bias", "running_mean", "running_var"):
            fields[name] = getattr(layer, name).detach()[part].clone()
        return Module("nn.SpatialBatchNormalization", fields)

    def pair(one: Any, two: Any, part: slice = slice(None)) -> list[Module]:
        return [convolution(one, part), norm(two, part)]

    def path(block: Bottleneck) -> Module:
        def first(part: slice) -> list[Module]:
            one, two = pair(block.conv1, block.bn1, part), pair(block.conv2, block.bn2, part)
            return [*one, relu, *two, relu]

        last = pair(block.conv3, block.bn3)
        if form == "C":
            return make_sequential(*first(slice(None)), *last)
        channels = block.conv1.out_channels
        width = channels // block.conv2.groups
        groups = [slice(start, start + width) for start in range(0, channels, width)]
        table = Module("nn.ConcatTable", {"modules": [make_sequential(*first(g)) for g in groups]})
        return make_sequential(table, Module("nn.JoinTable", {"dimension": 2}), *last)

    def residual(block: Bottleneck) -> Module:
        shortcut = Module("nn.Identity", {})
        if block.downsample is not None:
            shortcut = make_sequential(*pair(*block.downsample))
        both = Module("nn.ConcatTable", {"modules": [path(block), shortcut]})
        return make_sequential(both, Module("nn.CAddTable", {"inplace": True}), relu)

    stages = [
        make_sequential(*map(residual, getattr(network, f"layer{number}")))
        for number in range(1, 5)
    ]
    linear = Module(
        "nn.Linear", {"weight": network.fc.weight.detach(), "bias": network.fc.bias.detach()}
    )
    pools = [
        Module("nn.SpatialMaxPooling", {}),
        Module("cudnn.SpatialAveragePooling", {}),
        Module("nn.View", {"size": LongStorage((-1, network.fc.in_features))}),
    ]
    return make_sequential(
        *pair(network.conv1, network.bn1), relu, pools[0], *stages, *pools[1:], linear
    )
