"""Restoring any size: whole and tile by tile, every kind of image, and what must not matter."""

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from glowlib.data.images import Pixels
from glowlib.errors import KitError
from glowlib.evaluation.tiling import automatic_tile, denoise, fitted, positions, ramp
from glowlib.networks import create_model
from glowlib.networks.base import LEAST_LEVEL
from glowlib.networks.noise_level import estimate_sigma

NETWORKS = ("sunet", "gcunet", "glownet", "sglownet")
SIZES = [(16, 16), (37, 53), (128, 96), (17, 301)]
FAST = settings(deadline=None, derandomize=True, max_examples=80, database=None)


class Pixelwise(nn.Module):
    """Mixes the colours of each pixel: what it returns does not depend on how a picture is cut."""

    WEIGHT = torch.tensor([[0.6131, 0.1272, -0.2113], [0.0314, 0.5159, 0.3265], [0.2358, -0.1979, 0.7323]])
    BIAS = torch.tensor([0.0537, 0.1014, -0.0231])  # no round numbers: few products lie half-way between integers

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(training_size=32, patch_size=4)
        self.weight, self.bias = nn.Parameter(self.WEIGHT.clone()), nn.Parameter(self.BIAS.clone())
        self.seen = []  # (shape, training) of each call
        self.eval()

    def forward(self, x):
        self.seen.append((tuple(x.shape), self.training))
        return torch.einsum("oc,bchw->bohw", self.weight, x.to(self.weight.dtype)) + self.bias[:, None, None]

    @classmethod
    def expected(cls, colour):
        """(..., 3) float64 -> the same, by numpy."""
        return colour @ cls.WEIGHT.double().numpy().T + cls.BIAS.double().numpy()


class Mean(nn.Module):
    """Each tile becomes its own mean, so that neighbours disagree as much as they can."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(training_size=32, patch_size=4)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x.mean((2, 3), keepdim=True).expand_as(x)


class Local(nn.Module):
    """Three 3×3 convolutions: each pixel sees 3 pixels far, and zeros beyond the border."""

    REACH = 3

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(training_size=32, patch_size=4)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1))
        self.layers.extend([nn.Tanh(), nn.Conv2d(6, 3, 3, padding=1)])

    def forward(self, x):
        return self.layers(x)


def picture(*shape):
    return np.random.default_rng(shape).random(shape)


def as_batch(height, width, number=1):
    return torch.from_numpy(picture(number, 3, height, width)).float()


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


# --- where the tiles lie


@FAST
@given(st.integers(1, 700), st.integers(2, 200), st.integers(0, 199))
@example(256, 128, 0)
@example(257, 128, 127)
@example(17, 16, 15)
def test_tiles_cover_and_overlap(length, tile, overlap):
    """From edge to edge, inside the picture, each sharing at least `overlap` with the next, none in vain."""
    tile = min(tile, length)
    assume(overlap < tile)
    starts = positions(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - tile
    steps = np.diff(starts)
    assert (steps <= tile - overlap).all()
    assert (steps > 0).all()
    assert steps.max(initial=0) - steps.min(initial=tile) <= 1  # evenly
    # One tile less could not cover the length with that overlap.
    assert len(starts) == 1 or (len(starts) - 1) * (tile - overlap) + overlap < length


@pytest.mark.parametrize(("length", "starts"), [(128, [0]), (129, [0, 1]), (240, [0, 112]), (241, [0, 56, 113])])
def test_tiles_of_128_with_overlap_16(length, starts):
    assert positions(length, 128, 16) == pytest.approx(starts, abs=1)
    assert len(positions(length, 128, 16)) == len(starts)


@FAST
@given(st.integers(1, 300), st.integers(1, 299))
def test_blending_weights(tile, overlap):
    """Positive everywhere, symmetric, rising to 1; where two tiles share just the overlap they add up to 1."""
    weights = ramp(tile, overlap)
    assert weights.shape == (tile,)
    assert weights.min() > 0
    assert weights.max() <= 1
    assert torch.equal(weights, weights.flip(0))
    assert (weights[: math.ceil(tile / 2)].diff() >= 0).all()
    if 2 * overlap <= tile:
        assert (weights[overlap : tile - overlap] == 1).all()
        torch.testing.assert_close(weights[tile - overlap :] + weights[:overlap], torch.ones(overlap))


@pytest.mark.parametrize(("training_size", "tile"), [(32, 160), (64, 160), (96, 224), (128, 288), (256, 288)])
def test_automatic_tile(training_size, tile, nano):
    config = create_model("sunet", **{**nano, "training_size": training_size}).config
    assert automatic_tile(config) == tile


def test_auto_uses_the_automatic_tile():
    model = Pixelwise()  # trained at 32, so tiles of at most 160: three of 128 hold 300 and twice 32
    denoise(model, as_batch(100, 300), batch_size=8)
    assert [shape for shape, _ in model.seen] == [(3, 3, 100, 128)]


@given(st.integers(16, 3000), st.sampled_from([160, 224, 288]), st.sampled_from([16, 32]))
def test_fitted_tiles(length, largest, step):
    """As few as the largest allow, no larger than the step makes them."""
    side = fitted(length, largest, 32, step)
    assert side <= largest
    assert side % step == 0
    few = max(1, math.ceil((length - 32) / (largest - 32)))
    assert len(positions(length, min(side, length), min(32, length - 1))) <= few
    assert side == step or few * (side - step - 32) + 32 < length


# --- tiles against the whole


@FAST
@given(st.integers(1, 90), st.integers(1, 90), st.integers(16, 64), st.floats(0, 0.99), st.integers(1, 5))
def test_a_pixelwise_model_never_shows_its_tiles(height, width, tile, share, batch_size):
    model, x = Pixelwise(), as_batch(height, width, 2)
    tiled = denoise(model, x, tile=tile, overlap=int(share * tile), batch_size=batch_size)
    whole = model(x).detach()
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)
    assert all(shape[2:] == (min(tile, height), min(tile, width)) for shape, _ in model.seen[:-1])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tile_none_is_the_model_itself(network, height, width, build, batch):
    model = build(network)
    x = as_batch(height, width)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(denoise(model, x, tile=None), expected, rtol=1e-6, atol=1e-6)
    # A tile larger than the picture is no different.
    torch.testing.assert_close(denoise(model, x, tile=512), expected, rtol=1e-6, atol=1e-6)


def blend(model, x, tile, overlap):
    """A second account of the blending, one tile after the other in float64."""
    height, width = x.shape[-2:]
    total, weights = np.zeros((3, height, width)), np.zeros((height, width))
    tops = positions(height, min(tile, height), min(overlap, min(tile, height) - 1))
    lefts = positions(width, min(tile, width), min(overlap, min(tile, width) - 1))
    for y in tops:
        for x0 in lefts:
            crop = x[:, :, y : y + tile, x0 : x0 + tile]
            h, w = crop.shape[-2:]
            with torch.no_grad():
                restored = model(crop)[0].double().numpy()
            inside = [np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) for n in (h, w)]
            shared = [max(1, min(overlap, n - 1)) for n in (h, w)]
            rows, columns = (np.minimum(1, i / s) for i, s in zip(inside, shared, strict=True))
            total[:, y : y + h, x0 : x0 + w] += restored * rows[:, None] * columns
            weights[y : y + h, x0 : x0 + w] += rows[:, None] * columns
    return torch.from_numpy(total / weights)[None]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(37, 53), (17, 101)])
def test_tiles_are_restored_apart_and_blended(network, height, width, build):
    """What a tile gives is the model's output on that crop, whichever others share its batch."""
    model, x = build(network, qk_scale=None), as_batch(height, width)
    tiled = denoise(model, x, tile=48, overlap=16, batch_size=3)
    assert error(tiled, blend(model, x, 48, 16)) < 5e-6


def test_a_local_model_is_exact_away_from_the_tiles_borders():
    """Convolutions see zeros beyond a tile's border; further in than they reach, tiles and whole agree."""
    model, x = Local(), as_batch(90, 130)
    with torch.no_grad():
        whole = model(x)
    tile, overlap = 48, 16
    tiled = denoise(model, x, tile=tile, overlap=overlap)

    def touched(length):
        """Which positions lie within REACH of the inner border of a tile that covers them."""
        near = np.zeros(length, bool)
        for start in positions(length, tile, overlap):
            near[start : start + Local.REACH] |= start > 0
            near[start + tile - Local.REACH : start + tile] |= start + tile < length
        return near

    near = touched(90)[:, None] | touched(130)
    difference = (tiled - whole).abs().amax((0, 1)).numpy()
    assert 0.4 < (~near).mean() < 0.9
    assert difference[~near].max() < 1e-6
    assert difference[near].max() > 1e-3  # the test would see a seam


@pytest.mark.parametrize("overlap", [4, 12, 24])
def test_the_blend_has_no_seams(overlap):
    """Tiles that disagree by a whole unit pass into each other by steps of 1/overlap at most."""
    x = torch.zeros(1, 3, 48, 144)
    x[..., 72:] = 1  # the outer tiles are all 0 and all 1
    restored = denoise(Mean(), x, tile=48, overlap=overlap)
    assert restored[0, 0, 0, 0] < 0.01
    assert restored[0, 0, 0, -1] > 0.99
    assert (restored - restored[:, :, :1]).abs().max() < 1e-6
    assert restored[0, 0, 0].diff().abs().max() <= 1 / overlap + 1e-6
    assert denoise(Mean(), x, tile=48, overlap=0)[0, 0, 0].diff().abs().max() > 0.4


def test_sunet_is_exact_beyond_the_reach_of_its_windows(build):
    """Without shifts nothing in SUNet sees further than 128 pixels here: only tiles' borders differ, and they do."""
    model = build("sunet", depths=(1, 1, 1, 1), window_size=2)
    x = as_batch(32, 512)
    whole, tiled = denoise(model, x, tile=None), denoise(model, x, tile=256, overlap=128)
    for part in (slice(0, 128), slice(384, 512)):  # one tile alone, its inner border 128 pixels away
        torch.testing.assert_close(tiled[..., part], whole[..., part], rtol=1e-5, atol=1e-5)
    assert error(tiled[..., 128:384], whole[..., 128:384]) > 1e-4


@pytest.mark.parametrize(
    ("network", "limit"), [("sunet", 0.02), ("gcunet", 0.02), ("glownet", 0.02), ("sglownet", 0.06)]
)
def test_tiles_stay_near_the_whole(network, limit, build, photograph):
    """Each tile pools a context of its own, so tiles are near the whole, not equal: twice the measured distance."""
    model = build(network, qk_scale=None)
    image = photograph.astype(np.float32) / 255
    whole, tiled = (torch.from_numpy(denoise(model, image, tile=tile, overlap=64)) for tile in (128, 96))
    distance = ((tiled - whole).norm() / (whole - whole.mean()).norm()).item()
    assert limit / 8 < distance < limit


# --- kinds of image


def arrays():
    rng = np.random.default_rng(5)
    for dtype in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        for channels in (None, 1, 2, 3, 4):
            shape = (37, 53) if channels is None else (37, 53, channels)
            values = rng.random(shape)
            top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
            image = (values * top).astype(dtype)
            yield pytest.param(image, top, id=f"{image.dtype}-{channels}")


@pytest.mark.parametrize(("image", "top"), list(arrays()))
@pytest.mark.parametrize("tile", [None, 24])
def test_arrays_return_as_they_came(image, top, tile):
    before = image.copy()
    restored = denoise(Pixelwise(), image, tile=tile)
    assert type(restored) is np.ndarray
    assert restored.dtype == image.dtype
    assert restored.shape == image.shape
    assert np.array_equal(image, before)
    channels = 1 if image.ndim == 2 else image.shape[2]
    planes = image.reshape(37, 53, channels).astype(float) / top
    colour = planes[..., :3] if channels > 2 else planes[..., :1].repeat(3, 2)
    expected = Pixelwise.expected(colour)
    expected = expected if channels > 2 else expected.mean(2, keepdims=True)
    found = restored.reshape(37, 53, channels)
    if channels in (2, 4):
        assert np.array_equal(found[..., -1], image[..., -1])  # alpha, untouched
        found = found[..., :-1]
    if top > 1:
        difference = np.abs(found - np.rint(expected.clip(0, 1) * top))
        assert difference.max() <= 1  # half-way cases may round either way
        assert difference.mean() < 0.01
        assert (expected < 0).any() == (found == 0).any()  # clipped, not wrapped around
    else:
        accuracy = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-6}[str(image.dtype)]
        assert np.abs(found - expected).max() < accuracy


def test_float64_is_not_narrowed_by_a_float64_model():
    image = picture(20, 30, 3)
    assert np.abs(denoise(Pixelwise().double(), image) - Pixelwise.expected(image)).max() < 1e-7  # float32 weights


def test_floats_are_not_clipped():
    image = np.linspace(-3, 4, 20 * 30 * 3).reshape(20, 30, 3)
    restored = denoise(Pixelwise(), image)
    np.testing.assert_allclose(restored, Pixelwise.expected(image), atol=1e-5)
    assert restored.min() < -1
    assert restored.max() > 2


@pytest.mark.parametrize("view", [lambda a: a[:, ::-1], lambda a: a.transpose(1, 0, 2), lambda a: a[::2, 3:20]])
def test_views_and_read_only_arrays(view):
    image = view(picture(40, 30, 3))
    image.flags.writeable = False
    np.testing.assert_allclose(denoise(Pixelwise(), image), Pixelwise.expected(image), atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "back"),
    [(m, m) for m in ("L", "RGB", "LA", "RGBA", "I;16")] + [("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("PA", "RGBA")],
)
def test_pil_images_return_as_pil(mode, back):
    """The five kinds that can hold the result stay as they are; a palette or one bit cannot."""
    grey = Image.fromarray((picture(37, 53) * 65535).astype(np.uint16))
    colour = Image.fromarray((picture(37, 53, 4) * 255).astype(np.uint8))
    opaque = colour.convert("RGB")
    image = grey if mode == "I;16" else (colour if "A" in mode else opaque).convert(mode)
    restored = denoise(Pixelwise(), image, tile=24)
    assert isinstance(restored, Image.Image)
    assert restored.mode == back
    assert restored.size == image.size
    source = image if mode == back else image.convert(back)
    assert np.array_equal(np.asarray(restored), denoise(Pixelwise(), np.asarray(source), tile=24))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 37, 53), (2, 1, 37, 53), (3, 37, 53), (1, 37, 53)], ids=str)
def test_tensors_return_as_they_came(dtype, shape):
    x = torch.from_numpy(picture(*shape)).to(dtype)
    before = x.clone()
    restored = denoise(Pixelwise(), x, tile=24)
    assert restored.dtype == dtype
    assert restored.shape == x.shape
    assert restored.device == x.device
    assert torch.equal(x, before)
    colour = x.double().movedim(-3, -1).expand(*shape[:-3], *shape[-2:], 3).numpy()
    expected = torch.from_numpy(Pixelwise.expected(colour)).movedim(-1, -3)
    expected = expected.mean(-3, keepdim=True) if shape[-3] == 1 else expected
    accuracy = {torch.float16: 1e-3, torch.bfloat16: 4e-3}.get(dtype, 1e-6)  # half a unit in the last place
    assert (restored.double() - expected).abs().max() < accuracy


def test_a_result_can_be_worked_on():
    """In place, and in a graph: it is an ordinary tensor."""
    x = as_batch(20, 30)
    restored = denoise(Pixelwise(), x)
    assert not restored.requires_grad
    restored.clamp_(0, 0.5)
    scale = torch.ones(1, requires_grad=True)
    (restored * scale).sum().backward()
    assert scale.grad.item() == pytest.approx(restored.sum().item(), rel=1e-5)


def test_a_model_of_lower_precision_keeps_the_images_kind():
    x = as_batch(20, 30)
    restored = denoise(Pixelwise().bfloat16(), x)
    assert restored.dtype == torch.float32
    assert (restored - denoise(Pixelwise(), x)).abs().max() < 0.02


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((20, 30, 5)), "H×W"),
        (np.zeros((2, 20, 30, 3)), "H×W"),
        (np.zeros((0, 30, 3)), "H×W"),
        (np.zeros((20, 30), np.int32), "uint8 or uint16"),
        (np.zeros((20, 30), bool), "uint8 or uint16"),
        (np.full((20, 30), np.nan), "NaN"),
        (torch.full((1, 3, 20, 30), torch.inf), "NaN or infinite"),
        (torch.zeros(1, 2, 20, 30), "float tensor"),
        (torch.zeros(20, 30), "float tensor"),
        (torch.zeros(1, 3, 20, 30, dtype=torch.uint8), "float tensor"),
        ([[0.0]], "not list"),
        ("photo.png", "not str"),
        (None, "not NoneType"),
    ],
)
def test_refuses_what_is_no_image(image, message):
    with pytest.raises(KitError, match=message) as caught:
        denoise(Pixelwise(), image)
    assert "\n" not in str(caught.value)


# --- what must not matter, and options


@pytest.mark.parametrize("network", NETWORKS)
def test_batch_size_does_not_matter(network, build):
    model, x = build(network, qk_scale=None), as_batch(40, 70)
    one, three, many = (denoise(model, x, tile=32, batch_size=n) for n in (1, 3, 100))
    assert error(three, one) < 1e-5
    assert error(many, one) < 1e-5


def test_batch_size_counts_tiles():
    model = Pixelwise()
    denoise(model, as_batch(40, 90, 2), tile=32, overlap=2, batch_size=5)  # 2 pictures of 2×3 tiles
    assert [shape[0] for shape, _ in model.seen] == [5, 5, 2]


class Switched(Pixelwise):
    """Counts its switches of mode, and says in which mode it was when it ran."""

    modes, switches = [], []  # of all copies

    def train(self, mode=True):
        self.switches.append(mode)
        return super().train(mode)

    def forward(self, x):
        self.modes.append(self.training)
        return super().forward(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_shared_model_is_never_switched(training):
    """Other threads may use it meanwhile, or train it: nobody else's flags change, not even for a moment."""
    model = Switched().train(training)
    model.inner = nn.Dropout().train(training)
    before = model.state_dict(keep_vars=True)
    Switched.modes.clear()
    Switched.switches.clear()
    seen = []
    model.register_forward_hook(lambda module, *_: seen.append(module))
    denoise(model, as_batch(20, 30))
    assert Switched.modes == [False]
    assert Switched.switches == ([False] if training else [])  # the copy's
    assert (seen[0] is model) == (not training)
    assert all(a is before[n] for n, a in seen[0].state_dict(keep_vars=True).items())  # the copy shares the weights
    assert model.training == model.inner.training == training


def test_a_network_in_training_mode_restores_as_in_eval_mode(build):
    """Neither dropped paths nor batch statistics, which are also left as they were."""
    model, x = build("glownet", drop_path_rate=0.5), as_batch(40, 50)
    expected = denoise(model, x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        assert torch.equal(denoise(model.train(), x), expected)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tile": tile}, "tile is") for tile in (15, 0, -1, 64.0, "64", "whole", True)]
    + [({"tile": 64, "overlap": overlap}, "overlap is") for overlap in (-1, 64, 100, 8.0, "8", True)]
    + [({"batch_size": size}, "batch_size is") for size in (0, -1, 2.0, True)],
    ids=str,
)
def test_refuses_options_that_do_not_fit(options, message):
    model = Pixelwise()
    with pytest.raises(ValueError, match=message) as caught:
        denoise(model, as_batch(100, 100), **options)
    assert "\n" not in str(caught.value)
    assert model.seen == []


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8], ids=lambda k: k.__name__)
def test_numpys_integers_are_numbers(kind):
    x = as_batch(50, 60)
    found = denoise(Local(), x, tile=kind(32), overlap=kind(8), batch_size=kind(3), ensemble=kind(1))
    assert torch.equal(found, denoise(Local(), x, tile=32, overlap=8, batch_size=3))


# --- the level of the noise


class Told(nn.Module):
    """Returns the σ that it is given, as an image; with no weights at all."""

    def __init__(self, **config):
        super().__init__()
        self.config = SimpleNamespace(training_size=32, patch_size=4, noise_normalisation=True, **config)
        self.eval()

    def forward(self, x, sigma=None):
        return sigma[:, None, None, None].expand_as(x)


@pytest.fixture(scope="module")
def normalised(build):
    return build("sunet", noise_normalisation=True, global_residual=True, qk_scale=None)


def noisy(height, width, sigma, number=1):
    draws = np.random.default_rng(7).standard_normal((number, 3, height, width))
    return torch.from_numpy(0.5 + np.reshape(sigma, (-1, 1, 1, 1)) / 255 * draws).float()


def test_one_level_for_an_image_whatever_its_tiles(normalised):
    """It is the whole image's, unpadded, not each tile's: noise that differs from place to place shows it."""
    x = noisy(40, 150, 20)
    x[..., 75:] = 0.5 + 3 * (x[..., 75:] - 0.5)
    levels = denoise(Told(), x, tile=32, overlap=8)
    assert levels.std() < 1e-5
    assert levels.mean().item() == pytest.approx(estimate_sigma(x).item(), rel=1e-5)
    assert denoise(Told(), x, tile=32, overlap=8, batch_size=7).mean().item() == pytest.approx(levels.mean().item())


@pytest.mark.parametrize(("height", "width"), [(37, 53), (64, 64)])
def test_the_whole_image_is_the_model_itself(height, width, normalised):
    x = noisy(height, width, 30, 2)
    with torch.no_grad():
        torch.testing.assert_close(denoise(normalised, x, tile=None, batch_size=2), normalised(x), rtol=1e-6, atol=1e-6)
        expected = normalised(x, sigma=12.0)
    torch.testing.assert_close(denoise(normalised, x, tile=None, sigma=12), expected, rtol=1e-5, atol=1e-5)
    assert error(expected, normalised(x).detach()) > 1e-3


def test_images_without_noise_have_the_least_level():
    assert denoise(Told(), torch.full((1, 3, 20, 30), 0.5)).mean().item() == pytest.approx(LEAST_LEVEL)
    assert denoise(Told(), torch.full((1, 3, 20, 30), 0.5), strength=0.5).mean().item() == pytest.approx(1)


@pytest.mark.parametrize(
    "sigma",
    [15, 15.0, np.float32(15), np.int64(15), torch.tensor(15.0), [15, 40], np.array([15, 40]), (15, 40)],
    ids=str,
)
@pytest.mark.parametrize("strength", [1, 1.5, np.float64(0.5)])
def test_a_given_level_replaces_the_estimate(sigma, strength):
    levels = denoise(Told(), noisy(20, 70, (5, 60), 2), sigma=sigma, strength=strength, tile=32, overlap=4).mean(
        (1, 2, 3)
    )
    expected = [15, 40] if np.size(sigma) == 2 else [15, 15]
    assert levels.tolist() == pytest.approx([strength * level for level in expected])


def test_each_image_of_a_batch_has_its_own_estimate():
    x = noisy(80, 90, (5, 60), 2)
    levels = denoise(Told(), x, tile=32, overlap=4, batch_size=3).mean((1, 2, 3))
    assert levels.tolist() == pytest.approx(estimate_sigma(x).tolist(), rel=1e-5)
    assert levels[1] > 5 * levels[0]


def test_strength_removes_more_or_less(normalised):
    """Twice the estimate is what twice the given level is."""
    x = noisy(32, 40, 25)
    given = denoise(normalised, x, sigma=2 * estimate_sigma(x).item())
    torch.testing.assert_close(denoise(normalised, x, strength=2), given, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"sigma": bad} for bad in (0, -1, math.nan, math.inf, "25", None.__class__, [1, 2, 3], [25, 0], {}, [[1], [2, 3]])]
    + [{"strength": bad} for bad in (0, -1, math.nan, math.inf, "2", None, True, [1])]
    + [{"ensemble": bad} for bad in (0, 2, 9, -8, 8.0, "8", None, True)],
    ids=str,
)
def test_refuses_levels_and_ensembles_that_make_no_sense(options):
    with pytest.raises(KitError, match=f"{next(iter(options))} is ") as caught:
        denoise(Told(), noisy(20, 30, 25, 2), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"sigma": 25}, {"strength": 1.5}, {"sigma": 25, "strength": 0.5}], ids=str)
def test_a_model_without_normalisation_takes_no_level(options, build):
    for model in (build("sunet"), Pixelwise()):
        with pytest.raises(ValueError, match="no noise normalisation"):
            denoise(model, as_batch(20, 30), **options)
    denoise(Pixelwise(), as_batch(20, 30), strength=1)


def test_a_single_row_has_no_estimate():
    with pytest.raises(KitError, match="1×30 pixels cannot be estimated: give sigma"):
        denoise(Told(), torch.zeros(1, 3, 1, 30))
    assert denoise(Told(), torch.zeros(1, 3, 1, 30), sigma=9).mean() == 9


# --- the ensemble


@pytest.mark.parametrize("tile", [None, 32, "auto"])
def test_the_ensemble_is_the_mean_over_flips_and_turns(tile):
    model, x = Local().eval(), as_batch(50, 77)
    views = []
    for flip in (False, True):
        for quarters in range(4):
            view = torch.rot90(x.flip(-1) if flip else x, quarters, (2, 3))
            back = torch.rot90(denoise(model, view, tile=tile), -quarters, (2, 3))
            views.append(back.flip(-1) if flip else back)
    expected = torch.stack(views).mean(0)
    found = denoise(model, x, tile=tile, ensemble=8)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert error(found, views[0]) > 1e-3
    assert len({v.numpy().tobytes() for v in views}) == 8  # eight different ones


def test_the_ensemble_of_integers_is_rounded_once():
    image = (picture(20, 30, 3) * 65535).astype(np.uint16)
    found = denoise(Pixelwise(), image, ensemble=8)
    assert np.abs(found.astype(int) - denoise(Pixelwise(), image)).max() <= 1


def test_the_ensemble_has_one_level():
    x = noisy(30, 50, 25)
    levels = denoise(Told(), x, ensemble=8)
    assert levels.min().item() == pytest.approx(estimate_sigma(x).item(), rel=1e-5)
    assert levels.max().item() == pytest.approx(estimate_sigma(x).item(), rel=1e-5)


# --- models of every kind


def test_wrappers_of_several_gpus_and_functions():
    model, x = Local().eval(), as_batch(50, 60)
    expected = denoise(model, x)
    assert torch.equal(denoise(nn.DataParallel(model), x), expected)
    assert torch.equal(denoise(model.forward, x, tile=64), denoise(model, x, tile=64))  # any function
    assert torch.equal(denoise(nn.Sequential(model).eval(), x, tile=64), denoise(model, x, tile=64))
    for other in (model.forward, nn.Sequential(model)):
        with pytest.raises(KitError, match="give tile"):
            denoise(other, x)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_result_that_is_not_finite_is_refused(value):
    model = Pixelwise()
    model.bias.data[1] = value
    for image in (as_batch(20, 80), np.zeros((20, 80, 3), np.uint8)):
        with pytest.raises(KitError, match="not finite"):
            denoise(model, image, tile=32)


class Exhausted(Pixelwise):
    """Runs out of memory in the second tile, with a device's own error."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        if self.seen:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB, other allocations: 2 GB, max allowed: 3 GB)."),
    ],
    ids=["python", "cuda", "cpu", "mps"],
)
def test_running_out_of_memory_is_one_line(error):
    with pytest.raises(KitError, match="not enough memory.*smaller tile, or batch_size 1") as caught:
        denoise(Exhausted(error), as_batch(20, 80), tile=32, batch_size=1)
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_model_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"):
        denoise(Exhausted(RuntimeError("shapes do not match")), as_batch(20, 80), tile=32, batch_size=1)


# --- settings of the process, and threads


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("device", [None, "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_default_type_and_device_do_not_matter(network, device, dtype, build):
    model, image = build(network, qk_scale=None), (picture(40, 50, 3) * 255).astype(np.uint8)
    expected = denoise(build(network, qk_scale=None), image, tile=32)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        found = denoise(model, image, tile=32)
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("training", [True, False])
def test_threads_share_a_model(training, build):
    model = build("glownet", drop_path_rate=0.5, qk_scale=None)
    images = [as_batch(33, 40 + n) for n in range(6)]
    expected = [denoise(model, x) for x in images]
    try:
        model.train(training)
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda x: denoise(model, x), images))
    finally:
        model.eval()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_large_integers_are_not_turned_into_floats_at_once(monkeypatch):
    """Each tile is; so a large photograph needs its float result, and no float copy of itself."""
    seen = []
    scaled = Pixels.scaled
    monkeypatch.setattr(Pixels, "scaled", lambda pixels, part: seen.append(tuple(part.shape)) or scaled(pixels, part))
    denoise(Pixelwise(), np.zeros((100, 120, 3), np.uint8), tile=32)
    assert set(seen) == {(3, 32, 32)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("network", NETWORKS)
def test_cuda_agrees_with_the_cpu(network, build):
    model = build(network, qk_scale=None)
    image = picture(70, 90, 3)
    expected = denoise(model, image, tile=48)
    try:
        restored = denoise(model.cuda(), image, tile=48)
    finally:
        model.cpu()
    assert isinstance(restored, np.ndarray)
    assert np.abs(restored - expected).max() < 1e-2 * expected.std()
