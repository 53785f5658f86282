"""vitc run BUNDLE photo.jpg: labels and boxes from pictures on disk, and what can't be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitc.errors import InputError
from vitc.runtime import load
from vitc.runtime.__main__ import main
from vitc.video import PictureModel
from vitc.video.photos import photo_files, read_photo


def _save(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (96, 64)) -> Path:
    Image.new("RGB", size, color).save(path)
    return path


def test_labels_are_printed_the_best_first(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = _save(tmp_path / "a.png", (10, 250, 100))
    assert main(["run", str(classifier), str(photo), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(photo)
    assert [line.split()[1] for line in lines[1:]] == ["green", "blue"]


def test_a_folder_gives_json_lines_and_painted_copies(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[16:32, 48:64] = 255
    Image.fromarray(pixels).save(folder / "b.png")
    _save(folder / "a.jpg", (0, 0, 0))
    (folder / "notes.txt").write_text("not a picture")
    assert main(["run", str(detector), str(folder), "--json", "--save", str(tmp_path / "out")]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"picture": str(folder / "a.jpg"), "boxes": []}
    [box] = second["boxes"]
    assert (box["label"], box["box"]) == ("square", [32.0, 0.0, 80.0, 48.0])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert (np.asarray(Image.open(tmp_path / "out" / "b.png")) != pixels).any()


def test_a_threshold_of_ones_own(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = _save(tmp_path / "grey.png", (115, 115, 115))
    for threshold, count in (("0.3", 6), ("0.9", 0)):
        assert main(["run", str(detector), str(photo), "--json", "--threshold", threshold]) == 0
        assert len(json.loads(capsys.readouterr().out)["boxes"]) == count


def test_a_photograph_is_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_photo(tmp_path / "turned.jpg").size == (10, 20)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n0000"])
def test_a_file_that_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"the picture '.*a\.png' cannot be read"):
        read_photo(path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no picture or folder 'nowhere.jpg'"):
        photo_files([Path("nowhere.jpg")])
    with pytest.raises(InputError, match="no images in"):
        photo_files([tmp_path])


def test_a_bundle_without_a_task_says_what_to_do(without_task: Path, tmp_path: Path) -> None:
    with load(without_task) as runner, pytest.raises(InputError, match="does not say what its outputs mean; compile"):
        PictureModel(runner)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photo}", "--input", "x=x.npy"], "--input and --out are for arrays"),
        (["--save", "somewhere"], "--save and --threshold are for pictures"),
        (["{photo}", "--save", "{folder}"], "--save would write over"),
        (["{photo}", "--threshold", "7"], "threshold is a score from 0 to 1, got 7.0"),
    ],
)
def test_refusals(
    arguments: list[str], message: str, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = _save(tmp_path / "a.png", (0, 0, 0))
    filled = [text.format(photo=photo, folder=tmp_path) for text in arguments]
    assert main(["run", str(detector), *filled]) == 1
    assert message in capsys.readouterr().err


def test_a_dataclass_comes_back_with_its_fields(detector: Path) -> None:
    from vitc.runtime.runner import Fields

    fields = Fields(logits=1)
    assert fields.logits == fields["logits"] == 1
    with pytest.raises(AttributeError, match="the model's output has no field 'boxes'; it has: logits"):
        _ = fields.boxes


def test_tensors_in_tensors_out(detector: Path) -> None:
    import torch

    with load(detector) as runner:
        outputs = runner(torch.zeros(2, 3, 32, 48))
    assert isinstance(outputs["logits"], torch.Tensor)
