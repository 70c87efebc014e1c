#!/usr/bin/env python3
"""Writes crates/data/tests/fixtures/photometric/cases.json: what Pillow makes of a few pixels. Needs pillow and numpy.

    python3 tools/photometric_fixture.py

Hue is torchvision's: the 8-bit hue plus a shift modulo 256, between Pillow's two conversions.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

TARGET = Path(__file__).parent.parent / "crates/data/tests/fixtures/photometric/cases.json"
SIZE = (10, 6)  # width, height


def turned(image, shift):
    h, s, v = image.convert("HSV").split()
    h = Image.fromarray(((np.asarray(h).astype(int) + shift) % 256).astype(np.uint8))
    return Image.merge("HSV", (h, s, v)).convert("RGB")


CHANGES = {
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "hue": turned,
    "grayscale": lambda image, _: image.convert("L").convert("RGB"),
    "solarise": lambda image, threshold: ImageOps.solarize(image, threshold),
}
ARGUMENTS = {
    "L": {"brightness": [0, 0.6, 1, 1.37], "contrast": [0, 0.6, 1, 1.37], "solarise": [1, 128, 255]},
    "RGB": {
        "brightness": [0, 0.63, 1, 1.4],
        "contrast": [0, 0.63, 1, 1.4],
        "saturation": [0, 0.63, 1, 1.8],
        "hue": [0, 1, 60, 127, 129, 250],
        "grayscale": [0],
        "solarise": [0, 128, 255],
    },
}


def flat(image):
    return np.asarray(image).flatten().tolist()


rng = np.random.default_rng(5)
images = {"L": rng.integers(0, 256, SIZE[::-1]).astype(np.uint8), "RGB": rng.integers(0, 256, (*SIZE[::-1], 3)).astype(np.uint8)}
# A row of corners of the cube and greys, and a row of nearly grey, nearly black and saturated colours.
images["RGB"][0] = [[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)] + [[128] * 3, [1] * 3]
images["RGB"][1, :5] = [[100, 101, 100], [1, 0, 0], [0, 0, 2], [9, 9, 8], [7, 6, 5]]
images["RGB"][1, 5:] = [[255, 1, 0], [0, 255, 254], [254, 0, 255], [255, 254, 0], [7, 6, 5]]
images = {mode: Image.fromarray(pixels) for mode, pixels in images.items()}
cases = [
    {"mode": mode, "change": change, "argument": argument, "pixels": flat(CHANGES[change](images[mode], argument))}
    for mode, changes in ARGUMENTS.items()
    for change, arguments in changes.items()
    for argument in arguments
]
lines = [f'"{mode}": {json.dumps(flat(image))}' for mode, image in images.items()]
lines.append('"cases": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]")
TARGET.parent.mkdir(parents=True, exist_ok=True)
TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
