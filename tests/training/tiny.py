"""What the tests of training train: four networks, by one short recipe."""

NETWORKS = ("sunet", "gcunet", "glownet", "sglownet")
STEPS = 4
RECIPE = {
    "data": "tiny",
    "hold_out": 2,
    "steps": STEPS,
    "batch_size": 2,
    "crop": 32,
    "lr": 1e-3,
    "warmup": 2,
    "weight_decay": 0.01,
    "precision": "float32",
    "validate_every": 2,
    "checkpoint_every": 1,
}
