"""The networks in other programs. Each module needs packages of its own, which `pip install glowlib[…]` brings.

deepinv.py (extra "deepinv"): a denoiser for DeepInverse's inverse problems. export.py (extra "export"): files for other
runtimes. backends.py (extras "export", "openvino"): such files restore images through `glowlib.denoise`. Beside them,
`load_pretrained("owner/name")` reads the Hugging Face Hub (extra "hub"), and hubconf.py serves torch.hub (no extra).
"""
