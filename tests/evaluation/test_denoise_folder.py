"""A folder of images in, a folder of restored images out: every format, every kind of bad input."""

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from glowlib.data.image_files import read_image, read_picture, write_image, write_png
from glowlib.evaluation import denoise_folder
from glowlib.evaluation.denoise_folder import main, result_names
from glowlib.evaluation.tiling import denoise
from glowlib.networks.pretrained import load_pretrained
from glowlib.training.run_folder import export

ROOT = Path(__file__).parents[2]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FORMAT = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jfif": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "webp",
}


@pytest.fixture(scope="module")
def model(build):
    """A small network whose result stays near the picture: an eighth of what filled weights give is added to it."""
    model = build("sglownet", global_residual=True, qk_scale=None)
    with torch.no_grad():
        model.output.weight.mul_(0.125)
    model.load_state_dict({n: t.half().to(t.dtype) for n, t in model.state_dict().items()})  # as it will be stored
    return model


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    export(folder, model, {"name": "nano", "network": "sglownet", "options": dict(vars(model.config))})
    return folder / "model.safetensors"


@pytest.fixture
def folders(tmp_path):
    """(input folder, result folder); the second is for the command to make."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tmp_path / "new" / "out"


@pytest.fixture
def command(weights, folders, capsys):
    """command(option=value) -> (exit status, standard output, lines on standard error but for the progress bar's)."""

    def command(*more, **options):
        given = {"input_dir": folders[0], "result_dir": folders[1], "weights": weights, "device": "cpu"} | options
        argv = [str(part) for name, value in given.items() if value is not None for part in (f"--{name}", value)]
        try:
            main([*argv, *more])
            status = 0
        except SystemExit as leaving:
            status = leaving.code
        captured = capsys.readouterr()
        lines = [line.strip() for line in re.split(r"[\r\n]", captured.err)]
        return status, captured.out, [line for line in lines if line and not re.search(r"\d+%\|", line)]

    return command


def noisy(height, width, channels=3, bits=8, seed=0):
    """A wave under noise, H×W or H×W×channels; the last of two or four channels runs from 0 to full, as alpha."""
    rng = np.random.default_rng([seed, height, width, channels, bits])
    y, x = np.mgrid[:height, :width]
    wave = 0.5 + 0.3 * np.sin(x / 5)[..., None] * np.cos(y / 7)[..., None]
    image = wave + 0.1 * rng.standard_normal((height, width, channels))
    if channels in (2, 4):
        image[..., -1] = x / (width - 1)
    image = np.rint(image.clip(0, 1) * (2**bits - 1)).astype(f"uint{bits}")
    return image[..., 0] if channels == 1 else image


def read(path):
    """A result as it is stored, 8 or 16 bits; tests/data/test_image_files.py holds the reader against other ones."""
    return read_picture(path)


def save16(path, image):
    """16 bits in colour, which Pillow cannot write."""
    if path.suffix == ".png":
        write_png(path, image)
    else:
        tifffile.imwrite(path, image, photometric="rgb")


# --- what is restored


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "jpeg", "jpe", "jfif", "tif", "tiff", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format(suffix, channels, command, folders, model):
    """The result is what `denoise` makes of the decoded picture, as PNG, and not the picture itself."""
    path = folders[0] / f"photo.{suffix}"
    Image.fromarray(noisy(37, 53, channels)).save(path, "jpeg" if suffix in ("jpe", "jfif") else None)
    decoded = np.asarray(Image.open(path))
    status, output, errors = command()
    assert (status, errors) == (0, [])
    assert re.fullmatch(rf"1 of 1 images restored in {re.escape(str(folders[1]))} \(\d+ s\)\n", output)
    assert [p.name for p in folders[1].iterdir()] == ["photo.png"]
    restored = read(folders[1] / "photo.png")
    assert np.array_equal(restored, denoise(model, decoded))
    assert not np.array_equal(restored, decoded)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_stay_16_bits(suffix, channels, command, folders, model):
    image = noisy(30, 41, channels, bits=16)
    if channels == 1:
        Image.fromarray(image).save(folders[0] / f"deep.{suffix}")
    else:
        save16(folders[0] / f"deep.{suffix}", image)
    assert command()[0] == 0
    restored = read(folders[1] / "deep.png")
    assert restored.dtype == np.uint16
    assert np.array_equal(restored, denoise(model, image))
    assert len(np.unique(restored % 256)) > 200  # the lower byte is alive


@pytest.mark.parametrize(
    ("suffix", "channels", "bits"), [("png", 4, 8), ("webp", 4, 8), ("tif", 4, 8), ("png", 2, 8), ("png", 4, 16)]
)
def test_alpha_is_kept(suffix, channels, bits, command, folders, model):
    image = noisy(30, 41, channels, bits)
    path = folders[0] / f"sprite.{suffix}"
    if bits == 16:
        save16(path, image)
    else:
        Image.fromarray(image).save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    assert command()[0] == 0
    restored = read(folders[1] / "sprite.png")
    assert restored.dtype == image.dtype
    assert np.array_equal(restored[..., -1], image[..., -1])
    assert np.array_equal(restored, denoise(model, image))


@pytest.mark.parametrize(("orientation", "turn"), [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1))])
def test_exif_rotation_is_honoured(orientation, turn, command, folders, model):
    """Cameras store what the sensor saw and how it was held; the result is upright by itself."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = folders[0] / "held.jpg"
    Image.fromarray(noisy(30, 41)).save(path, exif=exif)
    upright = np.ascontiguousarray(turn(np.asarray(Image.open(path))))
    assert command()[0] == 0
    assert np.array_equal(read(folders[1] / "held.png"), denoise(model, upright))
    assert Image.open(folders[1] / "held.png").getexif().get(0x0112, 1) == 1


def test_same_stems_do_not_collide(command, folders, model):
    images = {name: noisy(20, 30, seed=i) for i, name in enumerate(("a.jpg", "a.png", "a_jpg.png", "b.tif"))}
    for name, image in images.items():
        Image.fromarray(image).save(folders[0] / name)
    assert command()[1].startswith("4 of 4 ")
    names = {"a.jpg": "a_jpg_2.png", "a.png": "a.png", "a_jpg.png": "a_jpg.png", "b.tif": "b.png"}
    assert {p.name for p in folders[1].iterdir()} == set(names.values())
    for name, result in names.items():
        decoded = np.asarray(Image.open(folders[0] / name))
        assert np.array_equal(read(folders[1] / result), denoise(model, decoded))


@pytest.mark.parametrize(
    ("pictures", "results"),
    [
        (["a.jpg"], ["a.png"]),
        (["a.jpg", "a.png"], ["a_jpg.png", "a.png"]),
        (["A.jpg", "a.png"], ["A_jpg.png", "a.png"]),
        (["a.JPG", "a.jpg"], ["a.png", "a_jpg.png"]),
        (["A.png", "a.png"], ["A.png", "a_png.png"]),
        (["A.png", "a.png", "A_png.png"], ["A.png", "a_png_2.png", "A_png.png"]),
        (["a.jpg", "a.jpeg", "a.webp", "a.tiff"], ["a_jpg.png", "a.png", "a_webp.png", "a_tiff.png"]),
        (["a.b.jpg", "a.png"], ["a.b.png", "a.png"]),
    ],
)
def test_names_differ_even_without_case(pictures, results):
    """macOS and Windows take A.png and a.png for one file."""
    names = result_names([Path(name) for name in pictures])
    assert [names[Path(name)] for name in pictures] == results
    assert len({name.lower() for name in names.values()}) == len(pictures)


def test_other_files_are_left_alone(command, folders):
    Image.fromarray(noisy(20, 30)).save(folders[0] / "a.png")
    (folders[0] / "notes.txt").write_text("not a picture")
    (folders[0] / "folder.png").mkdir()
    before = {p: p.read_bytes() for p in folders[0].iterdir() if p.is_file()}
    assert command()[1].startswith("1 of 1 ")
    assert {p: p.read_bytes() for p in folders[0].iterdir() if p.is_file()} == before
    folders[1].joinpath("a.png").write_bytes(b"from an earlier run")
    assert command()[0] == 0  # a second run writes over the results of the first
    assert read(folders[1] / "a.png").shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"tile": 32, "stride": 20}, {"tile": 32, "overlap": 12}),
        ({"tile": 32}, {"tile": 32}),
        ({"tile": 32, "stride": 32, "batch_size": 3}, {"tile": 32, "overlap": 0}),
        ({"tile": "none"}, {"tile": None}),
        ({"stride": 100}, {"tile": 160, "overlap": 60}),
    ],
)
def test_tile_and_stride(given, meant, command, folders, model):
    image = noisy(20, 140)
    Image.fromarray(image).save(folders[0] / "a.png")
    assert command(**given)[0] == 0
    difference = np.abs(read(folders[1] / "a.png").astype(int) - denoise(model, image, **meant))
    assert difference.max() <= 1  # the batch may round otherwise
    assert difference.mean() < 1e-3
    assert not np.array_equal(denoise(model, image, **meant), denoise(model, image, tile=64))  # tiles do show here


def test_the_papers_command_line(weights, folders, model, tmp_path):
    """demo_any_resolution.py by itself, from another folder."""
    image = noisy(37, 53)
    Image.fromarray(image).save(folders[0] / "a.png")
    argv = [sys.executable, str(ROOT / "demo_any_resolution.py"), "--input_dir", "in", "--result_dir", "out"]
    argv += ["--weights", str(weights), "--model", "sglownet", "--stride", "128", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"1 of 1 images restored in out \(\d+ s\)\n", done.stdout)
    difference = np.abs(read(tmp_path / "out" / "a.png").astype(int) - denoise(model, image))
    assert difference.max() <= 1  # another process may use another number of threads


# --- what is refused: one line, status 2, nothing run, nothing overwritten


class RunsCode:
    """Unpickling this makes a folder: the sign that code in a file was run."""

    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return os.mkdir, (str(self.sign),)


def one_line(result, message):
    status, output, errors = result
    assert status == 2
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert re.search(message, errors[0])
    assert "Traceback" not in output


@pytest.fixture
def good(folders):
    Image.fromarray(noisy(20, 30)).save(folders[0] / "good.png")
    return folders[0] / "good.png"


BAD_OPTIONS = {
    "missing folder": ({"input_dir": "no/such/folder"}, "there is no folder no/such/folder"),
    "a picture for a folder": ({"input_dir": "in/good.png"}, "there is no folder in/good.png"),
    "another network": ({"model": "sunet"}, "holds a sglownet, not a sunet"),
    "unknown network": ({"model": "sglonet"}, "unknown network 'sglonet' .did you mean 'sglownet'.*gcunet"),
    "unknown weights": ({"weights": "sglownet-smal"}, "unknown shipped model 'sglownet-smal' .did you mean"),
    "missing weights": ({"weights": "gone.pth"}, "there is no file gone.pth"),
    "picture as weights": ({"weights": "in/good.png"}, "in/good.png is no weights file"),
    "result folder is a file": ({"result_dir": "in/good.png"}, "cannot write in in/good.png"),
    "result folder in a file": ({"result_dir": "in/good.png/out"}, "cannot write in in/good.png/out"),
    "result folder is input": ({"result_dir": "in"}, "is the input folder"),
    "result folder is input, otherwise": ({"result_dir": "in/../in/."}, "is the input folder"),
    "stride above tile": ({"tile": 64, "stride": 65}, "--stride is from 1 to the tile's side, 64, not 65"),
    "stride above automatic tile": ({"stride": 161}, "--stride is from 1 to the tile's side, 160, not 161"),
    "stride 0": ({"stride": 0}, "--stride is from 1"),
    "stride without tiles": ({"tile": "none", "stride": 64}, "no meaning with --tile none"),
    "tile no number": ({"tile": "big"}, "--tile is a number"),
    "negative tile": ({"tile": -64}, "--tile is a number"),
    "small tile": ({"tile": 15}, "--tile is a number of pixels of at least 16"),
    "batch of none": ({"batch_size": 0}, "--batch_size is a number of at least 1, not 0"),
    "sigma 0": ({"sigma": 0}, "--sigma is a number above 0, not 0"),
    "sigma nan": ({"sigma": "nan"}, "--sigma is a number above 0, not nan"),
    "negative strength": ({"strength": -1}, "--strength is a number above 0, not -1"),
    "sigma without normalisation": (
        {"sigma": 25},
        "no noise normalisation, so it takes neither --sigma nor --strength",
    ),
    "strength without normalisation": ({"strength": 2}, "no noise normalisation"),
    "no pixels": ({"max_pixels": 0}, "--max_pixels is a number of at least 1, not 0"),
    "arabic tile": ({"tile": "٦٤"}, "--tile is a number"),
    "unknown device": ({"device": "abacus"}, "cannot use device 'abacus'"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_one_line(case, command, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[case]
    before = good.read_bytes()
    one_line(command(**options), message)
    assert good.read_bytes() == before
    assert [p.name for p in good.parent.iterdir()] == ["good.png"]
    assert not list(tmp_path.glob("new/out/*"))


def test_an_empty_folder_is_one_line(command, folders):
    (folders[0] / "notes.txt").write_text("not a picture")
    one_line(command(), "no PNG, JPEG, TIFF or WebP image in ")
    assert not folders[1].exists()


def test_weights_that_carry_code_are_one_line(command, good, tmp_path):
    path, sign = tmp_path / "model.pth", tmp_path / "code-was-run"
    torch.save({"state_dict": {"output.weight": torch.zeros(3)}, "extra": RunsCode(sign)}, path)
    one_line(command(weights=path), "no weights file the kit can open: it holds Python objects, which are never loaded")
    assert not sign.exists()


def test_weights_cut_short_are_one_line(command, good, weights, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(weights.read_bytes()[:-100])
    one_line(command(weights=path), "not a whole safetensors file")


def cut(suffix, keep, **options):
    """A writer of a picture cut short after the share `keep`."""

    def write(path):
        whole = path.with_name(f"whole.{suffix}")
        Image.fromarray(noisy(64, 80)).save(whole, **options)
        path.write_bytes(whole.read_bytes()[: int(keep * whole.stat().st_size)])
        whole.unlink()

    return write


def bomb(path):
    """A PNG header that announces 50000×50000 pixels."""
    Image.fromarray(noisy(20, 30)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


BAD_PICTURES = {
    "text.png": lambda path: path.write_text("not a picture\n"),
    "text.jpg": lambda path: path.write_text("not a picture\n"),
    "empty.png": lambda path: path.write_bytes(b""),
    "half.png": cut("png", 0.5),
    "head.png": cut("png", 0.004),
    "half.jpg": cut("jpg", 0.5),
    "half.webp": cut("webp", 0.5),
    "half.tif": cut("tif", 0.5),
    "half-packed.tif": cut("tif", 0.5, compression="tiff_lzw"),
    "head.tif": cut("tif", 0.0005),
    "bomb.png": bomb,
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_one_bad_picture_does_not_stop_the_others(name, command, folders, model):
    """It is named, with the reason, on its own line; those before and after it are restored; status 2."""
    images = {"a.png": noisy(20, 30, seed=1), "z.png": noisy(30, 20, seed=2)}
    for other, image in images.items():
        Image.fromarray(image).save(folders[0] / other)
    BAD_PICTURES[name](folders[0] / name)
    status, output, errors = command()
    assert status == 2
    assert len(errors) == 2
    assert errors[0].startswith(f"error: {name}: cannot read ")
    assert errors[1] == f"error: not restored: {name}"
    assert output.startswith(f"2 of 3 images restored in {folders[1]} (")
    assert sorted(p.name for p in folders[1].iterdir()) == ["a.png", "z.png"]
    for other, image in images.items():
        assert np.array_equal(read(folders[1] / other), denoise(model, image))


def test_an_unwritable_result_does_not_stop_the_others(command, folders):
    for name in ("a.png", "b.png"):
        Image.fromarray(noisy(20, 30)).save(folders[0] / name)
    (folders[1] / "a.png").mkdir(parents=True)  # a folder where the result should go
    status, output, errors = command()
    assert status == 2
    assert [line.split(":")[1].strip() for line in errors] == ["a.png", "not restored"]
    assert output.startswith("1 of 2 ")
    assert read(folders[1] / "b.png").shape == (20, 30, 3)


def test_the_demo_ends_without_a_traceback(tmp_path):
    argv = [sys.executable, str(ROOT / "demo_any_resolution.py"), "--input_dir", "gone", "--result_dir", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: there is no folder gone: .*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_processes_share_the_pictures(command, folders, monkeypatch):
    """As torchrun numbers them: each picture is restored by one process, names cannot collide across them."""
    for name in ("a.png", "b.png", "c.png", "a.jpg", "d.png"):
        Image.fromarray(noisy(20, 24)).save(folders[0] / name)
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = []
    for number in ("0", "1"):
        monkeypatch.setenv("RANK", number)
        status, output, errors = command()
        assert (status, errors) == (0, [])
        done.append(int(output.split()[0]))
        if number == "0":
            first = {p.name for p in folders[1].iterdir()}
    assert done == [3, 2]
    assert len(first) == 3
    assert {p.name for p in folders[1].iterdir()} == {"a.png", "a_jpg.png", "b.png", "c.png", "d.png"}


# --- the knob


@pytest.fixture(scope="module")
def normalised_weights(build, tmp_path_factory):
    model = build("sunet", noise_normalisation=True, global_residual=True, qk_scale=None)
    folder = tmp_path_factory.mktemp("normalised")
    export(folder, model, {"name": "nano", "network": "sunet", "options": dict(vars(model.config))})
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    "given", [{}, {"sigma": 12.5}, {"strength": 0.5}, {"sigma": 40, "strength": 1.5}, {"ensemble": 8}], ids=str
)
def test_sigma_strength_and_ensemble(given, command, folders, normalised_weights):
    image = noisy(30, 41)
    Image.fromarray(image).save(folders[0] / "a.png")
    assert command(weights=normalised_weights, **given)[0] == 0
    model = load_pretrained(normalised_weights)
    assert np.array_equal(read(folders[1] / "a.png"), denoise(model, image, **given))
    assert not np.array_equal(denoise(model, image, **given), denoise(model, image, sigma=90))


# --- formats of the results


@pytest.mark.parametrize(
    ("kind", "name", "result"),
    [
        ("tiff", "a.png", "a.tif"),
        ("jpeg", "a.png", "a.jpg"),
        ("png", "a.webp", "a.png"),
        ("same", "a.png", "a.png"),
        ("same", "a.JPEG", "a.JPEG"),
        ("same", "a.jfif", "a.jfif"),
        ("same", "a.tiff", "a.tiff"),
        ("same", "a.webp", "a.webp"),
    ],
)
def test_formats(kind, name, result, command, folders, model):
    image = noisy(30, 41)
    write_image(folders[0] / name, image, FORMAT[Path(name).suffix.lower()], icc_profile=PROFILE)
    assert command(format=kind)[0] == 0
    assert [p.name for p in folders[1].iterdir()] == [result]
    found = read_image(folders[1] / result)
    assert found.format == FORMAT[Path(result).suffix.lower()]  # by its content
    expected = denoise(model, read_picture(folders[0] / name)).astype(int)
    assert np.abs(found.pixels - expected).mean() < (6 if found.format == "jpeg" else 1e-9)
    assert found.icc_profile == PROFILE


@pytest.mark.parametrize("kind", ["png", "tiff", "same"])
def test_profile_resolution_and_colour_chunks_are_kept(kind, command, folders):
    chunks = ((b"gAMA", (100_000).to_bytes(4, "big")),)
    write_image(folders[0] / "a.png", noisy(20, 30), icc_profile=PROFILE, dpi=(300, 150), colour_chunks=chunks)
    assert command(format=kind)[0] == 0
    found = read_image(next(folders[1].iterdir()))
    assert found.icc_profile == PROFILE
    assert found.dpi == pytest.approx((300, 150), abs=0.02)
    assert found.colour_chunks == (() if kind == "tiff" else chunks)


def test_what_jpeg_cannot_hold_is_named(command, folders):
    Image.fromarray(noisy(20, 30)).save(folders[0] / "a.png")
    Image.fromarray(noisy(20, 30, 4)).save(folders[0] / "alpha.png")
    write_png(folders[0] / "deep.png", noisy(20, 30, bits=16))
    status, output, errors = command(format="jpeg")
    assert status == 2
    assert [line.split(":")[1].strip() for line in errors] == ["alpha.png", "deep.png", "not restored"]
    assert "choose png or tiff" in errors[0]
    assert [p.name for p in folders[1].iterdir()] == ["a.jpg"]


# --- what there is in a folder


def test_what_is_left_out_is_counted_and_named(command, folders):
    for name in ("a.png", ".hidden.png", "._a.png"):
        Image.fromarray(noisy(20, 30)).save(folders[0] / name, "png")
    for name in ("b.bmp", "c.heic", "d\n.gif"):
        (folders[0] / name).write_bytes(b"")
    (folders[0] / "album").mkdir()
    os.mkfifo(folders[0] / "pipe.png")
    status, output, errors = command()
    assert (status, errors) == (0, [])
    assert output.splitlines()[1] == (
        "left out: 4 other files (b.bmp, c.heic, d\\n.gif, pipe.png), "
        "1 sub-folder (album; --recursive includes them), 2 dot files (._a.png, .hidden.png)"
    )


def test_many_files_are_not_all_named(command, folders):
    Image.fromarray(noisy(20, 30)).save(folders[0] / "a.png")
    for i in range(50):
        (folders[0] / f"{i:02}.txt").write_text("")
    assert (
        "left out: 50 other files (00.txt, 01.txt, 02.txt, 03.txt, 04.txt, 05.txt, 06.txt, 07.txt, …)" in command()[1]
    )


def test_sub_folders(command, folders, model):
    """Each result lies in a sub-folder of the same name; the result folder itself is passed over."""
    names = ["a.png", "one/a.png", "one/two/a.jpg", "one/two/a.png", ".git/a.png"]
    for i, name in enumerate(names):
        (folders[0] / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy(20, 30, seed=i)).save(folders[0] / name)
    (folders[0] / "loop").symlink_to(folders[0])
    results = folders[0] / "restored"
    for _ in range(2):
        status, output, errors = command("--recursive", result_dir=results)
        assert (status, errors) == (0, [])
        assert output.startswith("4 of 4 images restored")
        assert "2 sub-folders (.git, loop" in output
    found = sorted(str(p.relative_to(results)) for p in results.rglob("*") if p.is_file())
    assert found == ["a.png", "one/a.png", "one/two/a.png", "one/two/a_jpg.png"]
    for i, name in enumerate(names[:2]):
        assert np.array_equal(read(results / name), denoise(model, noisy(20, 30, seed=i)))


def test_several_images_in_a_file_are_said(command, folders):
    frames = [Image.fromarray(noisy(20, 30, seed=i)) for i in range(3)]
    frames[0].save(folders[0] / "a.tif", save_all=True, append_images=frames[1:])
    status, output, errors = command()
    assert (status, errors) == (0, ["note: a.tif: it holds 3 images: the first is restored"])


@pytest.mark.parametrize(
    "name",
    [
        b"caf\xe9.png",
        b"x" * 251 + b".png",
        "é".encode() * 125 + b".tif",
        b"new\nline.jpg",
        b" .png",
        b"#'\"$(x).png",
    ],
    ids=["latin-1", "255 bytes", "254 bytes", "newline", "space", "shell"],
)
def test_names_of_every_kind(name, command, folders):
    Image.fromarray(noisy(20, 30)).save(folders[0] / os.fsdecode(name))
    status, output, errors = command()
    assert (status, errors) == (0, [])
    assert [os.fsencode(p.name) for p in folders[1].iterdir()] == [name.rpartition(b".")[0] + b".png"]


def test_long_names_that_would_collide_are_cut(command, folders):
    for suffix in ("jpg", "png", "tif"):
        Image.fromarray(noisy(20, 30)).save(folders[0] / f"{'x' * 251}.{suffix}")
    assert command()[0] == 0
    names = {p.name for p in folders[1].iterdir()}
    assert names == {f"{'x' * 251}.png", f"{'x' * 247}_jpg.png", f"{'x' * 247}_tif.png"}


def test_a_bad_image_is_named_without_control_characters(command, folders):
    (folders[0] / os.fsdecode(b"a\nerror: b\x1b[2J\xff.png")).write_bytes(b"no image")
    status, output, errors = command()
    assert status == 2
    assert all(line.isprintable() for line in errors)
    assert [line.count("a\\nerror: b\\x1b[2J\\udcff.png") for line in errors] == [2, 1]


def test_the_same_folder_by_another_name(command, good, tmp_path):
    (tmp_path / "link").symlink_to(good.parent)
    before = good.read_bytes()
    one_line(command(result_dir=tmp_path / "link"), "is the input folder")
    assert good.read_bytes() == before


def test_a_tilde_is_the_home(command, good, folders, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert command(input_dir="~/in", result_dir="~/new/out")[0] == 0
    assert (folders[1] / "good.png").exists()
    assert not (tmp_path / "~").exists()


# --- one image never stops the others


FAILURES = {
    "memory": (MemoryError(), "not enough memory"),
    "torch": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        "not enough memory",
    ),
    "native": (SystemError("<built-in> returned NULL\nwithout setting an exception"), "SystemError"),
    "struct": (zlib.error("Error -3"), "error: Error -3"),
    "system": (OSError(28, "No space left on device"), "No space left on device"),
    "type": (TypeError("'NoneType'"), "TypeError: 'NoneType'"),
    "assertion": (AssertionError(), "no reason is given"),
}


@pytest.mark.parametrize("place", ["read_image", "denoise", "write_image"])
@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_fails_in_one_image(failure, place, command, folders, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(noisy(20, 30)).save(folders[0] / name)
    whole, calls = getattr(denoise_folder, place), []

    def fails_once(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise FAILURES[failure][0]
        return whole(*args, **options)

    monkeypatch.setattr(denoise_folder, place, fails_once)
    status, output, errors = command()
    assert status == 2
    assert len(errors) == 2
    assert errors[0].startswith("error: b.png: ")
    assert FAILURES[failure][1] in errors[0]
    assert errors[1] == "error: not restored: b.png"
    assert output.startswith("2 of 3 images restored")
    assert sorted(p.name for p in folders[1].iterdir()) == ["a.png", "c.png"]


def test_the_size_limit_is_an_option(command, folders):
    Image.fromarray(noisy(20, 30)).save(folders[0] / "a.png")
    Image.fromarray(noisy(20, 31)).save(folders[0] / "b.png")
    status, output, errors = command(max_pixels=600)
    assert status == 2
    assert errors[0].startswith("error: b.png: cannot read ")
    assert "its 31×20 pixels are more than the 600" in errors[0]
    assert command(max_pixels=620)[0] == 0


def test_a_full_disk_is_one_line_and_leaves_nothing(command, folders, monkeypatch):
    Image.fromarray(noisy(20, 30)).save(folders[0] / "a.png")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    status, output, errors = command()
    assert status == 2
    assert re.match("error: a.png: cannot write .*No space left on device", errors[0])
    assert list(folders[1].iterdir()) == []


# --- interrupted and continued


def test_what_is_there_already_is_not_restored_again(command, folders, monkeypatch):
    """The same command on the same images; another image, option or network is restored."""
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(noisy(20, 30, seed=i)).save(folders[0] / name)
    restored, whole = [], denoise_folder.denoise
    monkeypatch.setattr(denoise_folder, "denoise", lambda *a, **o: restored.append(1) or whole(*a, **o))

    def count(**options):
        restored.clear()
        status, output, errors = command(**options)
        assert (status, errors) == (0, [])
        assert output.startswith("3 of 3 images restored")
        assert (f"{3 - len(restored)} of them there already" in output) == (len(restored) < 3)
        return len(restored)

    assert count() == 3
    assert count() == 0
    (folders[1] / "b.png").unlink()
    assert count() == 1
    Image.fromarray(noisy(20, 30, seed=9)).save(folders[0] / "a.png")
    assert count(batch_size=1) == 1  # how many tiles at once is no other result
    (folders[1] / "c.png").write_bytes(b"of somebody else")
    assert count() == 1
    (folders[1] / "c.png").write_bytes((folders[1] / "c.png").read_bytes()[:-200])
    assert count() == 1
    assert count(tile=32) == 3
    assert count(ensemble=8) == 3
    assert count(weights="gcunet-small") == 3


def test_skip_existing_looks_at_names_alone(command, folders):
    for name in ("a.png", "b.jpg"):
        Image.fromarray(noisy(20, 30)).save(folders[0] / name)
    folders[1].mkdir(parents=True)
    (folders[1] / "b.png").write_bytes(b"of somebody else")
    status, output, errors = command("--skip_existing")
    assert output.startswith(f"2 of 2 images restored in {folders[1]}, 1 of them there already")
    assert (folders[1] / "b.png").read_bytes() == b"of somebody else"
    assert (folders[1] / "a.png").exists()


def test_an_interruption_is_one_line_and_the_next_call_continues(command, folders, monkeypatch):
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(noisy(20, 30, seed=i)).save(folders[0] / name)
    whole, calls = denoise_folder.denoise, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(denoise_folder, "denoise", interrupted)
    status, output, errors = command()
    assert status == 130
    assert errors == ["error: interrupted; the same command continues with the images that are left"]
    assert output.startswith("1 of 3 images restored")
    (folders[1] / "b.png.part").write_bytes(b"half")
    status, output, errors = command()
    assert output.startswith(f"3 of 3 images restored in {folders[1]}, 1 of them there already")
    assert sorted(p.name for p in folders[1].iterdir()) == ["a.png", "b.png", "c.png"]


def test_two_runs_into_one_folder(weights, folders, model):
    """Both end well, and every result is whole."""
    images = {f"{i}.png": noisy(24, 40, seed=i) for i in range(6)}
    for name, image in images.items():
        Image.fromarray(image).save(folders[0] / name)
    argv = [sys.executable, str(ROOT / "demo_any_resolution.py"), "--input_dir", str(folders[0]), "--device", "cpu"]
    argv += ["--result_dir", str(folders[1]), "--weights", str(weights)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runs = [subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err.decode()
        assert out.startswith(b"6 of 6 images restored")
    assert sorted(p.name for p in folders[1].iterdir()) == sorted(images)
    for name in images:
        assert read(folders[1] / name).shape == (24, 40, 3)


def test_the_environment_of_another_launcher_does_not_count(command, folders, monkeypatch):
    """WORLD_SIZE alone, left over somewhere, is no torchrun."""
    for name in ("a.png", "b.png"):
        Image.fromarray(noisy(20, 24)).save(folders[0] / name)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    assert command()[1].startswith("2 of 2 images restored")
    monkeypatch.setenv("RANK", "1")
    assert re.match(r"1 of 1 images restored in .*, process 1 of 4, 1 of them there already \(", command()[1])
