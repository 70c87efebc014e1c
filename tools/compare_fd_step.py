"""Speed and memory of one training step against PyTorch, in one run: the two take turns, and medians are compared.

    python3 -m venv target/torch && target/torch/bin/pip install torch
    cargo build --release -p fd-distill
    target/torch/bin/python tools/compare_fd_step.py [--presets mini tiny vitb] [--dtype f32|bf16] [--rounds 5] [--threads 2] [--json FILE]

First every variant of torch_fd_step.py runs once (eager, sdpa, each also compiled); the fastest is the rival. Then rival and `distill
bench fd-step` alternate `--rounds` times. Ratios above 1 mean that ours is faster; memory is the processes' peak resident size.
"""
import argparse, json, pathlib, statistics, subprocess, sys

HERE = pathlib.Path(__file__).resolve().parent
VARIANTS = (["--attention", "eager"], ["--attention", "sdpa"], ["--attention", "eager", "--compile"], ["--attention", "sdpa", "--compile"])
STEPS = {"mini": 20, "tiny": 8, "vitb": 4, "vitl": 3}


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--presets", nargs="+", default=["mini", "tiny", "vitb"], choices=STEPS)
    ap.add_argument("--dtype", default="f32", choices=("f32", "bf16"))
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--binary", default=str(HERE.parent / "target/release/distill"))
    ap.add_argument("--json")
    a = ap.parse_args()
    results = []
    for preset in a.presets:
        common = ["--preset", preset, "--threads", str(a.threads), "--steps", str(STEPS[preset]), "--warmup", "2", "--dtype", a.dtype]
        torch = lambda variant: run([sys.executable, str(HERE / "torch_fd_step.py"), *common, *variant])
        ours = lambda: run([a.binary, "bench", "fd-step", *common])
        once = [(torch(v), v) for v in VARIANTS]
        rival = max(once, key=lambda r: r[0]["images_per_second"])[1]
        rounds = [(torch(rival), ours()) for _ in range(a.rounds)]
        speed = [o["images_per_second"] / t["images_per_second"] for t, o in rounds]
        median = lambda side, key: statistics.median(r[side][key] for r in rounds)
        row = dict(preset=preset, dtype=a.dtype, threads=a.threads, batch=rounds[0][1]["batch"], rival=" ".join(rival), engine=rounds[0][0]["engine"],
            simd=rounds[0][1]["simd"], torch_images_per_second=median(0, "images_per_second"), ours_images_per_second=median(1, "images_per_second"),
            ratio=round(statistics.median(speed), 3), ratios=[round(s, 3) for s in speed],
            torch_rss_mb=median(0, "peak_rss_mb"), ours_rss_mb=median(1, "peak_rss_mb"),
            memory=round(median(1, "peak_rss_mb") / median(0, "peak_rss_mb"), 3),
            memory_of_smallest=round(median(1, "peak_rss_mb") / min(r["peak_rss_mb"] for r, _ in once), 3),
            variants={" ".join(v): [r["images_per_second"], r["peak_rss_mb"]] for r, v in once})
        print(json.dumps(row), flush=True)
        results.append(row)
    if a.json:
        pathlib.Path(a.json).write_text(json.dumps(results, indent=1) + "\n")


main()
