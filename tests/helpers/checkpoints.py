"""Small checkpoints in the layout that fairseq-signals saves, with random weights."""

import io
from typing import Any

import torch
from torch import Tensor

CFG: dict[str, Any] = {
    "_name": "ecg_transformer_classifier",
    "extractor_mode": "default",
    "in_d": 12,
    "conv_feature_layers": "[(6, 2, 2)] * 2",
    "conv_bias": False,
    "encoder_embed_dim": 8,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_embed_dim": 16,
    "layer_norm_first": False,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "no_pretrained_weights": True,
    "num_labels": 3,
}

POSITION = "encoder.conv_pos.pos_conv.0"
POSITION_LENGTH = f"{POSITION}.parametrizations.weight.original0"
POSITION_DIRECTION = f"{POSITION}.parametrizations.weight.original1"


def classifier(outputs: int = 3, stride: int = 2) -> dict[str, Any]:
    """A classifier: the network below `encoder.`, and a head, `proj`.

    Args:
        outputs: Of the head.
        stride: Of each of the two convolutions. With 4 a segment has as many tokens as with ECG-FM, and a whole run
            takes a sixth of the CPU time less.
    """
    shapes = {
        "encoder.feature_extractor.conv_layers.0.0.weight": (6, 12, stride),
        **_norm("encoder.feature_extractor.conv_layers.0.2", 6),
        "encoder.feature_extractor.conv_layers.1.0.weight": (6, 6, stride),
        **_norm("encoder.layer_norm", 6),
        **_linear("encoder.post_extract_proj", 8, 6),
        f"{POSITION}.bias": (8,),
        POSITION_LENGTH: (1, 1, 4),
        POSITION_DIRECTION: (8, 4, 4),
        **_norm("encoder.encoder.layer_norm", 8),
        **_linear("proj", outputs, 8),
    }
    for layer in ("encoder.encoder.layers.0", "encoder.encoder.layers.1"):
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{projection}", 8, 8)
        shapes |= {**_norm(f"{layer}.self_attn_layer_norm", 8), **_norm(f"{layer}.final_layer_norm", 8)}
        shapes |= {**_linear(f"{layer}.fc1", 16, 8), **_linear(f"{layer}.fc2", 8, 16)}
    generator = torch.Generator().manual_seed(0)
    model = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    extra = {"metrics": {}, "previous_training_time": 0, "train_iterator": {"epoch": 1}}
    cfg = CFG | {"num_labels": outputs, "conv_feature_layers": f"[(6, {stride}, {stride})] * 2"}
    content: dict[str, Any] = {"cfg": {"model": cfg}, "model": model, "args": None}
    return content | {"optimizer_history": [history], "task_state": {}, "extra_state": extra}


def pretrained(stride: int = 2) -> dict[str, Any]:
    """The same network as `classifier()` as it comes out of pretraining: no head, and what only pretraining uses."""
    content = classifier(stride=stride)
    content["cfg"]["model"] |= {"_name": "wav2vec2_cmsc", "quantize_input": False}
    del content["cfg"]["model"]["num_labels"]
    model: dict[str, Tensor] = content["model"]
    content["model"] = {
        name.removeprefix("encoder."): tensor for name, tensor in model.items() if not name.startswith("proj.")
    } | {
        "mask_emb": torch.zeros(8),
        "quantizer.vars": torch.zeros(1, 4, 4),
        "quantizer.weight_proj.weight": torch.zeros(4, 6),
        "project_q.weight": torch.zeros(8, 4),
        "final_proj.bias": torch.zeros(8),
    }
    return content


def _linear(name: str, out: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def saved(content: object, **options: bool) -> bytes:
    """The bytes of a .pt file."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()
