"""PyTorch's side of the comparison of attention analysis, as one JSON line: a forward pass of DINOv2 ViT-S/14 at 224 pixels in single precision
that stores every block's attention probabilities (and computes nothing from them).

    python tools/torch_attention.py WEIGHTS PHOTOS [--batch 8] [--threads 2] [--repeat 5] [--synthetic]
    python tools/torch_attention.py WEIGHTS PHOTOS --check DIR

WEIGHTS is a safetensors file under transformers' names, PHOTOS a folder of JPEGs, read as tools/torch_features.py reads them. A pass covers
every photo (some twice, so that all batches are full); `--synthetic` passes images made beforehand: the model alone. `images_per_s` is the
median of `--repeat` passes after one that is not counted; `cpu_ms_per_image` is the last pass's, over all threads.

`--check` computes, in double precision and from whole matrices, what DIR/attention.csv and DIR/layers.csv of `analyze attention --size N
--keep-images N` say, with the default conventions, from the pixels in DIR/images.safetensors (decoders differ), and prints the largest relative
differences.
"""

import argparse
import csv
import itertools
import json
import math
import pathlib
import re
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
HEADS, PATCH = 6, 14


def read(path):
    image = Image.open(path).convert("RGB")
    w, h = image.size
    short = min(w, h)
    image = image.resize((256 * w // short, 256 * h // short), Image.Resampling.BICUBIC)
    w, h = image.size
    left, top = round((w - 224) / 2), round((h - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return torch.from_numpy(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1).copy())


def positions(table, grid):
    """Bicubic, as transformers' class has it."""
    side = math.isqrt(table.shape[1] - 1)
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic")
    return torch.cat([table[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], 1)


class Block:
    def __init__(self, weights, i):
        of = lambda name: weights[f"encoder.layer.{i}.{name}"]
        self.norms = [(of(f"norm{n}.weight"), of(f"norm{n}.bias")) for n in (1, 2)]
        parts = ("query", "key", "value")
        self.qkv = [torch.cat([of(f"attention.attention.{part}.{kind}") for part in parts]) for kind in ("weight", "bias")]
        self.proj = [of(f"attention.output.dense.{kind}") for kind in ("weight", "bias")]
        self.fc = [[of(f"mlp.fc{n}.{kind}") for kind in ("weight", "bias")] for n in (1, 2)]
        self.gamma = [of(f"layer_scale{n}.lambda1") for n in (1, 2)]

    def __call__(self, x):
        b, n, c = x.shape
        qkv = F.linear(F.layer_norm(x, [c], *self.norms[0], 1e-6), *self.qkv).reshape(b, n, 3, HEADS, c // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q * (c // HEADS) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        x = x + self.gamma[0] * F.linear((attention @ v).transpose(1, 2).reshape(b, n, c), *self.proj)
        h = F.gelu(F.linear(F.layer_norm(x, [c], *self.norms[1], 1e-6), *self.fc[0]))
        return x + self.gamma[1] * F.linear(h, *self.fc[1]), attention


class Model:
    def __init__(self, weights):
        self.patch = [weights[f"embeddings.patch_embeddings.projection.{kind}"] for kind in ("weight", "bias")]
        self.cls = weights["embeddings.cls_token"]
        self.positions = positions(weights["embeddings.position_embeddings"], 224 // PATCH)
        self.norm = weights["layernorm.weight"], weights["layernorm.bias"]
        self.blocks = [Block(weights, i) for i in range(12)]

    def __call__(self, images):
        x = F.conv2d(images, *self.patch, stride=PATCH).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        stored = []
        for block in self.blocks:
            x, attention = block(x)
            stored.append(attention)
        return F.layer_norm(x, x.shape[-1:], *self.norm, 1e-6), stored


def entropy(p):
    return -torch.special.xlogy(p, p).sum(-1)


def expected(stored):
    """Of one image: [layers, heads] of distance, entropy, nmi, cls_attention, cls_entropy, to_cls; [layers] of similarity; the mean maps."""
    side = 224 // PATCH
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(-1, 2).double() * PATCH
    far = torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")
    numbers, alike, maps = [], [], []
    for attention in stored:
        whole = attention[0]
        a = whole[:, 1:, 1:] / whole[:, 1:, 1:].sum(-1, keepdim=True)
        to_patches = whole[:, 0, 1:] / whole[:, 0, 1:].sum(-1, keepdim=True)
        keys, rows = entropy(a.mean(1)), entropy(a).mean(1)
        nmi = (keys - rows) / (keys * math.log(a.shape[1])).sqrt()
        head = [(a * far).sum(-1).mean(1), rows, nmi, whole[:, 0, 1:].sum(-1), entropy(to_patches), whole[:, 1:, 0].mean(1)]
        numbers.append(torch.stack(head, -1))
        flat = F.normalize(a.flatten(1), dim=1)
        cosines = flat @ flat.T
        alike.append((cosines.sum() - cosines.trace()) / (HEADS * (HEADS - 1)))
        maps.append(a.mean(0))
    return torch.stack(numbers), torch.stack(alike), torch.stack(maps)


def patterns(a):
    side = 224 // PATCH
    index = np.arange(side * side)
    r, c = index // side, index % side
    offset = ((r[None] - r[:, None] + side) * 2 * side + c[None] - c[:, None] + side).ravel()
    values = a.numpy().ravel()
    fitted = (np.bincount(offset, values) / np.maximum(np.bincount(offset), 1))[offset]
    total = ((values - values.mean()) ** 2).sum()
    between = (side * side) * ((a.numpy().mean(0) - values.mean()) ** 2).sum()
    return 1 - ((values - fitted) ** 2).sum() / total, between / total


def check(model, folder):
    kept = load_file(folder / "images.safetensors")
    pixels = [kept[name].double().numpy() / 255 for name in sorted(kept) if "/image/" in name]
    images = [torch.from_numpy(((image - MEAN.astype(float)) / DEVIATION.astype(float)).transpose(2, 0, 1)[None].copy()) for image in pixels]
    found = [expected(model(image)[1]) for image in images]
    numbers, alike, maps = (sum(part) / len(images) for part in zip(*found))
    worst = {}

    def compare(name, ours, theirs):
        worst[name] = max(worst.get(name, 0.0), abs(float(ours) - float(theirs)) / max(abs(float(theirs)), 1e-3))

    for row in csv.DictReader(open(folder / "attention.csv")):
        theirs = numbers[int(row["layer"]), int(row["head"])]
        for i, name in enumerate(["distance_px", "entropy", "nmi", "cls_attention", "cls_entropy", "to_cls"]):
            compare(name, row[name], theirs[i])
    for row in csv.DictReader(open(folder / "layers.csv")):
        layer = int(row["layer"])
        compare("similarity", row["similarity"], alike[layer])
        for name, theirs in zip(["diagonal", "column"], patterns(maps[layer])):
            compare(name, row[name], theirs)
    print(json.dumps({name: float(f"{value:.2g}") for name, value in worst.items()}))


def speed(model, photos, args):
    count = -(-len(photos) // args.batch) * args.batch
    cut = lambda images: [torch.stack(images[i : i + args.batch]) for i in range(0, count, args.batch)]
    paths = list(itertools.islice(itertools.cycle(photos), count))
    synthetic = cut([torch.randn(3, 224, 224) for _ in paths]) if args.synthetic else None
    times = []
    for _ in range(args.repeat + 1):
        start, spent = time.perf_counter(), time.process_time()
        for i in range(0, count, args.batch):
            batch = synthetic[i // args.batch] if synthetic else torch.stack([read(path) for path in paths[i : i + args.batch]])
            assert len(model(batch)[1]) == 12
        times.append(time.perf_counter() - start)
    peak = round(int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024)
    line = {"images_per_s": round(count / statistics.median(times[1:]), 2)}
    line |= {"cpu_ms_per_image": round(1000 * (time.process_time() - spent) / count, 1)}
    line |= {"images": "synthetic" if args.synthetic else "photos"}
    print(json.dumps(line | {"batch": args.batch, "threads": args.threads, "peak_rss_mib": peak, "torch": torch.__version__}))


parser = argparse.ArgumentParser()
parser.add_argument("weights")
parser.add_argument("photos", type=pathlib.Path)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--repeat", type=int, default=5)
parser.add_argument("--synthetic", action="store_true")
parser.add_argument("--check", type=pathlib.Path)
args = parser.parse_args()
torch.set_num_threads(args.threads)
photos = sorted(args.photos.glob("*.jpg"))
weights = {name: t.double() if args.check else t.float() for name, t in load_file(args.weights).items()}
with torch.inference_mode():
    if args.check:
        check(Model(weights), args.check)
    else:
        speed(Model(weights), photos, args)
