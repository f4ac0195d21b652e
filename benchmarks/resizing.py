"""How close other ways of resizing come to cv2.INTER_AREA, in pixels and in embeddings of an exported network.

    python benchmarks/resizing.py FOLDER_OF_EXPORT FOLDER_OF_JPEGS

Needs onnxruntime. Prints, for each way, the mean absolute difference of a pixel, 0 to 255, and the mean and the least
cosine similarity with the embedding of the same picture resized by area.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from PIL import Image

COUNT = 64  # pictures
OTHERS: dict[str, Callable] = {
    "Pillow BOX": lambda x, side: x.resize((side, side), Image.Resampling.BOX),
    "Pillow BILINEAR": lambda x, side: x.resize((side, side), Image.Resampling.BILINEAR),
    "OpenCV INTER_LINEAR": lambda x, side: cv2.resize(np.asarray(x), (side, side), interpolation=cv2.INTER_LINEAR),
}


def main(export: str, folder: str) -> None:
    session = onnxruntime.InferenceSession(str(Path(export) / "model.onnx"), providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[1]
    paths = sorted(Path(folder).rglob("*.jpg"))
    pictures = [Image.open(path).convert("RGB") for path in paths[:: max(1, len(paths) // COUNT)][:COUNT]]

    def embed(resize):
        images = np.stack([np.asarray(resize(picture, side)) for picture in pictures])
        return images.astype(np.float32), session.run(None, {"images": images})[0]

    pixels, embeddings = embed(lambda x, side: cv2.resize(np.asarray(x), (side, side), interpolation=cv2.INTER_AREA))
    print(f"{len(pictures)} pictures, the first {pictures[0].width} x {pictures[0].height}, to {side} x {side}")
    for name, resize in OTHERS.items():
        others, found = embed(resize)
        similarity = (found * embeddings).sum(1)
        difference = np.abs(others - pixels).mean()
        print(f"{name:20} pixels {difference:.2f}   similarity {similarity.mean():.4f}, least {similarity.min():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
