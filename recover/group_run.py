"""One group of units from start images to files."""

import time

import torch

from recover.loss_log import first_bad_term
from recover.start import start_images
from recover.synthesize import UnitState, synthesize
from utils import images
from utils.errors import UserError
from utils.progress import write_above


class GroupRun:
    """Optimise one group of units that share forwards, with progress, checkpoints and saving."""

    def __init__(self, group, args, settings, real, networks, weights, files, device, bar):
        """weights: {net: fingerprint}, for the records."""
        self.group, self.args, self.real = group, args, real
        self.networks, self.weights, self.files, self.bar = networks, weights, files, bar
        self.starts, self.sources, self.states = {}, {}, []
        for unit in group:
            self.starts[unit], x, self.sources[unit] = start_images(unit, real, settings, args.workers)
            self.states.append(UnitState(unit, x.to(device), torch.tensor(unit.classes, device=device)))

    def run(self, recipe):
        first, seconds = self.files.load_checkpoint(self.group, self.states)
        self.bar.total -= sum(len(s) * min(first, s.unit.steps) for s in self.states)  # done by an earlier start
        self.begin = time.monotonic() - seconds
        for state in self.states:
            if state.unit.steps <= first:  # iteration 0, or finished before the checkpoint
                self.finish(state)
        synthesize(self.states, self.networks, recipe, first, self.args.log_every, self.after_step, self.finish)
        self.files.drop_checkpoint(self.group)

    def after_step(self, step, active):
        self.bar.update(sum(len(s) for s in active))
        self.bar.set_postfix_str(f"slice {active[0].unit.ipc_id}-{active[-1].unit.ipc_id}, chunk {active[0].unit.chunk}, "
                                 f"step {step + 1}/{max(s.unit.steps for s in active)}", refresh=False)
        if step % self.args.log_every == 0:
            for state in active:
                self.report(state, state.log.arrived())
        if (step + 1) % self.args.checkpoint_every == 0 and any(s.unit.steps > step + 1 for s in active):
            for state in self.states:
                self.report(state, state.log.finish())
            self.files.save_checkpoint(self.group, self.states, step + 1, self.seconds())

    def seconds(self):
        """Seconds since this group's first start, without the time it lay still."""
        return round(time.monotonic() - self.begin, 1)

    def report(self, state, rows):
        """Print rows of loss terms; stop at one that is not finite."""
        unit = state.unit
        for row in rows:
            step, terms = row
            bad = first_bad_term(row)
            if bad is not None:
                raise UserError(f"{unit.name}: {bad} is {terms[bad]} at step {step}. A smaller --lr or --r-bn may help; the last "
                                "checkpoint is kept.")
            words = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
            write_above(self.bar, f"slice {unit.ipc_id} chunk {unit.chunk} step {step}/{unit.steps}  {words}")

    def finish(self, state):
        """Save a unit after its last step."""
        unit = state.unit
        self.report(state, state.log.finish())
        start = self.starts[unit]
        pixels = images.to_uint8(state.x.detach()).cpu() if unit.steps else start  # normalising and back would lose a level
        record = {
            "ipc_id": unit.ipc_id, "chunk": unit.chunk, "steps": unit.steps,
            "logit_teacher": unit.logit_teacher if unit.steps else None, "bn_teachers": unit.bn_teachers if unit.steps else [],
            "weights": {n: self.weights[n] for n in (unit.logit_teacher, *unit.bn_teachers) if n in self.weights},
            "start": dict(zip([self.real.classes[c] for c in unit.classes], self.sources[unit], strict=True)),
            "units_together": [u.name for u in self.group],
            "terms": [{"step": step, **terms} for step, terms in state.log.rows],
            "seconds": self.seconds(),
        }
        self.files.save_unit(unit, pixels, start, record, self.real.classes)
