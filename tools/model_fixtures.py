"""Small vision transformers with random weights under the names that timm, transformers and the official codes give them, and the
features that those classes compute of two random images. Run once, on a CPU, without a network:

    HF_HUB_OFFLINE=1 python tools/model_fixtures.py FOLDER

For each model: the weights (`NAME.safetensors`, or `.pth` and `.pt` where the original is one), `NAME.json` (the class, its arguments, what
shapes do not tell) and `NAME.features.safetensors`: `image`, the input as the model gets it; `tokens`, its last feature map after the final
norm, CLS first where there is one, without registers; `projected` where the model embeds images. Weights are f32 (CLIP's own archive:
matrices in half), features are computed in double precision. transformers' JSON has the model's config.json as arguments. Values are seeded, bytes repeat but for debugging records in the archive. FOLDER/README.md lists the files.
Versions used: torch 2.15.0, timm 1.0.31, transformers 5.24.0, safetensors 0.8.0, Python 3.11.7.
"""

import argparse
import copy
import json
import math
import os
import re
import sys
import tempfile
import warnings
from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from timm.models.beit import Beit, gen_relative_position_index
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

warnings.filterwarnings("ignore", message=".*torch.jit")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
folder = sys.argv[1]
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
rows = []


def randomise(model, seed=1):
    """Every parameter gets values that a forgotten or swapped one would not have."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        n, last = torch.randn(p.shape, generator=generator), name.split(".")[-1]
        if re.fullmatch(r"gamma(_\d)?|lambda_?\d", last):
            n = 0.3 + 0.1 * n
        elif last == "logit_scale":
            n = math.log(10) + 0.3 * n
        elif re.search(r"table|pos|token|class_embedding", name):
            n = 0.5 * n
        elif p.dim() <= 1:
            n = 1 + 0.2 * n if last == "weight" else 0.2 * n
        else:
            n = n / (p.shape[0] if last == "proj" else p[0].numel()) ** 0.5
        p.data.copy_(n)
    return model.eval()


def images(size, seed=7):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def epsilons(model):
    found = {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)}
    assert len(found) == 1, found
    return found.pop()


def write(name, weights, cls, size, run, model, special, activation="gelu", normalise=IMAGENET, **facts):
    """Weights (a dictionary, or a function that writes a file and gives its name), features and facts of one model."""
    if isinstance(weights, dict):
        file = name + ".safetensors"
        save_file({n: t.detach().contiguous().clone() for n, t in weights.items()}, f"{folder}/{file}")
    else:
        file = weights()
    image, found = images(size), {}
    with torch.no_grad():
        for dtype in torch.float32, torch.float64:
            out = run(copy.deepcopy(model).to(dtype), image.to(dtype))
            for key, value in (out if isinstance(out, dict) else {"tokens": out}).items():
                if dtype == torch.float64:
                    assert value.dtype == dtype
                    deviation = (value - found[key]).abs().max().item()
                    assert 0 < deviation < 1e-4, (name, key, deviation)
                found[key] = value
    save_file({"image": image} | {n: t.float().contiguous() for n, t in found.items()}, f"{folder}/{name}.features.safetensors")
    about = {"weights": file, "class": cls, "special": special, "image": [3, size, size], "activation": activation}
    about |= {"layer_norm_eps": epsilons(model), "normalise": normalise} | facts
    with open(f"{folder}/{name}.json", "w") as f:
        json.dump(about, f)
        f.write("\n")
        f.write("\n")
    rows.append((file, cls, special))


def checkpoint(file, value):
    def save():
        torch.save(value, f"{folder}/{file}")
        return file

    return save


# timm


def timm_tokens(model, image):
    """CLS and patches of a ViT, or a Swin's map in rows."""
    x = model.forward_features(image)
    if x.dim() == 4:
        return x.flatten(1, 2)
    first = getattr(model, "num_reg_tokens", 0) + 1
    return torch.cat([x[:, :1], x[:, first:]], 1)


def timm_case(name, cls, special, kwargs, run=timm_tokens, seed=1, size=32, **facts):
    given = dict(kwargs)
    if "layer_norm_eps" in given:
        given["norm_layer"] = partial(nn.LayerNorm, eps=given.pop("layer_norm_eps"))
    model = randomise(cls(img_size=size, **given), seed)
    facts = {"kwargs": dict(kwargs, img_size=size), "num_heads": kwargs["num_heads"]} | facts
    path = cls.__module__ + "." + cls.__name__
    write(name, model.state_dict(), path, size, run, model, special, **facts)
    return model, run, path, facts


def clip_outputs(model, image):
    return {"tokens": model.forward_features(image), "projected": model(image)}


def pooled_norm(model, image):
    raw = model.forward_features(image)
    return {"tokens": model.fc_norm(raw), "tokens_before_norm": raw}


VIT = dict(patch_size=8, embed_dim=32, depth=2, num_heads=2)
SWIN = dict(patch_size=4, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4)


def timm_models():
    plain = timm_case("timm_vit", VisionTransformer, "DeiT, DINO, MAE's encoder", dict(VIT, num_classes=10), head_dim=16)
    scaled = dict(VIT, num_classes=0, init_values=0.3)
    v2 = timm_case("timm_vit_layer_scale", VisionTransformer, "LayerScale: ls1.gamma; DINOv2 without registers", scaled, seed=2, head_dim=16)
    registers = dict(scaled, reg_tokens=4, no_embed_class=True)
    reg = timm_case("timm_vit_reg4", VisionTransformer, "reg_token after CLS, pos_embed has no row for CLS", registers, seed=3, head_dim=16)
    clip = dict(VIT, num_classes=24, pre_norm=True, act_layer="quick_gelu", layer_norm_eps=1e-5)
    facts = dict(activation="quick_gelu", normalise=CLIP, head_dim=16)
    special = "norm_pre, no bias in patch_embed; projected = head of CLS, with a bias"
    timm_case("timm_vit_clip", VisionTransformer, special, clip, clip_outputs, seed=4, **facts)

    beit = dict(VIT, use_abs_pos_emb=False, use_shared_rel_pos_bias=True, init_values=0.1, num_classes=0, qkv_bias=True, global_pool="token")
    special = "FD's student: one rel_pos_bias for all blocks, q_bias and v_bias, gamma_1, no pos_embed, final norm `norm`"
    timm_case("timm_beit_shared", Beit, special, beit, seed=5, head_dim=16, final_norm="norm")
    beit = dict(VIT, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1, num_classes=10, qkv_bias=True)
    special = "a table in each block; timm's pooling by average: no `norm` but `fc_norm`, which `tokens` passed through one by one"
    timm_case("timm_beit_blocks", Beit, special, beit, pooled_norm, seed=6, head_dim=16, final_norm="fc_norm")

    special = "layers.1.downsample merges before its stage, head.fc"
    swin = timm_case("timm_swin", SwinTransformer, special, dict(SWIN, num_classes=10), seed=7, head_dim=8)
    special = "layers.1.downsample merges before its stage, cpb_mlp, logit_scale, q_bias and v_bias, norms after"
    swin2 = timm_case("timm_swinv2", SwinTransformerV2, special, dict(SWIN, num_classes=10), seed=8, head_dim=8)
    return plain, v2, reg, swin, swin2


# The official codes' names


def swin_official(model):
    """Microsoft's: a merge belongs to the stage before it, the index, masks and coordinates are kept."""
    out = OrderedDict()
    for name, t in model.state_dict().items():
        name = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
        out[name.replace("head.fc.", "head.")] = t
    for i, stage in enumerate(model.layers):
        for j, block in enumerate(stage.blocks):
            at = f"layers.{i}.blocks.{j}."
            out[at + "attn.relative_position_index"] = block.attn.relative_position_index
            if hasattr(block.attn, "relative_coords_table"):
                out[at + "attn.relative_coords_table"] = block.attn.relative_coords_table
            if block.attn_mask is not None:
                out[at + "attn_mask"] = block.attn_mask
    return out


def dino_head(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"mlp.0.weight": (16, 32), "mlp.0.bias": (16,), "last_layer.weight_g": (12, 1), "last_layer.weight_v": (12, 16)}
    return {"head." + n: torch.randn(s, generator=generator) for n, s in shapes.items()}


class Mae(nn.Module):
    """What a masked autoencoder has beside its encoder."""

    def __init__(self):
        super().__init__()
        self.mask_token, self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 17, 16))
        decoder = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=0)
        self.decoder_embed, self.decoder_blocks, self.decoder_norm = nn.Linear(32, 16), decoder.blocks, decoder.norm
        self.decoder_pred = nn.Linear(16, 8 * 8 * 3)


def official_names(plain, v2, reg, swin, swin2):
    def case(name, file, value, source, special, prefix=""):
        model, run, _, facts = source
        size = facts["kwargs"]["img_size"]
        write(name, checkpoint(file, value), "official: " + name, size, run, model, special, **dict(facts, prefix=prefix))

    def alike(source, seed):
        return randomise(copy.deepcopy(source[0]), seed)

    kwargs = dict(VIT, depth=1, num_classes=0, img_size=32)
    short = (randomise(VisionTransformer(**kwargs), 19), *plain[1:3], dict(plain[3], kwargs=kwargs))
    teacher = short[0].state_dict()
    student = {"module.backbone." + n: t for n, t in alike(short, 20).state_dict().items()}
    student |= {"module." + n: t for n, t in dino_head(1).items()}
    whole = {"student": student, "teacher": {"backbone." + n: t for n, t in teacher.items()} | dino_head(2), "optimizer": {}, "epoch": 100}
    whole |= {"args": argparse.Namespace(arch="vit_small", patch_size=8), "dino_loss": OrderedDict(center=torch.zeros(1, 12))}
    case("dino_training", "dino_training.pth", whole, short, "student and teacher differ; the features are the teacher's", "teacher.backbone.")

    mae = {n: t for n, t in plain[0].state_dict().items() if not n.startswith("head.")} | randomise(Mae(), 21).state_dict()
    case("mae_pretraining", "mae_pretraining.pth", {"model": mae}, plain, "decoder_*, decoder_blocks.0.*, mask_token", "model.")

    first = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(22))
    names = dict(reg[0].state_dict())
    official = {"cls_token": names.pop("cls_token") - first, "register_tokens": names.pop("reg_token"), "mask_token": torch.zeros(1, 32)}
    official |= {"pos_embed": torch.cat([first, names.pop("pos_embed")], 1)} | names
    exact = copy.deepcopy(reg[0])
    exact.cls_token.data = (official["cls_token"].double() + first.double()).to(torch.float64)
    case("dinov2_reg4", "dinov2_reg4.pth", official, (exact, *reg[1:]), "register_tokens, mask_token, pos_embed with a row for CLS")

    chunked = {re.sub(r"^blocks\.(\d+)", r"blocks.\1.\1", n): t for n, t in v2[0].state_dict().items()} | {"mask_token": torch.zeros(1, 32)}
    chunked = {"backbone." + n: t for n, t in chunked.items()} | {"dino_" + n: t for n, t in dino_head(3).items()}
    special = "blocks.{chunk}.{block}, the block's number counting from the first chunk: blocks.0.0, blocks.1.1; dino_head"
    case("dinov2_chunked", "dinov2_chunked.pth", {"teacher": chunked}, v2, special, "teacher.backbone.")

    special = "layers.0.downsample, head; buffers relative_position_index, attn_mask (shifted blocks)"
    case("swin_microsoft", "swin_microsoft.pth", {"model": swin_official(swin[0])}, swin, special, "model.")
    special = "as Swin, and relative_coords_table"
    case("swinv2_microsoft", "swinv2_microsoft.pth", {"model": swin_official(swin2[0])}, swin2, special, "model.")


# CLIP under OpenAI's names


class ClipAttention(nn.Module):
    heads: int

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight, self.in_proj_bias = nn.Parameter(torch.zeros(3 * width, width)), nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5).softmax(-1) @ v
        return self.out_proj(mixed.transpose(1, 2).reshape(b, n, c))


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = ClipAttention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width)
        mlp = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGelu()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(mlp))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ClipTransformer(nn.Module):
    def __init__(self, width, heads, depth):
        super().__init__()
        self.resblocks = nn.Sequential(*[ClipBlock(width, heads) for _ in range(depth)])

    def forward(self, x):
        return self.resblocks(x)


class ClipVisual(nn.Module):
    def __init__(self, width, heads, depth, patch, tokens, out):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding, self.positional_embedding = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = ClipTransformer(width, heads, depth)
        self.proj = nn.Parameter(torch.zeros(width, out))

    def tokens(self, image):
        x = self.conv1(image).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x))

    def forward(self, image):
        return self.tokens(image)[:, 0] @ self.proj


class OpenClip(nn.Module):
    """Image and text tower; the text's names have no prefix. Scripted archives hold three sizes as buffers."""

    def __init__(self):
        super().__init__()
        self.visual = ClipVisual(width=64, heads=1, depth=1, patch=8, tokens=17, out=24)
        self.transformer, self.token_embedding, self.ln_final = ClipTransformer(16, 1, 1), nn.Embedding(20, 16), nn.LayerNorm(16)
        self.positional_embedding, self.text_projection = nn.Parameter(torch.zeros(8, 16)), nn.Parameter(torch.zeros(16, 24))
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        for name, value in {"input_resolution": 32, "context_length": 8, "vocab_size": 20}.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image):
        return self.visual(image)


def openai():
    model = randomise(OpenClip(), 9)
    for module in model.modules():  # matrices and their biases in half precision; norms, tokens and positions in single
        for name, p in module.named_parameters(recurse=False):
            if isinstance(module, (nn.Conv2d, nn.Linear, ClipAttention)) or name in ("proj", "text_projection"):
                p.data = p.data.half()

    def archive():
        torch.jit.save(torch.jit.script(model), f"{folder}/clip_openai.pt")
        return "clip_openai.pt"

    def run(model, image):
        tokens = model.visual.tokens(image)
        return {"tokens": tokens, "projected": tokens[:, 0] @ model.visual.proj}

    special = "TorchScript; visual.*, the text tower without prefix, input_resolution etc. as 0-d i64; heads = width / 64"
    facts = dict(prefix="visual.", activation="quick_gelu", normalise=CLIP, num_heads=1, head_dim=64)
    write("clip_openai", archive, "official: CLIP", 32, run, model, special, **facts)


# transformers


def published(model):
    """The state dictionary under the names that files have, and the config.json."""
    with tempfile.TemporaryDirectory() as at:
        model.save_pretrained(at)
        weights = load_file(at + "/model.safetensors")
        with open(at + "/config.json") as f:
            config = json.load(f)
    return weights, config


def hf_case(name, cls, config, special, seed, heads, run=lambda m, x: m(x).last_hidden_state, size=32, buffers=None, **facts):
    config._attn_implementation = "sdpa"  # the eager one rounds its softmax to single precision
    try:
        model = cls(config)
    except ValueError:
        config._attn_implementation = "eager"
        model = cls(config)
    randomise(model, seed)
    weights, saved = published(model)
    buffers = buffers or {}
    facts |= {"kwargs": saved, "num_heads": heads}
    write(name, weights | buffers, "transformers." + cls.__name__, size, run, model, special, **facts)


def hf_models():
    t = transformers
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    vit = dict(small, intermediate_size=128)
    hf_case("hf_vit", t.ViTModel, t.ViTConfig(**vit), "eps 1e-12; a pooler", 30, 2, normalise=HALF, head_dim=16)
    hf_case("hf_dinov2", t.Dinov2Model, t.Dinov2Config(**small), "layer_scale1.lambda1, mask_token", 31, 2, head_dim=16)

    def without_registers(model, image):
        x = model(image).last_hidden_state
        return torch.cat([x[:, :1], x[:, 5:]], 1)

    config = t.Dinov2WithRegistersConfig(**small)
    special = "register_tokens after CLS, pos. with a row for CLS"
    hf_case("hf_dinov2_reg4", t.Dinov2WithRegistersModel, config, special, 32, 2, without_registers, head_dim=16)

    def clip(model, image):
        vision = model.vision_model
        tokens = vision.post_layernorm(vision(image).last_hidden_state)
        return {"tokens": tokens, "projected": model.visual_projection(tokens[:, 0])}

    facts = dict(activation="quick_gelu", normalise=CLIP, head_dim=16)
    config = t.CLIPVisionConfig(**vit, projection_dim=24)
    special = "last_hidden_state is before post_layernorm (`tokens` is after); pre_layrnorm"
    hf_case("hf_clip_vision", t.CLIPVisionModelWithProjection, config, special, 33, 2, clip, **facts)
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=20, max_position_embeddings=8)
    config = t.CLIPConfig(vision_config=vit, text_config=text | dict(bos_token_id=0, eos_token_id=1), projection_dim=24)
    ids = {f"{tower}_model.embeddings.position_ids": torch.arange(n)[None] for tower, n in (("vision", 17), ("text", 8))}
    hf_case("hf_clip", t.CLIPModel, config, "both towers; old files also have position_ids", 34, 2, clip, buffers=ids, **facts)

    beit = dict(vit, use_absolute_position_embeddings=False, layer_scale_init_value=0.1)
    index = gen_relative_position_index((4, 4))
    config = t.BeitConfig(**beit, use_shared_relative_position_bias=True, use_mean_pooling=False)
    old = {"encoder.relative_position_bias.relative_position_index": index}
    special = "FD-like: one table, lambda_1, no key.bias, final norm `layernorm`; eps 1e-12"
    hf_case("hf_beit_shared", t.BeitModel, config, special, 35, 2, buffers=old, normalise=HALF, head_dim=16, final_norm="layernorm")

    def pooled(model, image):
        raw = model(image).last_hidden_state
        return {"tokens": model.pooler.layernorm(raw), "tokens_before_norm": raw}

    config = t.BeitConfig(**beit, use_relative_position_bias=True, use_mean_pooling=True)
    at = "encoder.layer.{}.attention.attention.relative_position_bias.relative_position_index"
    old = {at.format(i): index for i in range(2)}
    special = "a table in each block; the only final norm is pooler.layernorm, which `tokens` passed through one by one"
    facts = dict(normalise=HALF, head_dim=16, final_norm="pooler.layernorm")
    hf_case("hf_beit_blocks", t.BeitModel, config, special, 36, 2, pooled, buffers=old, **facts)

    swin = dict(image_size=32, patch_size=4, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4)
    window = SwinTransformer(img_size=32, **SWIN).layers[0].blocks[0].attn.relative_position_index
    old = {f"encoder.layers.{i}.blocks.{j}.attention.self.relative_position_index": window for i, j in ((0, 0), (0, 1), (1, 0))}
    special = "layers.0.downsample follows its stage; separate query, key and value"
    hf_case("hf_swin", t.SwinModel, t.SwinConfig(**swin), special, 37, [2, 4], buffers=old, head_dim=8)
    config = t.Swinv2Config(**swin, pretrained_window_sizes=[6, 3])
    special = "continuous_position_bias_mlp, no key.bias; coordinates divided by pretrained_window_sizes - 1: [6, 3]"
    hf_case("hf_swinv2", t.Swinv2Model, config, special, 38, [2, 4], head_dim=8)

    def unmasked(model, image):
        in_order = torch.arange(16.0).expand(2, 16)
        return getattr(model, "vit", model)(image, noise=in_order).last_hidden_state

    decoder = dict(decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1, decoder_intermediate_size=32)
    config = t.ViTMAEConfig(**vit, **decoder, mask_ratio=0.0)
    special = "vit.*, decoder.*; nothing masked, patches in order; eps 1e-12"
    hf_case("hf_vit_mae", t.ViTMAEForPreTraining, config, special, 39, 2, unmasked, head_dim=16)


os.makedirs(folder, exist_ok=True)
models = timm_models()
official_names(*models)
openai()
hf_models()
with open(f"{folder}/README.md", "w") as f:
    f.write("Made by `tools/model_fixtures.py`: weights, `NAME.json` (arguments and facts), `NAME.features.safetensors`.\n\n")
    f.write("| weights | class | what is special |\n|---|---|---|\n" + "".join(f"| {a} | {b} | {c} |\n" for a, b, c in rows))
