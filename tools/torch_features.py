"""PyTorch's side of the speed comparison of feature extraction, as one JSON line: CLS and patch tokens, after the final norm, of DINOv2 ViT-S/14
at 224 pixels, in single precision.

    python tools/torch_features.py WEIGHTS PHOTOS [--variant hf-eager|hf-sdpa|timm] [--compile] [--batch 16] [--threads 2]
                                   [--workers N | --synthetic] [--repeat 3]
    python tools/torch_features.py WEIGHTS PHOTOS --save FILE

WEIGHTS is a safetensors file under transformers' names, PHOTOS a folder of JPEGs. A pass reads every photo (some twice, so that all batches are
full), decodes it, scales its short side to 256 (Pillow's bicubic filter, which averages when it reduces), cuts the middle 224 x 224 and
normalises by ImageNet's mean and deviation; `--synthetic` passes images made beforehand: the model alone. `images_per_s` is the median of
`--repeat` passes after one that is not counted; `peak_rss_mib` adds the loader's processes. The position table of 37 x 37 becomes 16 x 16 by
a bicubic filter in single precision: transformers' in every forward pass without antialiasing, timm's once, here, with it.

`--save` writes what transformers' model gives in double precision for the first eight photos by name: `<photo>.image`, `<photo>.tokens`.
Versions used: torch 2.15.0, transformers 5.24.0, timm 1.0.31, pillow 13.0.0, Python 3.11.7.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import statistics
import time

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def read(path):
    image = Image.open(path).convert("RGB")
    w, h = image.size
    short = min(w, h)
    w, h = 256 * w // short, 256 * h // short
    image = image.resize((w, h), Image.Resampling.BICUBIC)
    left, top = round((w - 224) / 2), round((h - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return torch.from_numpy(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1).copy())


class Photos(torch.utils.data.Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return read(self.paths[i])


def of_transformers(weights, attention):
    config = transformers.Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    config.use_mask_token = "embeddings.mask_token" in weights
    config._attn_implementation = attention
    model = transformers.Dinov2Model(config)
    in_memory = {"attention.query": "q_proj", "attention.key": "k_proj", "attention.value": "v_proj", "output.dense": "o_proj"}
    own = model.state_dict()
    renamed = {}
    for name, t in weights.items():
        if name not in own:
            name = re.sub(r"attention\.(attention\.\w+|output\.dense)", lambda m: "attention." + in_memory[m[1]], name)
        renamed[name] = t
    model.load_state_dict(renamed)
    return model, lambda image: model(image).last_hidden_state


def of_timm(weights):
    model = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0)
    named = {"cls_token": weights["embeddings.cls_token"], "norm.weight": weights["layernorm.weight"], "norm.bias": weights["layernorm.bias"]}
    named["pos_embed"] = resample_abs_pos_embed(weights["embeddings.position_embeddings"], [16, 16])
    for kind in "weight", "bias":
        named["patch_embed.proj." + kind] = weights["embeddings.patch_embeddings.projection." + kind]
        for i in range(12):
            ours, theirs = f"blocks.{i}.", f"encoder.layer.{i}."
            parts = [weights[f"{theirs}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            named[f"{ours}attn.qkv.{kind}"] = torch.cat(parts)
            named[f"{ours}attn.proj.{kind}"] = weights[f"{theirs}attention.output.dense.{kind}"]
            for part in "norm1", "norm2", "mlp.fc1", "mlp.fc2":
                named[f"{ours}{part}.{kind}"] = weights[f"{theirs}{part}.{kind}"]
            for part in "12":
                named[f"{ours}ls{part}.gamma"] = weights[f"{theirs}layer_scale{part}.lambda1"]
    model.load_state_dict(named)
    return model, model.forward_features


def peak_mib():
    """Of this process and the loader's."""
    total = 0
    for pid in [os.getpid()] + [p.pid for p in multiprocessing.active_children()]:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        total += int(re.search(r"VmHWM:\s+(\d+)", status)[1])
    return round(total / 1024)


parser = argparse.ArgumentParser()
parser.add_argument("weights")
parser.add_argument("photos")
parser.add_argument("--variant", choices=["hf-eager", "hf-sdpa", "timm"], default="hf-sdpa")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--synthetic", action="store_true")
parser.add_argument("--repeat", type=int, default=3)
parser.add_argument("--save")
args = parser.parse_args()
torch.set_num_threads(args.threads)
weights = {name: t.float() for name, t in load_file(args.weights).items()}
photos = sorted(pathlib.Path(args.photos).glob("*.jpg"))

if args.save:
    model, features = of_transformers(weights, "eager")
    model.double().eval()
    found = {}
    with torch.inference_mode():
        for path in photos[:8]:
            image = read(path)
            found[path.name + ".image"] = image
            found[path.name + ".tokens"] = features(image[None].double())[0].float()
    save_file(found, args.save)
    raise SystemExit

model, features = of_timm(weights) if args.variant == "timm" else of_transformers(weights, args.variant[3:])
model.eval()
if args.compile:
    features = torch.compile(features)
count = -(-len(photos) // args.batch) * args.batch
if args.synthetic:
    batches = [torch.randn(args.batch, 3, 224, 224) for _ in range(count // args.batch)]
else:
    paths = list(itertools.islice(itertools.cycle(photos), count))
    batches = torch.utils.data.DataLoader(Photos(paths), args.batch, num_workers=args.workers, persistent_workers=args.workers > 0)
times = []
with torch.inference_mode():
    for _ in range(args.repeat + 1):
        start = time.perf_counter()
        for batch in batches:
            assert features(batch).shape == (args.batch, 257, 384)
        times.append(time.perf_counter() - start)
    line = {"variant": args.variant + ("+compile" if args.compile else ""), "images_per_s": round(count / statistics.median(times[1:]), 2)}
    line |= {"images": "synthetic" if args.synthetic else f"photos, {args.workers} workers", "batch": args.batch, "threads": args.threads}
    line |= {"peak_rss_mib": peak_mib(), "torch": torch.__version__}
    print(json.dumps(line))
