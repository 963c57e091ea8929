"""Loss terms of a unit: of every step on the device, copied to the host now and then without waiting for it."""

import math

import torch


class LossLog:
    """Rows of (step, {term: number}) and the first step whose terms are not all finite.

    Terms are handed over as tensors at every step and stay on the device until a row is kept: then all that have gathered start
    on their way to the host together, and become numbers when the copy has arrived.
    rows: the kept ones. bad: the first (step, {term: number}) with a term that is not finite, kept or not, or None.
    """

    def __init__(self):
        self.rows, self.bad = [], None
        self._gathered, self._on_the_way = [], []

    def add(self, step, terms, keep=True):
        """Note the scalar tensors of `terms`. keep: whether the step becomes a row; the others are only looked at."""
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
        self._on_the_way.append(([noted[:3] for noted in self._gathered], values, event))
        self._gathered = []

    def arrived(self):
        """Move the kept rows whose copies have arrived to self.rows, and return them. Notes the first bad step."""
        new = []
        while self._on_the_way and (self._on_the_way[0][2] is None or self._on_the_way[0][2].query()):
            noted, values, _ = self._on_the_way.pop(0)
            values = iter(values.tolist())
            for step, names, keep in noted:
                row = step, {name: next(values) for name in names}
                if self.bad is None and first_bad_term(row) is not None:
                    self.bad = row
                if keep:
                    new.append(row)
        self.rows += new
        return new

    def finish(self):
        """Send what has gathered and wait for all copies. Returns the rows that arrived with that."""
        self._send()
        for *_, event in self._on_the_way:
            if event is not None:
                event.synchronize()
        return self.arrived()


def first_bad_term(row):
    """Name of the first term of a row (step, {term: number}) that is not finite, or None."""
    return next((name for name, value in row[1].items() if not math.isfinite(value)), None)
