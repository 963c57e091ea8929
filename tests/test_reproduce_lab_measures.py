"""How far images moved from their start."""

import math

import torch

from reproduce.lab_measures import moved


def test_moved_by_hand():
    start = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    images = start.clone()
    images[0, 0, 0, 0], images[1, 2, 1, 1] = 200, 100
    # Two of 24 values changed, by 200 and by 100.
    assert math.isclose(moved(images, start), math.sqrt((200**2 + 100**2) / 24))
    assert moved(start, images) == moved(images, start)
