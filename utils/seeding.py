"""Random streams seeded by what they are for, not by when they are drawn.

The seed of a stream is a SHA-256 hash of its key, such as (seed, "recover", slice, chunk, step). So
a result does not depend on the number of processes, on the order of the work or on restarts, and no
generator state is ever stored.
"""

import contextlib
import hashlib
import json
import random

import numpy as np
import torch


def stable_seed(*key):
    """A 63-bit integer from a key of strings and integers, the same on every machine."""
    text = json.dumps(key, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(*key):
    """A CPU torch.Generator for this key."""
    return torch.Generator().manual_seed(stable_seed(*key))


@contextlib.contextmanager
def seeded(*key):
    """Seed the global generators of torch (CPU), numpy and random from a key.

    Their old state comes back afterwards. For library code that knows only global generators:
    weight initialisation, dropout, torchvision's transforms.
    """
    seed = stable_seed(*key)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextlib.contextmanager
def library_randomness(device, *key):
    """Seed what a network draws by itself on its device (dropout, stochastic depth).

    The generators' old state comes back afterwards.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), seeded(*key):
        if device.type == "cuda":
            torch.cuda.manual_seed(stable_seed(*key))
        yield
