"""From a frame to a count, on the device: NumPy and Pillow, and PyAV for video. Never torch.

model    a loaded bundle that takes pictures: prepare, run, read
boxes    arrays to answers: labels, boxes, scores
photos   pictures from disk
sources  videos, folders, cameras, streams: frames
flow     bounded queues and clocks
track    which box is which thing from picture to picture
count    lines that things pass, zones they are in
paint    answers painted onto pictures
sinks    an annotated video, JSON lines
live     a page on localhost, and Prometheus' metrics
report   one record per run
watch    all of it, in threads that overlap
"""

from __future__ import annotations

from vitc.video.boxes import Answer, Detections, Ranking
from vitc.video.model import PictureModel

__all__ = ["Answer", "Detections", "PictureModel", "Ranking"]
