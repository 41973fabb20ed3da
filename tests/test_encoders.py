"""Encoders: which one a space gets, what it reads of an observation, and the networks of the papers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple, flatten
from gymnasium.wrappers.utils import RunningMeanStd
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.torch_layers import NatureCNN
from torch.nn.functional import conv2d, max_pool2d, relu
from torch.testing import assert_close

from engram.policies.encoders import (
    BoxEncoder,
    FlatEncoder,
    ImpalaEncoder,
    NatureEncoder,
    NormalizedEncoder,
    OneHotEncoder,
    Pixels,
    ShallowEncoder,
    make_encoder,
)


def image_space(*shape, largest=255):
    return Box(0, largest, shape, np.uint8)


def batch(space, size=3, seed=0):
    """Observations as a vector environment gives them, as tensors."""
    space.seed(seed)
    samples = [space.sample() for _ in range(size)]
    if isinstance(space, Dict):
        return {key: torch.as_tensor(np.stack([sample[key] for sample in samples])) for key in space}
    return torch.as_tensor(np.stack(samples))


def size(encoder):
    return sum(parameter.numel() for parameter in encoder.parameters())


# Statistics


def alone(sums):
    """`total` of a single process."""
    return sums


@given(cuts=st.lists(st.integers(1, 99), max_size=4), offset=st.sampled_from([0, -3, 1e5]), seed=st.integers(0, 99))
def test_statistics_are_of_all_that_was_observed(cuts, offset, seed):
    """However it is cut, as far as float32 tells the values apart."""
    observed = (offset + np.random.default_rng(seed).normal(size=(100, 3)) * [1, 10, 0]).astype(np.float32)
    encoder, running = make_encoder(Box(-1, 1, (3,)), normalize=True), RunningMeanStd(epsilon=0, shape=(3,))
    for part in np.split(observed, sorted(set(cuts))):
        encoder.observe(torch.as_tensor(part), alone)
        running.update(part.astype(np.float64))
    assert encoder.count == 100
    for found, expected in (encoder.mean, running.mean), (encoder.variance, running.var):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(encoder.mean, observed.mean(0, dtype=np.float64))
    features = encoder(torch.as_tensor(observed))
    expected = (observed.astype(np.float64) - running.mean) / np.sqrt(running.var + 1e-8)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert (features[:, 2] == 0).all(), "what never changes"
    assert encoder(torch.full((1, 3), 1e9)).tolist() == [[10, 10, 10]]


def test_features_are_as_they_are_before_anything_is_observed():
    observation = batch(Box(-1, 1, (3,)))
    assert_close(make_encoder(Box(-1, 1, (3,)), normalize=True)(observation), observation)


def test_statistics_of_several_processes_are_of_what_all_observed():
    parts, sums, all_there = torch.randn(10, 3).split([4, 6]), {}, threading.Barrier(2)
    encoders = [make_encoder(Box(-1, 1, (3,)), normalize=True) for _ in parts]

    def total(own):
        sums[threading.get_ident()] = own
        all_there.wait()
        of_all = sum(sums.values())
        all_there.wait()
        return of_all

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda encoder, part: encoder.observe(part, total), encoders, parts))
    for encoder in encoders:
        assert encoder.count == 10
        assert_close(encoder.mean, torch.cat(parts).double().mean(0))
        assert_close(encoder.variance, torch.cat(parts).double().var(0, correction=0))


def test_vectors_of_floats_and_pixels_are_normalised():
    space = Dict(
        speed=Box(-9, 9, (2,)), goal=Discrete(3), bytes=Box(0, 255, (4,), np.uint8), image=image_space(5, 5, 3)
    )
    encoder = make_encoder(space, normalize=True)
    kinds = {key: type(part) for key, part in zip(encoder.keys, encoder.parts, strict=True)}
    assert kinds == {"speed": NormalizedEncoder, "goal": OneHotEncoder, "bytes": FlatEncoder, "image": BoxEncoder}
    observation = batch(space, 50)
    encoder.observe(observation, alone)
    features = dict(
        zip(encoder.keys, encoder(observation).split([p.output_size for p in encoder.parts], 1), strict=True)
    )
    assert_close(features["speed"].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    assert_close(features["speed"].std(0, correction=0), torch.ones(2))
    image = dict(zip(encoder.keys, encoder.parts, strict=True))["image"]
    pixels = image.pixels(observation["image"])
    assert pixels.shape == (50, 3, 5, 5)
    assert_close(pixels.mean(0), torch.zeros(3, 5, 5), atol=1e-5, rtol=0)
    assert_close(pixels.std(0, correction=0), torch.ones(3, 5, 5), atol=1e-4, rtol=0)
    plain = make_encoder(space)
    plain.load_state_dict({name: value for name, value in encoder.state_dict().items() if name in plain.state_dict()})
    for key, part in zip(plain.keys, plain.parts, strict=True):
        assert key in ("speed", "image") or torch.equal(features[key], part(observation[key]))


@pytest.mark.parametrize("name", ["box", "nature", "shallow", "impala"])
def test_statistics_of_pixels_are_taken_in_pieces(name, monkeypatch):
    space = image_space(40, 40, 3)
    images, kinds = batch(space, 10), []
    for piece in (1, 2**21):
        monkeypatch.setattr(NormalizedEncoder, "piece", piece)
        torch.manual_seed(0)
        encoder = make_encoder(space, name, normalize=True)
        encoder.observe(images, alone)
        kinds.append(encoder)
    assert_close(kinds[0].pixels.variance, (images / 255.0).permute(0, 3, 1, 2).double().var(0, correction=0))
    for buffer, other in zip(kinds[0].buffers(), kinds[1].buffers(), strict=True):
        assert_close(buffer, other)
    assert_close(kinds[0](images), kinds[1](images))


# Vectors, numbers and names


FLAT = {
    "vector": Box(-1, 1, (3,)),
    "number": Box(-1, 1, ()),
    "table": Box(-1, 1, (3, 2)),
    "doubles": Box(-np.inf, np.inf, (4,), np.float64),
    "discrete": Discrete(4),
    "from minus two": Discrete(4, start=-2),
    "multi": MultiDiscrete([2, 4, 3], start=[0, 5, -1]),
    "matrix": MultiDiscrete([[2, 4], [3, 1]]),
    "bits": MultiBinary(5),
    "dict": Dict(place=Box(-1, 1, (3,)), goal=Discrete(4), alarm=MultiBinary(2), keys=MultiDiscrete([2, 2])),
    "names": Dict({"a.b": Discrete(2), "": Box(0, 1, (1,)), "keys": Discrete(3)}),
}


@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(FLAT)))
def test_features_are_those_of_gymnasium(seed, name):
    space = FLAT[name]
    encoder = make_encoder(space)
    features = encoder(batch(space, seed=seed))
    assert features.dtype == torch.float32
    assert features.shape == (3, encoder.output_size)
    space.seed(seed)
    for row in features:
        np.testing.assert_array_equal(row, flatten(space, space.sample()).astype(np.float32))


def test_nested_names_lie_side_by_side():
    space = Dict(far=Dict(map=image_space(5, 5, 3), bearing=Box(-1, 1, (2,))), near=Discrete(3))
    encoder = make_encoder(space)
    assert encoder.output_size == (26 * 25 + 2) + 3
    observation = {
        "far": {"map": batch(space["far"]["map"]), "bearing": torch.tensor([[0.5, -0.5]] * 3)},
        "near": torch.tensor([0, 1, 2]),
    }
    features = encoder(observation)
    assert_close(features[:, -3:], torch.eye(3))
    assert (features[0] == 0.5).any()
    assert len(list(encoder.parameters())) == 4, "two convolutions"


def test_bytes_are_divided_by_the_largest_of_their_space():
    assert FlatEncoder((2,), 255)(torch.tensor([[0, 255]], dtype=torch.uint8)).tolist() == [[0, 1]]
    for largest in (1, 9, 255):
        for space in (image_space(2, largest=largest), image_space(2, 2, 3, largest=largest)):
            features = make_encoder(space, "flat")(torch.full((1, *space.shape), largest, dtype=torch.uint8))
            assert (features == 1).all()


# Images


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((84, 84, 3), 2),
        ((84, 84, 4), 2),
        ((4, 84, 84), 0),
        ((1, 80, 80), 0),
        ((210, 160, 3), 2),
        ((3, 210, 160), 0),
        ((3, 15, 19), 0),
        ((15, 19, 3), 2),
        ((6, 15, 19), 0),
        ((6, 5, 5), 0),  # more planes than rows
        ((5, 5, 6), 2),
        ((3, 5, 5), 0),
        ((1, 1, 3), 2),
        ((3, 3, 3), 0),
    ],
)
def test_channels_are_told_from_rows_and_columns(shape, channels):
    pixels = Pixels(shape)
    image = torch.randn(2, *shape)
    expected = np.moveaxis(image.numpy(), channels + 1, 1)
    np.testing.assert_array_equal(pixels(image), expected)
    assert pixels.output_shape == expected.shape[1:]


def test_grey_images_have_one_channel():
    image = torch.randint(256, (2, 40, 50), dtype=torch.uint8)
    assert_close(Pixels((40, 50), 255)(image), image[:, None] / 255)


@pytest.mark.parametrize(
    ("space", "name", "kind"),
    [
        (image_space(36, 36, 3), "auto", NatureEncoder),
        (image_space(4, 84, 84), "auto", NatureEncoder),
        (image_space(84, 84), "auto", NatureEncoder),
        (Box(0, 1, (3, 64, 64)), "auto", NatureEncoder),
        (image_space(35, 84, 3), "auto", BoxEncoder),
        (image_space(6, 5, 5), "auto", BoxEncoder),
        (Box(0, 1, (5, 5, 6)), "auto", BoxEncoder),
        (image_space(64, 64, 3), "box", BoxEncoder),
        (image_space(6, 5, 5), "impala", ImpalaEncoder),
        (image_space(84, 84, 4), "impala", ImpalaEncoder),
        (image_space(36, 36, 3), "nature", NatureEncoder),
        (image_space(20, 20, 3), "shallow", ShallowEncoder),
        (image_space(84, 84, 4), "flat", FlatEncoder),
        (Box(0, 1, (2, 2, 2, 2)), "flat", FlatEncoder),
        (Box(0, 1, (8, 8)), "auto", FlatEncoder),
        (Box(0, 1, (8,)), "flat", FlatEncoder),
        (image_space(128), "auto", FlatEncoder),
        (Discrete(3), "flat", OneHotEncoder),
    ],
)
def test_the_encoder_of_a_space(space, name, kind):
    torch.manual_seed(0)
    encoder = make_encoder(space, name)
    assert type(encoder) is kind
    features = encoder(batch(space))
    assert features.shape == (3, encoder.output_size)
    assert features.dtype == torch.float32


def test_a_name_is_for_the_images_of_a_dict():
    space = Dict(picture=image_space(40, 40, 3), bearing=Box(-1, 1, (2,)), goal=Discrete(3))
    for name, width in (
        ("auto", 512),
        ("nature", 512),
        ("shallow", 256),
        ("impala", 256),
        ("box", 26 * 1600),
        ("flat", 4800),
    ):
        assert make_encoder(space, name).output_size == width + 2 + 3


# The networks of the papers


def test_the_network_of_box_world():
    """One output at a time: pixel, two layers of ReLU(sum over 2 x 2), and where it is."""
    torch.manual_seed(0)
    encoder = make_encoder(image_space(4, 5, 3), "box")
    image = batch(image_space(4, 5, 3), 1)
    maps = image[0].permute(2, 0, 1).double() / 255
    for conv in (encoder.conv1, encoder.conv2):
        outputs = torch.zeros(conv.out_channels, 4, 5, dtype=torch.double)
        for o, row, column in np.ndindex(*outputs.shape):
            total = conv.bias[o].double()
            for i, down, right in np.ndindex(conv.in_channels, 2, 2):
                if row + down < 4 and column + right < 5:
                    total = total + conv.weight[o, i, down, right] * maps[i, row + down, column + right]
            outputs[o, row, column] = max(total, 0)
        maps = outputs
    assert len(maps) == 24
    features = encoder(image).view(26, 4, 5)
    assert_close(features[:24], maps.float())
    assert_close(features[24], torch.tensor([-1, -1 / 3, 1 / 3, 1])[:, None].expand(4, 5))
    assert_close(features[25], torch.tensor([-1, -0.5, 0, 0.5, 1]).expand(4, 5))


@pytest.mark.parametrize(
    ("shape", "name", "features", "parameters"),
    [
        ((6, 5, 5), "box", 26 * 25, (6 * 4 + 1) * 12 + (12 * 4 + 1) * 24),
        ((3, 15, 19), "box", 26 * 285, (3 * 4 + 1) * 12 + (12 * 4 + 1) * 24),
        ((4, 84, 84), "nature", 512, 1_684_128),
        ((3, 36, 36), "nature", 512, (3 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64 + 65 * 512),
        ((4, 84, 84), "shallow", 256, (4 * 64 + 1) * 16 + (16 * 16 + 1) * 32 + (32 * 9 * 9 + 1) * 256),
        ((1, 20, 36), "shallow", 256, (64 + 1) * 16 + (16 * 16 + 1) * 32 + (32 * 1 * 3 + 1) * 256),
        ((4, 84, 84), "impala", 256, 97_744 + (32 * 11 * 11 + 1) * 256),
        ((3, 72, 96), "impala", 256, 97_600 + (32 * 9 * 12 + 1) * 256),
    ],
)
def test_sizes(shape, name, features, parameters):
    encoder = make_encoder(image_space(*shape), name)
    assert (encoder.output_size, size(encoder)) == (features, parameters)


def test_the_network_of_nature():
    space = image_space(4, 84, 84)
    torch.manual_seed(0)
    encoder, other = make_encoder(space, "nature"), NatureCNN(space, 512)
    for own, given_weights in zip(other.parameters(), encoder.parameters(), strict=True):
        own.data = given_weights.data
    images = batch(space)
    assert_close(encoder(images), other(images.float() / 255))


def test_the_shallow_network():
    torch.manual_seed(0)
    encoder = make_encoder(image_space(4, 44, 28), "shallow")
    images = batch(image_space(4, 44, 28))
    kernels1, bias1, kernels2, bias2, weights, bias = encoder.parameters()
    maps = relu(conv2d(images.float() / 255, kernels1, bias1, stride=4))
    maps = relu(conv2d(maps, kernels2, bias2, stride=2))
    assert maps.shape == (3, 32, 4, 2)
    assert_close(encoder(images), relu(maps.flatten(1) @ weights.T + bias))


def test_the_network_of_impala():
    torch.manual_seed(0)
    encoder = make_encoder(image_space(9, 12, 3), "impala")
    images = batch(image_space(9, 12, 3))
    weights = iter(encoder.parameters())

    def convolve(x):
        return conv2d(x, next(weights), next(weights), padding=1)

    x, convolutions = images.permute(0, 3, 1, 2) / 255, 0
    for channels in (16, 32, 32):
        x = max_pool2d(convolve(x), 3, stride=2, padding=1)
        for _ in range(2):
            x = x + convolve(relu(convolve(relu(x))))
        convolutions += 5
        assert x.shape[1] == channels
    features = relu(relu(x).flatten(1) @ next(weights).T + next(weights))
    assert convolutions == 15
    assert next(weights, None) is None
    assert_close(encoder(images), features)


def test_an_image_as_deep_as_wide_has_its_channels_first():
    assert make_encoder(image_space(3, 3, 3), "box").pixels.channels_last is False


def test_the_choice_of_encoder_reaches_images_inside():
    image = image_space(36, 36, 3)
    encoder = make_encoder(Dict(a=Dict(image=image), b=Box(0, 1, (3,))), "impala")
    assert encoder.output_size == 256 + 3
    assert make_encoder(Dict(a=Box(0, 1, (2, 2, 2, 2))), "flat").output_size == 16
    with pytest.raises(ValueError, match="impala reads images"):
        make_encoder(Dict(a=Box(0, 1, (3,))), "impala")


def test_layouts_are_one_image():
    """Channels first or last, bytes or floats: the same features from the same weights."""
    image = batch(image_space(36, 36, 3))
    first = image.permute(0, 3, 1, 2).contiguous()
    for name in ("box", "nature", "shallow", "impala"):
        spaces = image_space(36, 36, 3), image_space(3, 36, 36), Box(0, 1, (3, 36, 36))
        encoders = [make_encoder(space, name) for space in spaces]
        for encoder in encoders[1:]:
            encoder.load_state_dict(encoders[0].state_dict())
        features, *others = (e(x) for e, x in zip(encoders, (image, first, first / 255), strict=True))
        for other in others:
            assert_close(other, features)


# What does not work


@pytest.mark.parametrize(
    ("space", "name", "message"),
    [
        (Tuple([Discrete(2)]), "auto", "there is no encoder for observations of Tuple(Discrete(2)); Box of one to"),
        (Text(5), "flat", "there is no encoder for observations of Text("),
        (Dict(note=Text(5)), "auto", "there is no encoder for observations of Text("),
        (Dict(), "auto", "there is no encoder for observations of Dict()"),
        (
            Box(0, 1, (2, 3, 4, 5)),
            "auto",
            "there is no encoder for observations of Box(0.0, 1.0, (2, 3, 4, 5), float32)",
        ),
        (Box(-np.arange(99.0), np.arange(99.0)), "nature", "--policy.encoder nature reads images; observations are of"),
        (Discrete(3), "impala", "--policy.encoder impala reads images; observations are of Discrete(3), try auto"),
        (
            image_space(35, 84, 3),
            "nature",
            "nature needs 36 x 36 pixels; observations are of Box(0, 255, (35, 84, 3), uint8), try box",
        ),
        (image_space(40, 19), "shallow", "shallow needs 20 x 20 pixels; observations are of Box(0, 255, (40, 19),"),
        (Discrete(3), "natur", "no encoder is called 'natur'; choose from auto, flat, box, nature, shallow, impala"),
    ],
)
def test_what_cannot_be_read_is_one_line(space, name, message):
    with pytest.raises(ValueError, match="encoder") as caught:
        make_encoder(space, name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
