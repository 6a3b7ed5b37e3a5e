"""Images in and out, noise, data sets and training crops.

In reading order: images.py (any kind of image as a float tensor, and back), image_files.py (image files read and
written), noise.py (the two noise protocols), metrics.py (PSNR and SSIM), datasets.py (named sets, checked by
manifest.csv), download.py (sets fetched from their public addresses), crops.py (random noisy crops), synthetic.py
(crops that are drawn), paper_pairs.py (the paper's prepared pairs).
"""
