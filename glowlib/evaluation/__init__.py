"""Scores and restored images: how networks and classical methods are used and compared.

In reading order: tiling.py (an image of any size through a network), denoise_folder.py (the
command for a folder of pictures), classical.py and classical.yaml (classical methods, tuned), peers.py (other authors'
denoisers), benchmark.py (a row for each method and image), statistics.py (intervals and tests), tables.py and
published_results.csv (what is printed).
"""
