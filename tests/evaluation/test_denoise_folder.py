"""A folder of pictures in, a folder of restored pictures out: every format, every kind of bad input."""

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
from PIL import Image

from glowlib.data.image_files import read_picture, write_png
from glowlib.evaluation.denoise_folder import main, result_names
from glowlib.evaluation.tiling import denoise
from glowlib.training.run_folder import export

ROOT = Path(__file__).parents[2]


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
