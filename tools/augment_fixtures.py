#!/usr/bin/env python3
"""Writes crates/data/tests/fixtures/rand_augment/cases.json: what timm's RandAugment operations make of small images.

    python3 tools/augment_fixtures.py

Needs timm and pillow 13. Pixels are hexadecimal, row by row, channels interleaved. `negative` says which of the two directions was drawn.
"""

import json
from pathlib import Path

import PIL
from PIL import Image
from timm.data import auto_augment

assert PIL.__version__ == "13.0.0", PIL.__version__
TARGET = Path(__file__).parent.parent / "crates/data/tests/fixtures/rand_augment/cases.json"
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# timm's fill for ImageNet's means, and for Fashion-MNIST's.
FILL = {"RGB": (124, 116, 104), "L": (73,)}
GEOMETRIC = ["Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"]
PLAIN = ["AutoContrast", "Equalize", "Invert"]
ONE_WAY = ["PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"]
ENHANCE = ["ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"]


def picture(mode, width, height, low=0, high=255):
    """Waves and edges, with values from low to high."""
    channels = len(mode) if mode == "RGB" else 1
    values = [
        low + (x * x * (7 + 4 * c) + y * y * (5 + c) + x * y * (3 + c) + 90 * (x > y) * (c + 1)) % (high - low + 1)
        for y in range(height)
        for x in range(width)
        for c in range(channels)
    ]
    return Image.frombytes(mode, (width, height), bytes(values))


IMAGES = {
    "rgb": picture("RGB", 20, 17),
    "grey": picture("L", 20, 17),
    "dull-rgb": picture("RGB", 12, 9, 60, 170),
    "dull-grey": picture("L", 12, 9, 60, 170),
    "even-grey": picture("L", 30, 21, 77, 77),
    "tiny-rgb": picture("RGB", 2, 1),
    "tiny-grey": picture("L", 3, 3),
}


def apply(image, operation, level, negative, resample):
    """timm's own operation, with its one random draw (the sign) decided."""
    hparams = {"img_mean": FILL[image.mode], "interpolation": FILTERS[resample]}
    auto_augment.random.random = lambda: 1.0 if negative else 0.0
    return auto_augment.AugmentOp(operation, prob=1.0, magnitude=level, hparams=hparams)(image)


def wanted():
    for name in IMAGES:
        yield from ((name, operation, 9.0, False, "bicubic") for operation in PLAIN)
    for name in ("rgb", "grey"):
        for operation in ONE_WAY:
            # Pillow 13 refuses to keep no bits at all, which level 10 asks for.
            levels = (0.0, 2.5, 8.7, 9.99) if operation.startswith("P") else (0.0, 3.3, 8.7, 10.0)
            yield from ((name, operation, level, False, "bicubic") for level in levels)
    for name in ("dull-rgb", "dull-grey", "tiny-rgb", "tiny-grey"):
        for operation in ENHANCE:
            levels = [(level, negative) for level in (3.1, 9.2) for negative in (False, True)] + [(0.0, False), (10.0, True)]
            yield from ((name, operation, *level, "bicubic") for level in levels)
        for operation in GEOMETRIC:
            for resample in FILTERS:
                levels = [(level, negative) for level in (1.7, 9.2) for negative in (False, True)] + [(0.0, False)]
                yield from ((name, operation, *level, resample) for level in levels)


cases = []
for name, operation, level, negative, resample in wanted():
    case = {"image": name, "operation": operation, "level": level, "negative": negative, "resample": resample}
    cases.append(case | {"pixels": apply(IMAGES[name], operation, level, negative, resample).tobytes().hex()})
images = {
    name: {"channels": len(image.getbands()), "height": image.height, "width": image.width, "pixels": image.tobytes().hex()}
    for name, image in IMAGES.items()
}
lines = [f'"images": {json.dumps(images)}', f'"fill": {json.dumps({str(len(f)): f for f in FILL.values()})}']
lines.append('"cases": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]")
TARGET.parent.mkdir(parents=True, exist_ok=True)
TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
