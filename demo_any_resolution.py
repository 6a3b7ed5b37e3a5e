#!/usr/bin/env python3
"""Denoise every picture of a folder: the paper's own command line, a thin door to glowlib."""

from glowlib.evaluation.denoise_folder import main

if __name__ == "__main__":
    main()
