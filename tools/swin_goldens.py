"""Golden vectors of Swin transformers with options that the official configurations do not use: rectangular maps, odd windows, no
biases, absolute positions, other norms and coordinates. Run once, on a CPU, with PyTorch, timm and the official code:

    python tools/swin_goldens.py PATH_TO_FEATURE_DISTILLATION crates/model/tests/goldens

where the path is a checkout of SwinTransformer/Feature-Distillation at 2115145. Format: crates/model/tests/goldens/README.md.
Versions used: torch 2.15.0+cu132 (CPU run), timm 1.0.31, safetensors 0.8.0, Python 3.11.7.
"""

import importlib
import json
import sys
import types

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

official, folder = sys.argv[1:]
package = types.ModuleType("models")  # the package's own __init__ imports more than the two files need
package.__path__ = [official + "/models"]
sys.modules["models"] = package
V1 = importlib.import_module("models.swin_transformer").SwinTransformer
V2 = importlib.import_module("models.swin_transformer_v2").SwinTransformerV2


def randomise(model, seed):
    """Non-trivial values for every parameter, of the size that a trained one might have."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            value = 1 + 0.1 * noise
        elif "table" in name:
            value = 0.7 * noise
        elif "logit_scale" in name:
            value = 1 + 0.5 * noise
        elif "absolute_pos" in name or "rpe_mlp.0.weight" in name:
            value = 0.5 * noise
        elif p.dim() >= 2:
            value = noise / p[0].numel() ** 0.5
        else:
            value = 0.2 * noise
        with torch.no_grad():
            p.copy_(value)


def run(model, image, target, dtype):
    """Every value of the forward pass, the loss and all gradients, in one precision."""
    model, found, hooks = model.to(dtype), {}, []

    def tap(module, name):
        hooks.append(module.register_forward_hook(lambda _, __, out: found.__setitem__(name, out)))

    tap(model.patch_embed, "patch_embed")
    for s, stage in enumerate(model.layers):
        for i, block in enumerate(stage.blocks):
            tap(block, f"layer{s}.block{i}")
            tap(block.attn.softmax, f"layer{s}.attn{i}")
        if stage.downsample is not None:
            tap(stage.downsample, f"layer{s}.downsample")
        if getattr(stage, "rel_pos_bias", None) is not None:
            tap(stage.rel_pos_bias, f"layer{s}.rel_pos_bias")
    x = model.patch_embed(image.to(dtype))
    if model.ape:
        x = x + model.absolute_pos_embed
    for stage in model.layers:
        x = stage(x)
    found["tokens_prenorm"], found["tokens"] = x, model.norm(x)
    for hook in hooks:
        hook.remove()
    if target is None:
        return found["tokens"].shape
    loss = F.smooth_l1_loss(found["tokens"], target.to(dtype), beta=2.0)
    model.zero_grad()
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return {k: v.detach().clone() for k, v in found.items()}, loss.item(), grads


def case(name, cls, seed=1, maps=True, **kwargs):
    kwargs = {"num_classes": 0, "drop_path_rate": 0.0, **kwargs}
    model = cls(**kwargs).eval()
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed + 7)
    image = torch.randn(2, kwargs.get("in_chans", 3), *kwargs["img_size"], generator=generator)
    target = torch.randn(run(model, image, None, torch.float32), generator=generator)
    tensors = {"in.image": image, "in.target": target}
    tensors |= {"w." + n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = {"buf." + n: b for n, b in model.named_buffers() if b is not None}
    tensors |= {n: b if b.dtype == torch.int64 else b.float() for n, b in buffers.items() if maps or "attn_mask" not in n}
    (out32, loss32, g32), (out, loss, g) = run(model, image, target, torch.float32), run(model, image, target, torch.float64)
    deviations = {"loss": abs(loss32 - loss) / abs(loss)}
    pairs = [("out." + n, out32[n], v) for n, v in out.items() if maps or ".attn" not in n]
    for n, narrow, wide in pairs + [("g." + n, g32[n], v) for n, v in g.items()]:
        tensors[n] = wide.float()
        deviations[n] = ((narrow.double() - wide).abs().max() / max(wide.abs().max().item(), 1e-4)).item()
    tensors |= {"loss": torch.tensor([loss], dtype=torch.float32), "loss.f64": torch.tensor([loss], dtype=torch.float64)}
    if cls is V2:
        del tensors["out.tokens_prenorm"], deviations["out.tokens_prenorm"]
    official_class = "SwinV2ForFD (swin_transformer_v2.py)" if cls is V2 else "models.esvit.WarpperSwinTransformer (swin_transformer.py)"
    about = {"case": name, "seed": seed, "cls": official_class, "kwargs": kwargs, "ln_eps": 1e-5, "gelu": "erf"}
    about |= {"attn_mask_value": -100.0, "loss": "smooth_l1(tokens, in.target, beta=2)", "f32_dev": deviations}
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, f"{folder}/{name}.safetensors")
    with open(f"{folder}/{name}.json", "w") as f:
        json.dump(about, f, indent=1)


small = dict(embed_dim=8, depths=[1, 2], num_heads=[2, 4], patch_size=2)
case("o1_swin_v1_odd_rectangle", V1, **small | dict(img_size=[12, 24], window_size=3, qkv_bias=False, mlp_ratio=3.0, in_chans=1, depths=[2, 2]))
case("o2_swin_v1_ape", V1, **small | dict(img_size=[40, 20], window_size=5, ape=True, patch_norm=False, depths=[2, 1]))
case("o3_swin_v2_odd_rectangle", V2, **small | dict(img_size=[12, 24], window_size=3, qkv_bias=False, mlp_ratio=3.0, rpe_hidden_dim=32, depths=[2, 2]))
case("o4_swin_v2_norms", V2, **small | dict(img_size=[16, 16], window_size=4, rpe_hidden_dim=32, endnorm_interval=2, use_mlp_norm_layers=[1], ape=True, patch_norm=False, depths=[2, 4]))
case("o5_swin_v2_plain", V2, **small | dict(img_size=[16, 16], window_size=4, rpe_hidden_dim=32, relative_coords_table_type="linear", rpe_output_type="normal", attn_type="normal"))
case("o6_swin_v2_pretrained_window", V2, maps=False, **small | dict(img_size=[28, 28], window_size=14, patch_size=1, in_chans=1, rpe_hidden_dim=32, relative_coords_table_type="norm8_log_192to224", use_shared_rel_pos_bias=True, depths=[2, 1]))
