"""Distributions over the actions of a space, given by the logits of a policy.

An action is known in two forms. The policy's, which distributions draw and judge and rollouts keep: int64 indices, or
reals without bounds. And the environment's, an element of its space, which is stepped with and seen as `last_action`:
`to_env` leads from the one to the other, and nowhere else are bounds applied or offsets added.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Actions(ABC):
    """A family of distributions over actions [..., *A], each given by logits [..., num_logits]."""

    num_logits: int
    num_features: int
    """features that `encode` gives"""

    def head(self, input_size: int) -> nn.Module:
        """A new layer from features [..., input_size] to logits [..., num_logits]."""
        return nn.Linear(input_size, self.num_logits)

    @abstractmethod
    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions drawn, one from each distribution."""

    @abstractmethod
    def mode(self, logits: Tensor) -> Tensor:
        """The likeliest actions."""

    @abstractmethod
    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """Log-probability, or its density, of actions [..., *A] -> [...]."""

    @abstractmethod
    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy in nats, [...]."""

    @abstractmethod
    def to_env(self, action: Tensor) -> Tensor:
        """The policy's actions in the environment's form."""

    @abstractmethod
    def encode(self, action: Tensor) -> Tensor:
        """Features float32 [..., num_features] of actions in the environment's form."""


class Categorical(Actions):
    """One of `size` actions; logits are unnormalised log-probabilities. The environment counts from `start`."""

    def __init__(self, size: int, start: int = 0):
        self.num_logits = self.num_features = size
        self.start = start

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        race = torch.empty_like(logits).exponential_(generator=generator)  # the exponential race of torch.multinomial
        return (logits.softmax(-1) / race).argmax(-1)

    def mode(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(-1, action[..., None])[..., 0]

    def entropy(self, logits: Tensor) -> Tensor:
        log_probs = logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def to_env(self, action: Tensor) -> Tensor:
        return action + self.start

    def encode(self, action: Tensor) -> Tensor:
        """One-hot; nothing for what is no action, such as the zero of an episode's start where actions begin at 1."""
        choices = torch.arange(self.start, self.start + self.num_logits, device=action.device)
        return (action[..., None] == choices).float()


class MultiCategorical(Actions):
    """Independent choices, one per part, in an array of `shape`; the logits of the parts lie side by side."""

    def __init__(self, parts: list[Categorical], shape: tuple[int, ...]):
        self.parts, self.shape = parts, shape
        self.sizes = [part.num_logits for part in parts]
        self.num_logits = self.num_features = sum(self.sizes)

    def _each(self, logits: Tensor) -> Iterator[tuple[Categorical, Tensor]]:
        return zip(self.parts, logits.split(self.sizes, -1), strict=True)

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([part.sample(given, generator) for part, given in self._each(logits)], -1)

    def mode(self, logits: Tensor) -> Tensor:
        return torch.stack([part.mode(given) for part, given in self._each(logits)], -1)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        chosen = zip(self._each(logits), action.unbind(-1), strict=True)
        return sum(part.log_prob(given, choice) for (part, given), choice in chosen)

    def entropy(self, logits: Tensor) -> Tensor:
        return sum(part.entropy(given) for part, given in self._each(logits))

    def to_env(self, action: Tensor) -> Tensor:
        chosen = zip(self.parts, action.unbind(-1), strict=True)
        return torch.stack([part.to_env(choice) for part, choice in chosen], -1).unflatten(-1, self.shape)

    def encode(self, action: Tensor) -> Tensor:
        flat = action.flatten(-len(self.shape))
        return torch.cat([part.encode(choice) for part, choice in zip(self.parts, flat.unbind(-1), strict=True)], -1)


class Gaussian(Actions):
    """Independent normal distributions of D reals; logits are D means, then D logarithms of standard deviations.

    Where both bounds are finite, the environment's form of [-1, 1] is the whole of [low, high], so that a standard
    deviation of 1 suits every range; elsewhere it is the number itself. Then it is clipped to the bounds. Probabilities
    are of the numbers drawn, before that: clipping is the environment's part.
    """

    def __init__(self, low: Tensor, high: Tensor):
        """low, high: bounds of the space in its shape, infinite where there are none."""
        self.low, self.high = low, high
        bounded = low.isfinite() & high.isfinite()
        self.middle = torch.where(bounded, low / 2 + high / 2, 0)
        self.reach = torch.where(bounded, high / 2 - low / 2, 1)
        self.num_features = low.numel()
        self.num_logits = 2 * self.num_features

    def head(self, input_size: int) -> nn.Module:
        return MeanAndLogStd(input_size, self.num_features)

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, log_std = logits.chunk(2, -1)
        return mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)

    def mode(self, logits: Tensor) -> Tensor:
        return logits.chunk(2, -1)[0]

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        mean, log_std = logits.chunk(2, -1)
        return -(((action - mean) / log_std.exp()).square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        return (logits.chunk(2, -1)[1] + (1 + math.log(2 * math.pi)) / 2).sum(-1)

    def to_env(self, action: Tensor) -> Tensor:
        """On the CPU, where environments are."""
        played = action.cpu().reshape(*action.shape[:-1], *self.low.shape).to(self.low.dtype)
        return (self.middle + self.reach * played).clamp(self.low, self.high)

    def encode(self, action: Tensor) -> Tensor:
        """The number that `to_env` made the action of."""
        middle, reach = self.middle.to(action), torch.where(self.reach > 0, self.reach, 1).to(action)
        drawn = (action - middle) / reach
        return drawn.reshape(*action.shape[: action.ndim - self.low.ndim], self.num_features).float()


class MeanAndLogStd(nn.Module):
    """The logits of a Gaussian: means linear in the features, standard deviations the same for all, 1 at first."""

    def __init__(self, input_size: int, num_reals: int):
        super().__init__()
        self.mean = nn.Linear(input_size, num_reals)
        self.log_std = nn.Parameter(torch.zeros(num_reals))

    def forward(self, features: Tensor) -> Tensor:
        mean = self.mean(features)
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)


def make_actions(space) -> Actions:
    """The distributions for a Gymnasium action space; ValueError naming the space if there are none."""
    kind = type(space).__name__
    if kind == "Discrete":
        return Categorical(int(space.n), int(space.start))
    if kind == "MultiDiscrete":
        counts = zip(space.nvec.flat, space.start.flat, strict=True)
        return MultiCategorical([Categorical(int(n), int(start)) for n, start in counts], space.shape)
    if kind == "Box" and space.dtype.kind == "f":
        return Gaussian(torch.from_numpy(space.low.copy()), torch.from_numpy(space.high.copy()))
    shown = " ".join(str(space).split())
    raise ValueError(f"there is no policy for actions of {shown}; Discrete, MultiDiscrete and Box of floats work")
