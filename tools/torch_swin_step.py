"""The PyTorch side of `bench fd-step --preset swint`: Swin-T (teacher) to Swin v2-T (student) of the official code, one whole step of
feature distillation on random images: teacher forward, student forward and backward, clipping, AdamW.

    python tools/torch_swin_step.py PATH_TO_FEATURE_DISTILLATION [--batch 8] [--threads 2] [--steps 5] [--compile]

where the path is a checkout of SwinTransformer/Feature-Distillation at 2115145. Prints one line of JSON.
"""

import argparse
import importlib
import json
import resource
import statistics
import sys
import time
import types

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("official")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()

package = types.ModuleType("models")
package.__path__ = [args.official + "/models"]
sys.modules["models"] = package
teacher_class = importlib.import_module("models.swin_transformer").SwinTransformer
student_class = importlib.import_module("models.swin_transformer_v2").SwinTransformerV2


def tokens(model, x):
    x = model.patch_embed(x)
    for stage in model.layers:
        x = stage(x)
    return model.norm(x)


class Distillation(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = student_class(num_classes=0, drop_path_rate=0.1)
        self.teacher = teacher_class(num_classes=0, drop_path_rate=0.0).eval().requires_grad_(False)
        self.decoder = nn.Conv1d(768, 768, 1)

    def forward(self, x):
        predicted = self.decoder(tokens(self.student, x).transpose(1, 2)).transpose(1, 2)
        with torch.no_grad():
            target = F.layer_norm(tokens(self.teacher, x), (768,))
        return F.smooth_l1_loss(predicted, target, beta=2.0)


torch.manual_seed(0)
torch.set_num_threads(args.threads)
model = Distillation()
step_of = torch.compile(model) if args.compile else model
trained = [p for p in model.parameters() if p.requires_grad]
optimiser = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
images, times = torch.randn(args.batch, 3, 224, 224), []
for step in range(args.warmup + args.steps):
    start = time.perf_counter()
    loss = step_of(images)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 3.0)
    optimiser.step()
    if step >= args.warmup:
        times.append(time.perf_counter() - start)
seconds = statistics.median(times)
print(
    json.dumps(
        {
            "bench": "fd-step",
            "engine": f"torch-{torch.__version__}",
            "preset": "swint",
            "compiled": args.compile,
            "batch": args.batch,
            "threads": args.threads,
            "images_per_second": round(args.batch / seconds, 3),
            "step_ms": round(1e3 * seconds, 3),
            "loss": round(loss.item(), 5),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
    )
)
