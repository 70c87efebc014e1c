"""Proves `distill convert` in timm and transformers, and writes down what was proven.

    python tools/prove_exports.py DISTILL FIXTURES OUT.json

For every weight file of FIXTURES (crates/model/tests/fixtures/import: NAME.json says what it is, NAME.features.safetensors holds an image and the
features that the class which wrote the file computed from it in double precision), DISTILL converts it to timm's and to transformers' names. The
class that the printed Python builds loads the result STRICTLY: no tensor missing, none left over. Its features in double precision have to be
those of the original class to 2e-5. OUT.json keeps, for each export, the class, the difference, and the SHA-256 of the file that was proven:
`cargo test -p fd-model --test export` writes the same file again and compares the sum, so that torch is not needed there.

Versions used: torch 2.15.0, timm 1.0.31, transformers 5.24.0, safetensors 0.8.0.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from safetensors.torch import load_file

distill, fixtures, out = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])


def arguments(fact):
    """What shapes do not say."""
    given = ["--key", "teacher"] if fact.get("prefix", "").startswith("teacher") else []
    if isinstance(fact["num_heads"], int):
        given += ["--set", f"num_heads={fact['num_heads']}"]
    else:
        given += ["--img-size", str(fact["image"][1]), "--set", f"window_size={fact['kwargs']['window_size']}"]
    if "pretrained_window_sizes" in fact.get("kwargs", {}):
        given += ["--set", f"pretrained_windows={fact['kwargs']['pretrained_window_sizes']}"]
    return given


def tokens_of(model, image, registers):
    """The last feature map after the final norm, the CLS token first, registers left out; CLIP's embedding where there is one."""
    with torch.inference_mode():
        if hasattr(model, "forward_features"):
            tokens = model.forward_features(image)
            if tokens.dim() == 4:
                tokens = tokens.flatten(1, 2)
        else:
            found = model(image)
            tokens = found.last_hidden_state
            visual = getattr(model, "vision_model", model)
            if hasattr(visual, "post_layernorm"):  # CLIP's classes hand out the tokens before it
                tokens = visual.post_layernorm(tokens)
    return torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], 1) if registers else tokens


proofs = {}
for path in sorted(fixtures.glob("*.json")):
    name, fact = path.stem, json.loads(path.read_text())
    if fact.get("final_norm") in ("fc_norm", "pooler.layernorm"):
        continue  # no norm over all tokens: not an encoder of features
    expected = load_file(fixtures / f"{name}.features.safetensors")
    for style in ("timm", "hf"):
        with tempfile.TemporaryDirectory() as folder:
            target = f"{folder}/model" + (".safetensors" if style == "timm" else "")
            command = [distill, "convert", str(fixtures / fact["weights"]), target, "--to", style, *arguments(fact)]
            ran = subprocess.run(command, capture_output=True, text=True)
            if ran.returncode != 0:
                print(f"{name} to {style}: refused: {ran.stderr.strip()}")
                continue
            python = ran.stdout[ran.stdout.index("\nfrom ") + 1 :]
            scope = {}
            if style == "hf":
                python = python.replace("from_pretrained(", "from_pretrained(output_loading_info=True, pretrained_model_name_or_path=")
            exec(python, scope)
            model = scope["model"]
            if style == "hf":
                model, info = model
                trouble = {key: value for key, value in info.items() if value}
                assert not trouble, f"{name} to {style}: {trouble}"
            model.double().eval()
            registers = 4 if "reg4" in name else 0
            found = tokens_of(model, expected["image"].double(), registers)
            difference = ((found - expected["tokens"]).abs().max() / expected["tokens"].abs().max()).item()
            assert difference < 2e-5, f"{name} to {style}: {difference}"
            file = pathlib.Path(target) / "model.safetensors" if style == "hf" else pathlib.Path(target)
            sha = hashlib.sha256(file.read_bytes()).hexdigest()
            proofs[f"{name} {style}"] = {"class": type(model).__name__, "difference": float(f"{difference:.1e}"), "sha256": sha}
            print(f"{name} to {style}: {type(model).__name__}, off by {difference:.1e}")
out.write_text(json.dumps(proofs, indent=1) + "\n")
print(f"{len(proofs)} exports proven")
