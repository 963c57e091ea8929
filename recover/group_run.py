"""One group of units from start images to files."""

import time

import torch

from data import images
from models.evaluate import accuracy
from recover.loss_log import first_bad_term
from recover.synthesize import UnitState, synthesize
from utils.errors import UserError
from utils.progress import write_above


class GroupRun:
    """Optimise one group of units that share forwards, with progress, checkpoints and saving."""

    def __init__(self, group, args, starts, alignments, verifier, weights, files, device, bar):
        """starts: recover.start.Starts. verifier: Network or None. weights: {net: fingerprint}, for the records."""
        self.group, self.args, self.alignments, self.verifier = group, args, alignments, verifier
        self.weights, self.files, self.device, self.bar = weights, files, device, bar
        self.starts, self.sources, self.states, self.classes = {}, {}, [], starts.real.classes
        for unit in group:
            self.starts[unit], x, self.sources[unit] = starts.images(unit)
            self.states.append(UnitState(unit, x.to(device), torch.tensor(unit.classes, device=device)))

    def run(self, recipe):
        first, seconds = self.files.load_checkpoint(self.group, self.states)
        self.bar.total -= sum(unit.image_steps() - unit.image_steps(first) for unit in self.group)  # done by an earlier start
        self.begin = time.monotonic() - seconds
        for state in self.states:
            if state.unit.steps <= first:  # iteration 0, or finished before the checkpoint
                self.finish(state)
        synthesize(self.states, self.alignments, recipe, first, self.args.log_every, self.after_step, self.finish)
        self.files.drop_checkpoint(self.group)

    def after_step(self, step, active):
        self.bar.update(sum(s.unit.joined(step) for s in active))
        names = "-".join(dict.fromkeys([active[0].unit.name, active[-1].unit.name]))
        self.bar.set_postfix_str(f"{names}, step {step + 1}/{max(s.unit.steps for s in active)}", refresh=False)
        if step % self.args.log_every == 0:
            for state in active:
                self.report(state, state.log.arrived())
                self.verify(state, step)
        if (step + 1) % self.args.checkpoint_every == 0 and any(s.unit.steps > step + 1 for s in active):
            for state in self.states:
                self.report(state, state.log.finish())
                self.check_finite(state, min(step + 1, state.unit.steps))
            self.files.save_checkpoint(self.group, self.states, step + 1, self.seconds())

    def verify(self, state, step):
        """Print how many of the images a net that does not guide them classifies right (SRe2L's verifier)."""
        if self.verifier is not None:
            top1 = accuracy(self.verifier, images.to_uint8(state.x.detach()), state.labels, self.device)["top1"]
            write_above(self.bar, f"{state.unit.name} step {step}/{state.unit.steps}  verifier {self.verifier.name} {top1:.1f} %")

    def seconds(self):
        """Seconds since this group's first start, without the time it lay still."""
        return round(time.monotonic() - self.begin, 3)

    def report(self, state, rows):
        """Print rows of loss terms; stop when those of any step were not finite."""
        unit = state.unit
        if state.log.bad is not None:
            step, terms = state.log.bad
            bad = first_bad_term(state.log.bad)
            others = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if name != bad)
            raise UserError(f"{unit.name}: {bad} is {terms[bad]} at step {step} of {unit.steps}{f' ({others})' if others else ''}. "
                            f"{self.advice()}")
        for step, terms in rows:
            words = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
            write_above(self.bar, f"{unit.name} step {step}/{unit.steps}  {words}")

    def advice(self):
        """What to do about numbers that are not finite."""
        kept = self.files.checkpoint_step(self.group)
        kept = f"the state of step {kept} is kept" if kept else "no state of it was kept"
        return f"A smaller --lr or --r-bn in another --output-dir may help; {kept}."

    def check_finite(self, state, step):
        """The loss may be finite where a pixel or its moments are not: nothing of that kind may be kept. Waits for the device."""
        for name, tensor in state.tensors().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                what = {"x": "a pixel", "exp_avg": "a mean gradient", "exp_avg_sq": "a mean squared gradient"}.get(name, name)
                raise UserError(f"{state.unit.name}: {what} is not finite after step {step - 1} of {state.unit.steps}. "
                                f"{self.advice()}")

    def finish(self, state):
        """Save a unit after its last step."""
        unit = state.unit
        self.report(state, state.log.finish())
        if unit.steps:
            self.check_finite(state, unit.steps)
        start = self.starts[unit]
        pixels = images.to_uint8(state.x.detach()).cpu() if unit.steps else start  # normalising and back would lose a level
        drawn = {"selection": unit.law.selection}
        if unit.fixed:
            drawn = {"logit_teacher": unit.fixed.logit, "bn_teachers": unit.fixed.bn}
        if not unit.steps:
            drawn = {"logit_teacher": None, "bn_teachers": []}
        record = {
            "classes": unit.classes, "ipc_ids": unit.ipc_ids, "joins": unit.joins, "steps": unit.steps, **drawn,
            "weights": {n: self.weights[n] for n in sorted(unit.possible) if n in self.weights and unit.steps},
            "start": self.sources[unit],
            "units_together": [u.name for u in self.group],
            "terms": [{"step": step, **terms} for step, terms in state.log.rows],
            "seconds": self.seconds(),
        }
        self.files.save_unit(unit, pixels, start, record, self.classes)
