"""Observations to features, chosen by the observation space."""

import math
from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EncoderName = Literal["auto", "flat", "box", "nature", "shallow", "impala"]
"""how images are read: auto is nature from 36 x 36 pixels and box below; what is no image has one encoder"""


class Encoder(nn.Module):
    """Observations [N, ...] -> features float32 [N, output_size]."""

    output_size: int
    map_shape: tuple[int, int] | None = None
    """rows and columns, where features are maps of equal size, one after the other"""

    def observe(self, observation: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Take observations [N, ...] into the statistics, if any are kept; `total` sums a tensor over processes."""


class FlatEncoder(Encoder):
    """The entries of an array: [N, *shape] -> float32 [N, E], E their number, divided by `largest`."""

    def __init__(self, shape: tuple[int, ...], largest: float = 1):
        super().__init__()
        self.output_size, self.largest = math.prod(shape), largest
        self.output_shape = (self.output_size,)

    def forward(self, observation: Tensor) -> Tensor:
        return observation.reshape(len(observation), self.output_size).float() / self.largest


class NormalizedEncoder(Encoder):
    """The entries of an array or of pixels, each less its mean and divided by its standard deviation, within [-10, 10].

    Mean and variance are those of all that was observed, kept as buffers; entries are as they are before that.
    """

    limit, epsilon = 10.0, 1e-8
    piece = 2**21
    """entries that are turned into doubles at once"""

    def __init__(self, encoder: "FlatEncoder | Pixels"):
        super().__init__()
        self.encoder, self.output_shape = encoder, encoder.output_shape
        self.output_size = math.prod(self.output_shape)
        self.dtype = torch.float32 if isinstance(encoder, Pixels) else torch.float64  # a mean may be far from zero
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.output_shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(self.output_shape, dtype=torch.float64))

    def forward(self, observation: Tensor) -> Tensor:
        mean, deviation = (x.to(self.dtype) for x in (self.mean, (self.variance + self.epsilon).sqrt()))
        return ((self.encoder(observation) - mean) / deviation).float().clamp(-self.limit, self.limit)

    def observe(self, observation: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Chan, Golub & LeVeque 1983: two sets of numbers become one."""
        pieces = observation.split(max(1, self.piece // self.output_size))
        sums = sum(self.encoder(piece).double().sum(0) for piece in pieces)
        number, sums = total(torch.stack([torch.full_like(sums, len(observation)), sums]))
        mean = sums / number
        squares = total(sum((self.encoder(piece) - mean).square_().sum(0) for piece in pieces))
        count, apart = self.count + number, mean - self.mean
        self.variance.mul_(self.count).add_(squares + apart.square() * self.count * number / count).div_(count)
        self.mean.add_(apart * number / count)
        self.count.copy_(count.flatten()[0])


class OneHotEncoder(Encoder):
    """Integers of a Discrete or MultiDiscrete space, each one-hot: [N, ...] -> float32 [N, E]."""

    def __init__(self, sizes: list[int], starts: list[int]):
        super().__init__()
        self.output_size = sum(sizes)
        firsts = torch.tensor([0, *sizes[:-1]]).cumsum(0) - torch.tensor(starts)
        self.register_buffer("firsts", firsts, persistent=False)  # where the columns of an integer would have its 0

    def forward(self, observation: Tensor) -> Tensor:
        columns = observation.reshape(len(observation), -1).long() + self.firsts
        return self.firsts.new_zeros(len(columns), self.output_size).scatter_(1, columns, 1).float()


class DictEncoder(Encoder):
    """The features of several observations by name, side by side in the order of the space."""

    def __init__(self, parts: dict[str, nn.Module]):
        super().__init__()
        self.keys, self.parts = tuple(parts), nn.ModuleList(parts.values())
        self.output_size = sum(part.output_size for part in parts.values())

    def observe(self, observation: dict[str, Tensor], total: Callable[[Tensor], Tensor]) -> None:
        for key, part in zip(self.keys, self.parts, strict=True):
            part.observe(observation[key], total)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return torch.cat([part(observation[key]) for key, part in zip(self.keys, self.parts, strict=True)], -1)


class Pixels(Encoder):
    """Images of a space, channels first or last or none -> float32 [N, C, H, W], divided by `largest`.

    The channels are the first axis where the last two are alike, and the last where the first two are; else the shorter
    of the first and the last axis.
    """

    def __init__(self, shape: tuple[int, ...], largest: float = 1):
        super().__init__()
        self.shape, self.largest = (*shape, 1) if len(shape) == 2 else shape, largest
        first, middle, last = self.shape
        self.channels_last = middle != last and (first == middle or last <= first)
        self.output_shape = (last, first, middle) if self.channels_last else self.shape

    def forward(self, observation: Tensor) -> Tensor:
        images = observation.reshape(-1, *self.shape)
        if self.channels_last:
            images = images.permute(0, 3, 1, 2)
        return images.float() / self.largest


class ImageEncoder(Encoder):
    """Features of pixels, which may be normalised ones."""

    def __init__(self, pixels: Pixels | NormalizedEncoder):
        super().__init__()
        self.pixels = pixels

    def observe(self, observation: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        self.pixels.observe(observation, total)


class BoxEncoder(ImageEncoder):
    """The vision of Santoro et al. 2018 for BoxWorld (App. A.3): small convolutions that keep every position.

    Two layers of 12 and 24 kernels 2 x 2, padded below and at the right to keep the size, and two maps that tell each
    position its place in [-1, 1]: E = 26 H W features, map by map, as ConvLSTM of H rows and W columns reads them.
    """

    def __init__(self, pixels: Pixels | NormalizedEncoder):
        super().__init__(pixels)
        channels, height, width = pixels.output_shape
        self.output_size, self.map_shape = 26 * height * width, (height, width)
        self.conv1, self.conv2 = nn.Conv2d(channels, 12, 2), nn.Conv2d(12, 24, 2)
        places = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("places", torch.stack(places), persistent=False)  # [2, H, W]

    def forward(self, observation: Tensor) -> Tensor:
        maps = self.pixels(observation)
        for conv in (self.conv1, self.conv2):
            maps = F.relu(conv(F.pad(maps, (0, 1, 0, 1))))
        return torch.cat([maps, self.places.expand(len(maps), -1, -1, -1)], 1).flatten(1)


class ConvEncoder(ImageEncoder):
    """Convolutions without padding and a linear layer, each with a ReLU; their weights start orthogonal."""

    convolutions: ClassVar[tuple[tuple[int, int, int], ...]]
    """(channels, side of the kernel, stride) of each"""
    least: ClassVar[int]
    """rows and columns of which they leave one"""

    def __init__(self, pixels: Pixels | NormalizedEncoder):
        super().__init__(pixels)
        channels, height, width = pixels.output_shape
        layers = []
        for outputs, kernel, stride in self.convolutions:
            layers += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU()]
            channels, height, width = outputs, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        linear = nn.Linear(channels * height * width, self.output_size)
        self.layers = nn.Sequential(*layers, nn.Flatten(), linear, nn.ReLU())
        for module in self.layers:
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(module.weight, math.sqrt(2))
                nn.init.zeros_(module.bias)

    def forward(self, observation: Tensor) -> Tensor:
        return self.layers(self.pixels(observation))


class NatureEncoder(ConvEncoder):
    """The convolutions of Mnih et al. 2015 (Methods): images of at least 36 x 36 pixels -> 512 features."""

    convolutions, output_size, least = ((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512, 36


class ShallowEncoder(ConvEncoder):
    """The smaller network of Espeholt et al. 2018 (Fig. 3, left): images of at least 20 x 20 pixels -> 256 features."""

    convolutions, output_size, least = ((16, 8, 4), (32, 4, 2)), 256, 20


class Residual(nn.Module):
    """x + two convolutions 3 x 3 of it, each after a ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class ImpalaEncoder(ImageEncoder):
    """The residual network of Espeholt et al. 2018 (Fig. 3, right), 15 convolutions deep -> 256 features.

    Three sections of 16, 32 and 32 channels: a convolution, a maximum over 3 x 3 in strides of 2, two residual blocks.
    """

    output_size = 256

    def __init__(self, pixels: Pixels | NormalizedEncoder):
        super().__init__(pixels)
        channels, height, width = pixels.output_shape
        sections = []
        for outputs in (16, 32, 32):
            conv, pool = nn.Conv2d(channels, outputs, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)
            sections += [conv, pool, Residual(outputs), Residual(outputs)]
            channels, height, width = outputs, -(-height // 2), -(-width // 2)
        self.sections = nn.Sequential(*sections, nn.ReLU(), nn.Flatten())
        self.linear = nn.Linear(channels * height * width, self.output_size)

    def forward(self, observation: Tensor) -> Tensor:
        return F.relu(self.linear(self.sections(self.pixels(observation))))


IMAGE_ENCODERS = {"box": BoxEncoder, "nature": NatureEncoder, "shallow": ShallowEncoder, "impala": ImpalaEncoder}


def make_encoder(space, name: EncoderName = "auto", normalize: bool = False) -> Encoder:
    """The encoder of a Gymnasium observation space.

    Bytes are divided by the largest value of their space, floats are read as they are; with `normalize`, vectors of
    floats and pixels go through a NormalizedEncoder. In a Dict, and those inside it, `name` is how images are read.

    Raises: ValueError naming the space if there is none.
    """
    if name not in get_args(EncoderName):
        choices = ", ".join(get_args(EncoderName))
        raise ValueError(f"no encoder is called {name!r}; choose from {choices} (--policy.encoder)")
    if name in IMAGE_ENCODERS and not _has_images(space):
        raise ValueError(f"--policy.encoder {name} reads images; observations are of {_shown(space)}, try auto")
    kind = type(space).__name__
    if kind == "Dict" and space.spaces:
        names = {key: name if name == "flat" or _has_images(part) else "auto" for key, part in space.spaces.items()}
        return DictEncoder({key: make_encoder(part, names[key], normalize) for key, part in space.spaces.items()})
    if is_image(space) and name != "flat":
        return _image_encoder(space, name, normalize)
    if kind == "Box" and (name == "flat" or len(space.shape) <= 2):
        encoder = FlatEncoder(space.shape, _largest(space))
        return NormalizedEncoder(encoder) if normalize and space.dtype.kind == "f" else encoder
    if kind == "MultiBinary":
        return FlatEncoder(space.shape)
    if kind == "Discrete":
        return OneHotEncoder([int(space.n)], [int(space.start)])
    if kind == "MultiDiscrete":
        return OneHotEncoder(space.nvec.ravel().tolist(), space.start.ravel().tolist())
    raise ValueError(
        f"there is no encoder for observations of {_shown(space)}; Box of one to three axes, Discrete, MultiDiscrete, "
        "MultiBinary and Dict of those work"
    )


def is_image(space) -> bool:
    """Whether a space holds images: arrays of three axes, or of two if their entries are bytes."""
    return type(space).__name__ == "Box" and len(space.shape) in ((2, 3) if space.dtype == "uint8" else (3,))


def _has_images(space) -> bool:
    return any(map(_has_images, space.spaces.values())) if type(space).__name__ == "Dict" else is_image(space)


def _image_encoder(space, name: EncoderName, normalize: bool) -> Encoder:
    pixels = Pixels(space.shape, _largest(space))
    side = min(pixels.output_shape[1:])
    if name == "auto":
        name = "nature" if side >= NatureEncoder.least else "box"
    kind = IMAGE_ENCODERS[name]
    if issubclass(kind, ConvEncoder) and side < kind.least:
        need = f"{kind.least} x {kind.least} pixels"
        raise ValueError(f"--policy.encoder {name} needs {need}; observations are of {_shown(space)}, try box")
    return kind(NormalizedEncoder(pixels) if normalize else pixels)


def _largest(space) -> float:
    return float(space.high.max()) if space.dtype == "uint8" else 1.0


def _shown(space) -> str:
    """On one line, whatever the size of its bounds."""
    return " ".join(str(space).split())
