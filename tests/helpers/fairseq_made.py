"""Write a small checkpoint with fairseq-signals itself, of any of its networks; runs in its environment.

python fairseq_made.py NAME OUT.pt
"""

import sys

import torch
from fairseq_signals.models import build_model

TRANSFORMER = {
    "conv_feature_layers": "[(16, 2, 2)] * 4",
    "encoder_layers": 2,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 3,
    "conv_pos": 16,
    "conv_pos_groups": 2,
    "layer_norm_first": False,
    "conv_bias": False,
    "extractor_mode": "default",
}
SIZES = {
    "ecg_transformer_classifier": {**TRANSFORMER, "num_labels": 5},
    "wav2vec2_cmsc": {**TRANSFORMER, "quantize_targets": True, "latent_vars": 8, "latent_dim": 0, "final_dim": 16},
    "nejedly2021resnet_classifier": {"num_blocks": 2, "num_filters": 8, "kernel_size": "[15, 9]", "num_labels": 5},
    "se_wrn_classifier": {"num_blocks": 1, "num_filters": "[8, 8, 16]", "num_labels": 5},
}


def main(name: str, path: str) -> None:
    """Build the network as fairseq-signals starts it, its weights twice as large, and save it as it does."""
    cfg = {"_name": name, "in_d": 12, "normalize": False, "filter": False, "data": "", "args": None, **SIZES[name]}
    if name.endswith("classifier"):
        cfg["no_pretrained_weights"] = True
    torch.manual_seed(0)
    model = build_model(cfg, None)
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    state = {
        "args": None,
        "cfg": {"model": cfg},
        "model": {name: 2 * tensor for name, tensor in model.state_dict().items()},
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"metrics": {}, "previous_training_time": 0, "train_iterator": {"epoch": 1}},
    }
    torch.save(state, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
