"""From a frame to a count, on the device: NumPy and Pillow, and PyAV for video. Never torch.

model    a loaded bundle that takes pictures: prepare, run, read
boxes    arrays to answers: labels, boxes, scores
photos   pictures from disk
paint    answers painted onto pictures
"""

from __future__ import annotations

from vitc.video.boxes import Answer, Detections, Ranking
from vitc.video.model import PictureModel

__all__ = ["Answer", "Detections", "PictureModel", "Ranking"]
