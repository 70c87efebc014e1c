"""Small weight files as PyTorch and safetensors write them, what is in them, and files that a reader must refuse. Run once, on a CPU:

    python tools/weights_fixtures.py FOLDER          # everything but old_*
    OLD_PYTHON tools/weights_fixtures.py FOLDER --old    # adds old_*, with an older PyTorch

FOLDER/expected.json says of every file its container, its tensors by dotted name (keys of nested dictionaries, indices of lists), and its
notes: scalars beside the weights, those of a Namespace or CfgNode by dotted name, as Python prints them. FOLDER/hostile/hostile.json
names for each file what a refusal must mention. Values are seeded; so are bytes, but for storages called by their addresses (legacy and
old_* files), the order of safetensors' metadata and TorchScript's debugging records, which hold paths.
Versions used: torch 2.15.0, safetensors 0.8.0, numpy 2.4.6, yacs 0.1.8, Python 3.11.7; old: torch 1.7.1, numpy 1.23.5, Python 3.8.18.
"""

import argparse
import io
import json
import os
import sys
import warnings
from collections import OrderedDict
from typing import List

import numpy as np
import torch
from torch import nn

warnings.filterwarnings("ignore", message=".*(torch.jit|TypedStorage|CUDA initialization)")
folder, old = sys.argv[1], "--old" in sys.argv
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64, "i64": torch.int64, "i32": torch.int32}
DTYPES.update({"i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool})
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SCALARS = (str, int, float, np.generic)
expected = {}


def randn(*shape):
    """Multiples of 1/64: every type holds them, and their decimals are short."""
    return (torch.randn(*shape) * 64).round() / 64


def rounded(module):
    for p in module.parameters():
        p.data = (p.data * 64).round() / 64
    return module


def tensors_of(value, name=""):
    """(dotted name, tensor) of everything in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors_of(inner, name + "." + str(key) if name else str(key))


def notes_of(value, name=""):
    """(dotted name, text) of the scalars at the top, in a Namespace and in a CfgNode."""
    for key, inner in value.items():
        full = name + str(key)
        if isinstance(inner, SCALARS):
            yield full, str(inner)
        elif isinstance(inner, argparse.Namespace):
            yield from notes_of(vars(inner), full + ".")
        elif type(inner).__name__ == "CfgNode":
            yield from notes_of(inner, full + ".")


def describe(file, container, value, notes=None):
    tensors = {}
    for name, t in tensors_of(value):
        exact = t.double() if t.dtype.is_floating_point else t.long()
        values = exact.reshape(-1).tolist()
        if t.dtype == torch.float32:  # the shortest decimals that read back as the same number
            values = [float(str(np.float32(v))) for v in values]
        tensors[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "values": values}
    expected[file] = {"container": container, "tensors": tensors, "notes": dict(notes_of(value)) if notes is None else notes}


def save(file, value, legacy=False, **options):
    describe(file, "torch-legacy" if legacy else "torch-zip", value)
    torch.save(value, os.path.join(folder, file), _use_new_zipfile_serialization=not legacy, **options)


def both(name, value):
    save(name + ".pth", value)
    save(name + "_legacy.pth", value, legacy=True)


def every_dtype():
    found = {n: torch.randn(2, 3, dtype=torch.float64).to(d) for n, d in DTYPES.items() if n[0] in "fb" and n != "bool"}
    found.update({"i64": torch.tensor([-(2**40), 0, 2**40 + 1]), "i32": torch.tensor([-(2**31), 7], dtype=torch.int32)})
    found.update({"i16": torch.tensor([-32768, 32767], dtype=torch.int16), "i8": torch.tensor([-128, 127], dtype=torch.int8)})
    found.update({"u8": torch.tensor([0, 255], dtype=torch.uint8), "bool": torch.tensor([True, False, True])})
    return found


def layouts():
    """Views: transposed, every other column, a row from the end, one value seen many times, a permuted image, two halves of one storage."""
    base, shared = randn(4, 6), randn(10)
    return {
        "transposed": base.t(),
        "stepped": base[1:, ::2],
        "last_row": base[-1],
        "expanded": randn(3, 1).expand(3, 4),
        "expanded_scalar": torch.tensor(2.5).expand(2, 2),
        "channels_last": randn(2, 3, 2, 2).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "front": shared[:4],
        "back": shared[4:].view(2, 3),
        "half_back": randn(8).half()[3:],
        "same": {"one": shared, "two": shared},
    }


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(1, 3, 2)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Sequential(nn.Linear(3, 4, bias=False), nn.GELU(), nn.Linear(4, 2))
        rounded(self)


class Attention(nn.Module):
    """A small residual block with an integer, a float, a list and a mask beside its weights."""

    heads: int
    scale: float
    sizes: List[int]

    def __init__(self):
        super().__init__()
        self.heads, self.scale, self.sizes = 2, 0.5, [4, 4]
        self.in_proj_weight = nn.Parameter(randn(12, 4))
        self.ln_1 = nn.LayerNorm(4)
        self.register_buffer("mask", torch.full((3, 3), -1e4).triu(1))

    def forward(self, x):
        q, k, v = nn.functional.linear(self.ln_1(x), self.in_proj_weight).chunk(3, -1)
        return x + ((q @ k.transpose(-1, -2)) * self.scale + self.mask).softmax(-1) @ v


class Tower(nn.Module):
    input_resolution: int

    def __init__(self):
        super().__init__()
        self.input_resolution = 32
        self.class_embedding = nn.Parameter(randn(4))
        self.resblocks = nn.Sequential(Attention(), Attention())

    def forward(self, x):
        return self.resblocks(x + self.class_embedding)


class Clip(nn.Module):
    """Nested as CLIP's published archive is: half precision, LayerNorms in single."""

    logit_floor: float

    def __init__(self):
        super().__init__()
        self.logit_floor = 0.01
        self.visual = Tower()
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, x):
        return self.visual(x) * self.logit_scale


def clip():
    model = Clip().eval()
    for module in model.modules():
        if not isinstance(module, nn.LayerNorm):
            for name, p in list(module._parameters.items()):
                p.data = p.data.half()
    return model


def torchscript(file, scripted=True):
    """Scripted: all of it in half precision. Traced: one block in single, whose attributes vanish."""
    compiled = torch.jit.script(clip()) if scripted else torch.jit.trace(nn.Sequential(Attention()), randn(2, 3, 4))
    describe(file, "torchscript", dict(compiled.state_dict()), {"logit_floor": "0.01"} if scripted else {})
    torch.jit.save(compiled, os.path.join(folder, file))


def optimised(model):
    """A model, its AdamW and its schedule, after three steps."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 10)
    for _ in range(3):
        sum((p * p).sum() for p in model.parameters()).backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    args = argparse.Namespace(arch="vit_small", lr=0.1, betas=(0.9, 0.999), resume=None)
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3}
    parts = {"model": model.state_dict(), "optimizer": optimiser.state_dict(), "lr_scheduler": schedule.state_dict()}
    return dict(parts, epoch=3, args=args, scaler=scaler)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(randn(2))


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __call__(self):
        pass

    def __reduce__(self):
        return self.function, self.args


def hostile():
    refused = {}
    os.makedirs(os.path.join(folder, "hostile"), exist_ok=True)

    def put(file, culprit, value, **options):
        refused[file] = culprit
        torch.save(value, os.path.join(folder, "hostile", file), **options)

    legacy = {"_use_new_zipfile_serialization": False}
    system, weight = Call(os.system, "touch /tmp/fd_owned"), randn(2)
    put("system.pth", "posix.system", {"model": {"weight": weight}, "extra": system})
    put("system_legacy.pth", "posix.system", {"model": {"weight": weight}, "extra": system}, **legacy)
    put("system_protocol4.pth", "posix.system", {"model": {"weight": weight}, "extra": system}, pickle_protocol=4)
    put("eval.pth", "__builtin__.eval", {"weight": Call(eval, "open('/tmp/fd_owned', 'w')")})
    put("module.pth", "torch.nn.modules.container.Sequential", nn.Sequential(nn.GELU()))
    put("module_legacy.pth", "__main__.Scale", {"model": Scale()}, **legacy)
    nested = io.BytesIO()
    torch.save(system, nested)
    put("load_from_bytes.pth", "torch.storage._load_from_bytes", {"weight": Call(torch.storage._load_from_bytes, nested.getvalue())})
    globals_of_init = Call(getattr, Call(getattr, argparse.Namespace, "__init__"), "__globals__")
    put("getattr.pth", "__builtin__.getattr", {"weight": Call(Call(getattr, globals_of_init, "get"), "_sys")})
    # Tensors that their storage does not hold, and one value that would fill a terabyte.
    storage = randn(4).storage()

    def rebuilt(offset, size, stride):
        return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())

    put("beyond_storage.pth", "beyond", {"beyond": rebuilt(2, (3,), (1,))})
    put("negative_offset.pth", "before", {"before": rebuilt(-1, (2,), (1,))})
    put("expanded_bomb.pth", "bomb", {"bomb": rebuilt(0, (2**20, 2**20), (0, 0))})
    put("overflow.pth", "wide", {"wide": rebuilt(0, (2**33, 2**33), (2**33, 1))})
    with open(os.path.join(folder, "hostile", "hostile.json"), "w") as f:
        json.dump(refused, f, indent=1)


def new_files():
    from safetensors.torch import save_file
    from yacs.config import CfgNode

    both("dtypes", every_dtype())
    both("layouts", layouts())
    both("empty", {"scalar": torch.tensor(1.5), "count": torch.tensor(7), "none": torch.empty(0), "flat": torch.empty(2, 0, 3, dtype=torch.float16)})
    save("bf16.pth", {"weight": randn(3, 5).bfloat16()})
    save("protocol4.pth", {"weight": randn(2, 2), "epoch": 12}, pickle_protocol=4)

    marked, tagged = nn.Parameter(randn(3)), randn(2)
    marked.no_weight_decay, tagged.source = True, "a tensor with an attribute"
    both("parameters", {"plain": nn.Parameter(randn(2, 2)), "frozen": nn.Parameter(randn(2), False), "marked": marked, "tagged": tagged})
    both("state_dict", Small().state_dict())
    save("data_parallel.pth", {"state_dict": OrderedDict(("module." + n, t) for n, t in Small().state_dict().items()), "arch": "small"})
    save("training.pth", optimised(Small()))

    head = {"head.mlp.0.weight": randn(4, 3), "head.last_layer.weight_g": torch.ones(5, 1), "head.last_layer.weight_v": randn(5, 4)}
    student = OrderedDict(("module.backbone." + n, t) for n, t in Small().state_dict().items())
    student.update(("module." + n, t) for n, t in head.items())
    teacher = OrderedDict(("backbone." + n, t) for n, t in Small().state_dict().items())
    teacher.update(head)
    save("dino.pth", {"student": student, "teacher": teacher, "epoch": 100, "dino_loss": OrderedDict(center=randn(1, 5)), "fp16_scaler": None})

    parts = {"encoder.": Small(), "feature_model.": Small()}
    model = OrderedDict((prefix + n, t) for prefix, m in parts.items() for n, t in m.state_dict().items())
    model.update({"decoder.0.weight": randn(3, 3, 1, 1), "decoder.0.bias": randn(3)})
    config = CfgNode({"MODEL": CfgNode({"NAME": "fd_vit", "DROP_PATH_RATE": 0.1, "DEPTHS": [2, 2]}), "SEED": 0})
    scores = {"best_acc": np.float64(83.2), "max_accuracy": 83.25, "best_epoch": np.int64(299)}
    save("fd.pth", dict({"model": model, "config": config, "epoch": 299}, **scores))

    torchscript("scripted.pt")
    torchscript("traced.pt", scripted=False)
    for name, values in {"floats": {n: t for n, t in every_dtype().items() if t.dtype.is_floating_point}, "dtypes": every_dtype()}.items():
        values = dict(values, **{"block.0.scalar": torch.tensor(0.5), "none": torch.empty(0, 2)})
        describe(name + ".safetensors", "safetensors", values, {"format": "pt", "epoch": "3"})
        save_file(values, os.path.join(folder, name + ".safetensors"), {"format": "pt", "epoch": "3"})
    hostile()


os.makedirs(folder, exist_ok=True)
torch.manual_seed(1)
if old:
    with open(os.path.join(folder, "expected.json")) as f:
        expected = json.load(f)
    save("old.pth", dict(optimised(Small()), best_acc=np.float64(83.2)))
    save("old_legacy.pth", {"model": Small().state_dict(), "views": layouts(), "types": every_dtype()}, legacy=True)
    torchscript("old_scripted.pt")
else:
    new_files()
with open(os.path.join(folder, "expected.json"), "w") as f:
    f.write("{\n" + ",\n".join(json.dumps(file) + ": " + json.dumps(about) for file, about in expected.items()) + "\n}\n")
