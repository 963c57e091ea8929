"""Loss terms of a unit, copied from the device without waiting for it."""

import math

import torch


class LossLog:
    """Rows of (step, {term: number}). Terms are handed over as tensors and become numbers when their copy has arrived."""

    def __init__(self):
        self.rows = []
        self._on_the_way = []

    def add(self, step, terms):
        """Start copying the scalar tensors of `terms` to the host."""
        values = torch.stack(list(terms.values()))
        event = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            values = host
        self._on_the_way.append((step, list(terms), values, event))

    def arrived(self):
        """Move the rows whose copies have arrived to self.rows, and return them."""
        new = []
        while self._on_the_way and (self._on_the_way[0][3] is None or self._on_the_way[0][3].query()):
            step, names, values, _ = self._on_the_way.pop(0)
            new.append((step, dict(zip(names, values.tolist(), strict=True))))
        self.rows += new
        return new

    def finish(self):
        """Wait for the copies that are still on their way. Returns the rows that arrived with that."""
        for *_, event in self._on_the_way:
            if event is not None:
                event.synchronize()
        return self.arrived()


def first_bad_term(row):
    """Name of the first term of a row (step, {term: number}) that is not finite, or None."""
    return next((name for name, value in row[1].items() if not math.isfinite(value)), None)
