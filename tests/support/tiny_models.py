"""Small DiffusionGemma models with random weights, and folders of them in the formats that the engine reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lacuna_ls.engine.checkpoint import save_folder, their_name
from lacuna_ls.engine.config import LayerSpec, ModelConfig
from lacuna_ls.engine.model import DiffusionGemma
from safetensors.torch import save_file
from torch import Tensor


def tiny_config(**changes) -> ModelConfig:
    """Four layers, both kinds of attention, sizes that are multiples of 16 and of nothing more comfortable."""
    sliding = LayerSpec("sliding_attention", 16, 2, 16, 1e4, 8, True)
    full = LayerSpec("full_attention", 32, 1, None, 1e6, 4, False)
    values = {
        "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_heads": 4,
        "layers": (sliding, full, sliding, full), "num_experts": 4, "top_k": 2, "expert_size": 32, "rms_norm_eps": 1e-6,
        "softcap": 30.0, "max_positions": 2048, "pad_id": 0, "bos_id": 2, "eos_ids": (1,), "canvas_length": 8,
    }  # fmt: skip
    return ModelConfig(**{**values, **changes})


def tiny_model(config: ModelConfig, seed: int = 0) -> DiffusionGemma:
    """fp32 weights large enough that logits differ by several nats, norms and scalars unlike one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = DiffusionGemma(config)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if "layer_scalar" in name:
            state[name] = 0.8 + 0.2 * torch.rand(tensor.shape, generator=generator)
        elif tensor.dim() == 1:
            state[name] = 1 + 0.1 * noise
        else:
            state[name] = noise * 1.5 * tensor.shape[-1] ** -0.5
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def save_shards(model: DiffusionGemma, folder: Path, num_shards: int = 3) -> Path:
    """As save_pretrained shards a large model: an index, and the tensors dealt out over several files."""
    save_folder(model, folder)
    (folder / "model.safetensors").unlink()
    tensors = {their_name(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    return write_files(tensors, folder, num_shards)


def write_files(tensors: dict[str, Tensor], folder: Path, num_shards: int) -> Path:
    weight_map: dict[str, str] = {}
    names = sorted(tensors)
    for i in range(num_shards):
        file = f"model-{i + 1:05}-of-{num_shards:05}.safetensors"
        part = {name: tensors[name] for name in names[i::num_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def linear_weights(model: DiffusionGemma) -> dict[str, Tensor]:
    """Every matrix that published quantised checkpoints quantise, by their name: attention and experts, one by one."""
    found: dict[str, Tensor] = {}
    width = model.config.expert_size
    for name, tensor in model.state_dict().items():
        if "self_attn" in name and tensor.dim() == 2:
            found[their_name(name)] = tensor
        elif name.endswith("experts.gate_up_proj"):
            for e in range(len(tensor)):
                at = their_name(name).removesuffix("gate_up_proj")
                found[f"{at}{e}.gate_proj.weight"] = tensor[e, :width]
                found[f"{at}{e}.up_proj.weight"] = tensor[e, width:]
        elif name.endswith("experts.down_proj"):
            for e in range(len(tensor)):
                found[f"{their_name(name).removesuffix('down_proj')}{e}.down_proj.weight"] = tensor[e]
    return found


def rest_of(model: DiffusionGemma) -> dict[str, Tensor]:
    """What those checkpoints leave in 16 bits (here 32)."""
    state = model.state_dict()
    kept = {n: t for n, t in state.items() if not ("self_attn" in n and t.dim() == 2) and ".experts." not in n}
    return {their_name(name): tensor.contiguous() for name, tensor in kept.items()}


def save_int4(model: DiffusionGemma, folder: Path, group_size: int = 32, num_shards: int = 2) -> Path:
    """compressed-tensors, pack-quantized. The model's weights become what the checkpoint means, so it is the truth."""
    write_config(
        model, folder, "pack-quantized", {"num_bits": 4, "type": "int", "symmetric": True, "group_size": group_size}
    )
    tensors = rest_of(model)
    for name, weight in linear_weights(model).items():
        N, K = weight.shape
        groups = weight.reshape(N, K // group_size, group_size)
        scale = (groups.abs().amax(-1) / 7.5).to(torch.bfloat16)
        codes = (groups / scale.float()[..., None]).round().clamp(-8, 7)
        weight.copy_((codes * scale.float()[..., None]).view(N, K))
        unsigned = (codes.view(N, K).to(torch.int64) + 8).view(N, K // 8, 8)
        words = (unsigned << (4 * torch.arange(8))).sum(-1)
        tensors[f"{name}_packed"] = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
        tensors[f"{name}_scale"] = scale
        tensors[f"{name}_shape"] = torch.tensor([N, K])
    return write_files(tensors, folder, num_shards)


def save_nvfp4(model: DiffusionGemma, folder: Path, num_shards: int = 2) -> Path:
    """compressed-tensors, nvfp4-pack-quantized. The model's weights become what the checkpoint means."""
    write_config(model, folder, "nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "group_size": 16})
    tensors = rest_of(model)
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    for name, weight in linear_weights(model).items():
        N, K = weight.shape
        groups = weight.reshape(N, K // 16, 16)
        divisor = torch.tensor([448.0 * 6.0 / float(weight.abs().max())])
        scale = (groups.abs().amax(-1) / 6 * divisor).to(torch.float8_e4m3fn)
        real = scale.float() / divisor
        magnitude = ((groups / real[..., None]).abs()[..., None] - values).abs().argmin(-1)
        weight.copy_((values[magnitude] * groups.sign() * real[..., None]).view(N, K))
        codes = (magnitude + 8 * (groups < 0)).view(N, K // 2, 2).to(torch.uint8)
        tensors[f"{name}_packed"] = codes[..., 0] | (codes[..., 1] << 4)
        tensors[f"{name}_scale"] = scale
        tensors[f"{name}_global_scale"] = divisor
        tensors[name.removesuffix("weight") + "input_global_scale"] = torch.ones(1)
    return write_files(tensors, folder, num_shards)


def write_config(model: DiffusionGemma, folder: Path, form: str, weights: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    quantisation = {
        "quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": {"weights": weights}},
    }  # fmt: skip
    config = {**model.config.to_dict(), "quantization_config": quantisation}
    (folder / "config.json").write_text(json.dumps(config))
