"""Photographs to inputs: against timm's own evaluation transform; folders of images, good and bad."""

from __future__ import annotations

import os
import resource
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import vitc
from vitc.calibration.preprocessing import FILTERS, ImageFolder, Preprocessing, as_rgb
from vitc.calibration.source import calibration_stream
from vitc.errors import CalibrationError, InputError
from vitc.frontend.capture import capture
from vitc.frontend.model_config import infer_preprocessing

timm = pytest.importorskip("timm")
HALF = (0.5, 0.5, 0.5)


def _photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([128 + 100 * np.sin(x / 7 + c) * np.cos(y / 11 - c) for c in range(3)], -1)
    return Image.fromarray(waves.astype(np.uint8)).convert(mode)


def _model() -> torch.nn.Module:
    return timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64).eval()


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (90, 90), (64, 500)])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_it_is_timms_evaluation_transform(name: str, shape: tuple[int, int]) -> None:
    model = timm.create_model(name)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    ours = infer_preprocessing(model)
    assert ours is not None
    photo = _photo(*shape)
    np.testing.assert_allclose(ours(photo), transform(photo).numpy(), atol=2e-2)  # the 8-bit resize may round otherwise


def test_an_img_size_of_the_model_wins() -> None:
    ours = infer_preprocessing(_model())
    assert ours is not None
    assert ours.size == (64, 64)


def test_a_model_without_a_config_has_none() -> None:
    assert infer_preprocessing(torch.nn.Linear(2, 2)) is None


def test_an_unknown_interpolation_and_a_crop_beyond_one_are_refused() -> None:
    with pytest.raises(
        InputError, match="unknown interpolation 'lanczos7'; known: nearest, lanczos, bilinear, bicubic"
    ):
        Preprocessing((8, 8), HALF, HALF, interpolation="lanczos7")
    with pytest.raises(InputError, match=r"crop is a share in \(0, 1\], got 1.5"):
        Preprocessing((8, 8), HALF, HALF, crop=1.5)


def _folder(path: Path) -> Path:
    path.mkdir()
    for i, mode in enumerate(("RGB", "L", "RGBA", "P")):
        _photo(80 + i, 70, mode).save(path / f"{i}.png")
    return path


def test_a_folder_of_images_of_any_mode_calibrates(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "images")
    model = _model()
    stacked = np.concatenate(list(ImageFolder(folder, infer_preprocessing(model))))  # type: ignore[arg-type]
    assert stacked.shape == (4, 3, 64, 64)
    from_folder, from_array = (
        vitc.plan(model, "orin", calibration=images).program.findings.ranges for images in (folder, stacked)
    )
    assert dict(from_folder) == dict(from_array)


def test_the_limit_counts_images_and_the_order_is_by_name(tmp_path: Path) -> None:
    folder = ImageFolder(_folder(tmp_path / "images"), Preprocessing((8, 8), HALF, HALF), limit=3, batch_size=2)
    assert [p.name for p in folder.files()] == ["0.png", "1.png", "2.png"]
    assert [b.shape[0] for b in folder] == [2, 1]


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "images")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    with pytest.raises(
        CalibrationError, match=r"calibration image '.*2\.png' cannot be read: .*; remove or replace it"
    ):
        list(ImageFolder(folder, Preprocessing((8, 8), HALF, HALF)))


def test_a_folder_without_images_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no images in '.*'; vitc reads .bmp, .gif"):
        ImageFolder(tmp_path, Preprocessing((8, 8), HALF, HALF)).files()
    with pytest.raises(CalibrationError, match="there is no folder of images 'nowhere'"):
        ImageFolder(Path("nowhere"), Preprocessing((8, 8), HALF, HALF)).files()


def test_images_for_a_model_of_unknown_preprocessing_are_refused(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8), torch.nn.Flatten()).eval()
    program = capture(model, vitc.load_target("cpu"), torch.randn(2, 3, 8, 8))
    with pytest.raises(CalibrationError, match="does not say how the images in .* are to be preprocessed"):
        calibration_stream(_folder(tmp_path / "images"), program)


def test_the_manifest_says_what_the_model_wants(tmp_path: Path) -> None:
    bundle = vitc.compile(_model(), "cpu").save(tmp_path / "bundle")
    preprocessing = bundle.manifest.inputs[0].preprocessing
    assert preprocessing == {
        "size": [64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop": 0.9, "interpolation": "bicubic",
        "fit": "crop", "rescale": 1 / 255,
        "layout": "NCHW, RGB",
    }  # fmt: skip


@pytest.mark.parametrize("fit", ["crop", "stretch", "letterbox"])
@pytest.mark.parametrize("shape", [(300, 200), (90, 170), (64, 64)])
def test_the_placement_says_where_a_point_of_the_picture_went(fit: str, shape: tuple[int, int]) -> None:
    """A bright square, found again in the input."""
    width, height = shape
    pixels = np.zeros((height, width, 3), np.uint8)
    y, x = height // 2, width // 2 - 6
    pixels[y - 6 : y + 6, x - 6 : x + 6] = 255
    preprocessing = Preprocessing((64, 96), fit=fit)
    rows, columns = np.nonzero(preprocessing(Image.fromarray(pixels))[0] > 0.5)
    place = preprocessing.placement(width, height)
    got = columns.mean() + 0.5, rows.mean() + 0.5
    want = x * place.scale[0] + place.offset[0], y * place.scale[1] + place.offset[1]
    np.testing.assert_allclose(got, want, atol=0.8)


def test_a_letterbox_is_filled_with_the_mean() -> None:
    white = Image.new("RGB", (20, 10), (255, 255, 255))
    out = Preprocessing((8, 8), HALF, HALF, fit="letterbox")(white)
    np.testing.assert_allclose(out[:, :4], 1.0)
    np.testing.assert_allclose(out[:, 4:], 0.0)


def test_sixteen_bits_are_scaled_and_floats_refused() -> None:
    deep = Image.fromarray(np.full((4, 4), 32896, np.uint16))
    assert set(np.unique(as_rgb(deep))) == {128}
    with pytest.raises(InputError, match="floating-point pixels says nothing of its range"):
        as_rgb(Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(InputError, match="32-bit pixels says nothing of its range"):
        as_rgb(Image.fromarray(np.array([[0, 99999]], np.int32)))


def test_it_comes_back_from_the_manifest() -> None:
    ours = Preprocessing((4, 6), HALF, HALF, 0.9, "bilinear", rescale=1.0)
    assert Preprocessing.from_dict(ours.to_dict()) == ours
    old = {"size": [4, 6], "mean": [0.5] * 3, "std": [0.5] * 3, "crop": 0.9, "interpolation": "bilinear"}
    assert Preprocessing.from_dict({**old, "layout": "NCHW, RGB"}) == Preprocessing((4, 6), HALF, HALF, 0.9, "bilinear")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blur": 1}, "a preprocessing has size, mean, std and perhaps"),
        ({"layout": "NHWC"}, "a preprocessing's layout is 'NCHW, RGB', got 'NHWC'"),
        ({"mean": "x"}, "a preprocessing's size, mean, std, crop and rescale are numbers"),
        ({"fit": "squeeze"}, "unknown fit 'squeeze'; known: crop, letterbox, stretch"),
        ({"fit": "letterbox", "crop": 0.5}, "fit='letterbox' shows all of a picture, got crop=0.5"),
        ({"size": [0, 6]}, r"size is \(height, width\) in pixels, got \(0, 6\)"),
        ({"std": [0, 1, 1]}, "mean and std are three numbers, std and rescale greater than 0"),
    ],
)
def test_a_wrong_record_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing.from_dict({**Preprocessing((4, 6), HALF, HALF).to_dict(), **change})


def _ramp(dtype: str, top: int) -> Image.Image:
    return Image.fromarray(np.linspace(0, top, 4096).reshape(64, 64).astype(dtype))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_from_a_file_are_the_same_picture_as_eight(suffix: str, tmp_path: Path) -> None:
    plain = Preprocessing((64, 64))
    for name, image in (("8", _ramp("u1", 255)), ("16", _ramp("u2", 65535))):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / f"a.{suffix}")
    eight, sixteen = (next(iter(ImageFolder(tmp_path / name, plain))) for name in ("8", "16"))
    np.testing.assert_allclose(sixteen, eight, atol=1 / 254)


@pytest.mark.parametrize(("dtype", "what"), [("f4", "floating-point"), ("i4", "32-bit")])
def test_a_file_whose_range_nothing_states_is_refused_by_name(dtype: str, what: str, tmp_path: Path) -> None:
    _ramp(dtype, 1000).save(tmp_path / "deep.tif")
    with pytest.raises(CalibrationError, match=rf"deep.tif' cannot be read: an image of {what} pixels"):
        list(ImageFolder(tmp_path, Preprocessing((8, 8))))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_stands_as_a_viewer_shows_it(turn: int, tmp_path: Path) -> None:
    image, exif = _photo(40, 24), Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / "a.png", exif=exif)
    seen = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    (found,) = ImageFolder(tmp_path, Preprocessing((16, 16)))
    np.testing.assert_array_equal(found[0], Preprocessing((16, 16))(seen))


@pytest.mark.parametrize("shape", [(300, 200), (64, 500), (500, 64), (30, 20), (7, 200)])
@pytest.mark.parametrize("filter_", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resizing_only_what_is_kept_gives_the_same(shape: tuple[int, int], filter_: str) -> None:
    """Against resizing all of it and cutting the middle out; roundings to 8 bits apart."""
    wanted, photo = Preprocessing((32, 48), crop=0.9, interpolation=filter_), _photo(*shape)
    resized, (left, top) = wanted._resized(*photo.size)
    whole = np.asarray(photo.resize(resized, FILTERS[filter_]).crop((left, top, left + 48, top + 32)), np.float32)
    part = np.asarray(wanted._resized_part(photo, resized, left, top), np.float32)
    if filter_ == "nearest":  # the other pixel where both are as near
        assert np.mean(part != whole) < 0.25
    else:
        np.testing.assert_allclose(part, whole, atol=3)
        assert np.abs(part - whole).mean() < 0.3


def test_a_long_thin_picture_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in ((1, 60_000), (60_000, 1)):
        assert Preprocessing((224, 224))(Image.new("L", size)).shape == (3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB; Pillow's memory is its own


def test_a_picture_of_too_many_pixels_is_named(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    for side, message in (
        (9000, "at most 67108864 are read"),
        (65000, "could be decompression bomb|decompression bomb"),
    ):
        head = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")))
        with pytest.raises(CalibrationError, match=rf"bomb.png' cannot be read: .*({message})"):
            list(ImageFolder(tmp_path, Preprocessing((8, 8))))


def test_a_pipe_with_an_images_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(CalibrationError, match=r"x.jpg' cannot be read: .*is not a plain file"):
        list(ImageFolder(tmp_path, Preprocessing((8, 8))))
