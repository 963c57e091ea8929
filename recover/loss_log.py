"""Loss terms of a unit, copied from the device to the host now and then without waiting for it."""

import collections
import math

import torch

LATEST = 50  # steps


class LossLog:
    """Rows of (step, {term: number}), and the first step whose terms are not all finite.

    Terms are handed over as tensors at every step and stay on the device until a row is kept. Then
    all that have gathered start on their way to the host together, and become numbers when the copy
    has arrived. rows: the kept ones. latest: those of the last LATEST steps, kept or not. bad: the
    first one with a term that is not finite, kept or not, or None.
    """

    def __init__(self):
        self.rows, self.bad, self.latest = [], None, collections.deque(maxlen=LATEST)
        self._gathered, self._copying = [], []

    def add(self, step, terms, keep=True):
        """Note the scalar tensors of `terms`. keep: whether the step becomes a row."""
        self._gathered.append((step, list(terms), keep, torch.stack(list(terms.values()))))
        if keep:
            self._send()

    def _send(self):
        """Start copying what has gathered to the host."""
        if not self._gathered:
            return
        values, event = torch.cat([values for *_, values in self._gathered]), None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            values = host
        self._copying.append(([entry[:3] for entry in self._gathered], values, event))
        self._gathered = []

    def arrived(self):
        """Move the kept rows whose copies have arrived to self.rows, and return them."""
        new = []
        while self._copying and (self._copying[0][2] is None or self._copying[0][2].query()):
            entries, values, _ = self._copying.pop(0)
            values = iter(values.tolist())
            for step, names, keep in entries:
                row = step, {name: next(values) for name in names}
                self.latest.append(row)
                if self.bad is None and first_bad_term(row) is not None:
                    self.bad = row
                if keep:
                    new.append(row)
        self.rows += new
        return new

    def finish(self):
        """Send what has gathered and wait for all copies. Returns the rows that arrived with it."""
        self._send()
        for *_, event in self._copying:
            if event is not None:
                event.synchronize()
        return self.arrived()


def first_bad_term(row):
    """Name of the first term of a row (step, {term: number}) that is not finite, or None."""
    return next((name for name, value in row[1].items() if not math.isfinite(value)), None)
