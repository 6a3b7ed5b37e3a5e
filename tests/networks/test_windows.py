"""Windows of a token grid: the mask by hand, partition and its inverse."""

import pytest
import torch
from by_hand import randn

from glowlib.networks.windows import pad_to_windows, partition, reverse, window_mask


def test_window_mask_by_hand():
    """A row of five tokens, window 2, shifted by one: [1 2] [3 4] [pad 0], and 0 came round."""
    assert window_mask(4, 4, 2, 0, torch.device("cpu")) is None
    mask = window_mask(2, 5, 2, 0, torch.device("cpu"))
    inf = torch.inf
    assert mask.shape == (3, 4, 4)
    assert not mask[:2].any()
    # Columns 4 and padding: real queries (0 and 2) do not see keys 1 and 3; padded queries are left free.
    assert mask[2].tolist() == [[0, -inf, 0, -inf], [0, 0, 0, 0], [0, -inf, 0, -inf], [0, 0, 0, 0]]
    shifted = window_mask(2, 4, 2, 1, torch.device("cpu"))
    # Rows came round everywhere (one window high); columns only in the last window.
    assert shifted[0].tolist() == [[0, 0, -100, -100], [0, 0, -100, -100], [-100, -100, 0, 0], [-100, -100, 0, 0]]
    assert (shifted[1] == -100.0 * (1 - torch.eye(4))).all()


@pytest.mark.parametrize(("height", "width", "window", "shift"), [(1, 1, 8, 4), (5, 3, 4, 2), (9, 17, 8, 4)])
def test_no_query_is_left_without_a_key(height, width, window, shift):
    mask = window_mask(height, width, window, shift, torch.device("cpu"))
    assert (mask > -torch.inf).any(-1).all()


@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 4), (7, 10, 4), (1, 3, 2), (3, 5, 1)])
def test_windows_are_squares_of_the_grid_and_can_be_put_back(height, width, window):
    x = randn(2, height, width, 3)
    windows = partition(pad_to_windows(x, window), window)
    columns = -(-width // window)
    assert windows.shape == (2, -(-height // window) * columns, window**2, 3)
    for row in range(height):
        for column in range(width):
            at = row // window * columns + column // window, row % window * window + column % window
            assert torch.equal(windows[:, at[0], at[1]], x[:, row, column])
    assert torch.equal(reverse(windows, height, width, window), x)
