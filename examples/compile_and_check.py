"""From a model to a bundle that proves itself: compile with INT8, save, load without torch's help, compare.

The model is a small ViT for 8×8 digits, with random weights, compiled for a Jetson AGX Orin. The bundle is what would
be copied to the device, where `build.sh` builds the engine; here the same ONNX file runs on a CPU engine.

    python examples/compile_and_check.py [FOLDER]

ends with

    self-check on openvino …: passed, 1 golden pair
    the bundle's answer for a new image: cosine 0.9999 to the model's
"""

import sys
import tempfile
from pathlib import Path

import torch

import vitc
from vitc.demo.digits import DigitsViT


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = DigitsViT().eval()
    images = torch.randn(64, 1, 8, 8)  # yours: some hundred preprocessed images

    compiled = vitc.compile(model, target="orin", calibration=images, example_inputs=images[:2])
    path = folder / "digits.vitc"
    compiled.save(path)

    runner = vitc.load(path)
    check = runner.self_check()
    verdict = "passed" if check.passed else "FAILED"
    print(f"self-check on {check.engine}: {verdict}, {len({row.pair for row in check.rows})} golden pair")

    image = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        want = model(image)
    got = torch.from_numpy(runner(image.numpy()))
    cosine = torch.nn.functional.cosine_similarity(want.flatten(), got.flatten(), dim=0)
    print(f"the bundle's answer for a new image: cosine {cosine:.4f} to the model's")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
