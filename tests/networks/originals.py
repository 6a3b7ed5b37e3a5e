"""State dicts as the original implementation would write them."""

import torch


def as_original(model):
    """The state dict the original would save for `model`: with derived buffers and never-used tensors."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, dim = model.config, model.config.embed_dim
    stages = [(f"layers.{i}.blocks", i) for i in range(4)]
    stages += [(f"layers_up.{k}.blocks", 3 - k) for k in (1, 2, 3)]
    stages = stages if model.name != "gcunet" else []
    stages += [("bottleneck.block.blocks", 3)] if config.denoising_head else []
    for blocks, i in stages:
        grid = config.training_size // config.patch_size // 2**i
        window = min(grid, config.window_size)
        for j in range(config.depths[i]):
            state[f"{blocks}.{j}.attn.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.long)
            if j % 2 and grid > window and window > 1:
                state[f"{blocks}.{j}.attn_mask"] = torch.zeros((grid // window) ** 2, window**2, window**2)
    if model.name in ("sunet", "gcunet"):
        state["prelu.weight"] = torch.ones(1)
    if model.name == "glownet":
        state["gc_norm_up.weight"] = torch.ones(dim)
        state["gc_norm_up.num_batches_tracked"] = torch.tensor(0)
    if model.name == "sglownet":
        state["gc_upsample_blocks.2.conv.weight"] = torch.ones(2 * dim, 4 * dim, 1, 1)
    return state
