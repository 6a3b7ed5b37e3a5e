"""What the tests of the networks share: changes of one option at a time, which together reach every value of each."""

NETWORKS = ("sunet", "gcunet", "glownet", "sglownet")

CHANGES = {
    "embed_dim": [{"embed_dim": 24, "num_heads": (1, 2, 3, 4)}],
    "patch_size": [{"patch_size": 4}],
    "window_size": [{"window_size": 1}, {"window_size": 5}, {"window_size": 8}],
    "depths": [{"depths": (1, 2, 3, 1)}, {"depths": (1, 1, 1, 6)}],
    "num_heads": [{"num_heads": (2, 1, 4, 8)}],
    "qk_scale": [{"qk_scale": None}, {"qk_scale": 0.5}],
    "drop_path_rate": [{"drop_path_rate": 0.5}],
    "context_ratio": [{"context_ratio": 0.125}, {"context_ratio": 1}],
    "context_pooling": [{"context_pooling": "att"}, {"context_pooling": "avg"}],
    "context_fusion": [{"context_fusion": "mul"}, {"context_fusion": ["add"]}, {"context_fusion": ("mul", "add")}],
    "fusion": [{"fusion": name} for name in ("cross", "gated", "posenc", "gated_posenc", "rope")],
    "denoising_head": [{"denoising_head": True}],
    "global_residual": [{"global_residual": True}],
    "noise_normalisation": [{"noise_normalisation": True}, {"noise_normalisation": True, "global_residual": True}],
    "context_blocks": [{"context_blocks": False}],
    "attention_reach": [{"attention_reach": 3}, {"attention_reach": 1}],
    "training_size": [{"training_size": 16}, {"training_size": 32}],
}
CASES = [(network, change) for network in NETWORKS for changes in CHANGES.values() for change in changes]
IDS = [f"{network}-{'-'.join(f'{k}={v}' for k, v in change.items())}" for network, change in CASES]

# Options of parts that a network lacks: GCUNet has no tokens, SUNet no context.
IGNORED = {
    "sunet": {"context_ratio", "context_pooling", "context_fusion", "fusion", "context_blocks", "attention_reach"},
    "gcunet": {"window_size", "num_heads", "qk_scale", "fusion", "attention_reach", "training_size"},
    "glownet": set(),
    "sglownet": set(),
}


def relative_error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
