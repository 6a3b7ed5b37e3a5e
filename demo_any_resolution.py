#!/usr/bin/env python3
"""Denoise every image of a folder: the paper's own command line, the same as `python -m glowlib denoise`."""

from glowlib.evaluation.denoise_folder import main

if __name__ == "__main__":
    main()
