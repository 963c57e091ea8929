"""Units that share forwards, from start images to files: progress, loss terms, checkpoints."""

import time

import torch

from data import images
from models.evaluate import accuracy
from models.networks import head_labels
from recover import balance
from recover.loss_log import first_bad_term
from recover.synthesize import UnitState
from recover.unit_files import PREVIEW_IMAGES
from recover.units import frame_steps
from utils.errors import UserError
from utils.progress import write_above

_TENSOR_WORDS = {"x": "a pixel", "exp_avg": "a mean gradient",
                 "exp_avg_sq": "a mean squared gradient"}


class UnitRun:
    """Some units that share forwards, while they are optimised.

    job: recover.inversion.Job. bar: the progress bar, in image-steps.
    """

    def __init__(self, units, job, bar):
        self.units, self.job, self.bar = units, job, bar
        self.options, self.files = job.options, job.files
        self.starts, self.origins, self.states = {}, {}, []
        for unit in units:
            self.starts[unit], x, self.origins[unit] = job.starts.images(unit)
            labels = torch.tensor(unit.classes, device=job.device)
            self.states.append(UnitState(unit, x.to(job.device), labels))

        self.first_step, seconds = self.files.load_checkpoint(units, self.states)
        self.begin = time.monotonic() - seconds
        # What an earlier start has done is no work of this bar.
        bar.total -= sum(unit.image_steps() - unit.image_steps(self.first_step) for unit in units)
        self.film(0, self.states)
        for state in self.states:
            if state.unit.steps <= self.first_step:
                self.save(state)

    def after_step(self, step, active):
        """Show how the units do, keep what is due, and save those whose last step it was."""
        self.show(step, active)
        self.film(step + 1, active)  # before a checkpoint, from which no earlier step comes again
        self.keep(step, active)
        for state in active:
            if step == state.unit.steps - 1:
                self.save(state)

    def finish(self):
        """Remove the checkpoint of finished units."""
        self.files.drop_checkpoint(self.units)

    def show(self, step, active):
        """Move the bar; every log_every steps print loss terms and the verifier's accuracy."""
        self.bar.update(sum(state.unit.joined(step) for state in active))
        names = "-".join(dict.fromkeys([active[0].unit.name, active[-1].unit.name]))
        steps = max(state.unit.steps for state in active)
        self.bar.set_postfix_str(f"{names}, step {step + 1}/{steps}", refresh=False)
        if step % self.options.run.log_every == 0:
            for state in active:
                self.report(state, state.log.arrived())
                if step < state.unit.steps - 1:  # after its last step `save` does
                    self.verify(state, step)

    def film(self, step, active):
        """Save the images of previews as they are after `step` steps, where a frame is due."""
        for state in active:
            unit = state.unit
            due = step in frame_steps(unit.steps, self.options.run.frames)
            if due and unit.preview is not None:
                pixels = self.starts[unit][:PREVIEW_IMAGES]
                if step:
                    pixels = images.to_uint8(state.x.detach()[:PREVIEW_IMAGES]).cpu()
                self.files.save_frames(unit, step, pixels)

    def keep(self, step, active):
        """Save a checkpoint every checkpoint_every steps, while a unit has steps left."""
        due = (step + 1) % self.options.run.checkpoint_every == 0
        if due and any(state.unit.steps > step + 1 for state in active):
            for state in self.states:
                self.report(state, state.log.finish())
                self.check_finite(state, min(step + 1, state.unit.steps))
            self.files.save_checkpoint(self.units, self.states, step + 1, self.seconds())

    def verify(self, state, step):
        """Print how many images a network that does not guide them classifies right (SRe2L).

        Returns {"name", "top1"}, or None without such a network.
        """
        verifier, unit = self.job.verifier, state.unit
        if verifier is None:
            return None
        pixels = images.to_uint8(state.x.detach())
        labels = head_labels(verifier, state.labels)
        top1 = accuracy(verifier, pixels, labels, self.job.device)["top1"]
        write_above(self.bar, f"{unit.name} step {step}/{unit.steps}  verifier {verifier.name} "
                              f"{top1:.1f} %")
        return {"name": verifier.name, "top1": top1}

    def note_balance(self, state):
        """Say it where an addend of a unit's loss outweighs the others, once a run."""
        if self.job.balanced:
            sentence = balance.note(state, self.job.alignments, self.options.losses)
            if sentence is not None:
                write_above(self.bar, f"note: {state.unit.name}: {sentence}")
                self.job.balanced = False

    def report(self, state, rows):
        """Print rows of loss terms. Raises UserError when those of any step were not finite."""
        unit = state.unit
        if state.log.bad is not None:
            step, terms = state.log.bad
            bad = first_bad_term(state.log.bad)
            others = ", ".join(f"{name} {value:.4g}" for name, value in terms.items()
                               if name != bad)
            raise UserError(f"{unit.name}: {bad} is {terms[bad]} at step {step} of {unit.steps}"
                            f"{f' ({others})' if others else ''}. {self.advice()}")
        for step, terms in rows:
            text = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
            write_above(self.bar, f"{unit.name} step {step}/{unit.steps}  {text}")

    def check_finite(self, state, step):
        """Raise UserError when a pixel or its moments are not finite: such are never kept.

        The loss may be finite where they are not. Waits for the device.
        """
        for name, tensor in state.tensors().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise UserError(f"{state.unit.name}: {_TENSOR_WORDS.get(name, name)} is not finite "
                                f"after step {step - 1} of {state.unit.steps}. {self.advice()}")

    def advice(self):
        """What to do about numbers that are not finite."""
        step = self.files.checkpoint_step(self.units)
        kept = f"the state of step {step} is kept" if step else "no state of it was kept"
        return f"A smaller --lr or --r-bn in another --output-dir may help; {kept}."

    def seconds(self):
        """Seconds since the first start of these units, without the time between starts."""
        return round(time.monotonic() - self.begin, 3)

    def save(self, state):
        """Write the images of a unit after its last step, and its record."""
        unit, guided = state.unit, state.unit.steps > 0
        self.report(state, state.log.finish())
        starts, verified = self.starts[unit], None
        pixels = starts  # normalising and back would lose a level
        if guided:
            self.check_finite(state, unit.steps)
            self.note_balance(state)
            verified = self.verify(state, unit.steps - 1)
            pixels = images.to_uint8(state.x.detach()).cpu()

        teachers = {"logit_teacher": None, "bn_teachers": []}
        if guided and unit.fixed:
            teachers = {"logit_teacher": unit.fixed.logit, "bn_teachers": unit.fixed.bn}
        elif guided:
            teachers = {"selection": unit.draws.law.selection}
        possible = unit.possible_logit | unit.possible_bn if guided else ()
        record = {
            "classes": unit.classes, "ipc_ids": unit.ipc_ids, "joins": unit.joins,
            "steps": unit.steps, **teachers,
            "weights": {name: self.job.weights[name] for name in sorted(possible)
                        if name in self.job.weights},
            "start": self.origins[unit],
            "units_together": [other.name for other in self.units],
            "terms": [{"step": step, **terms} for step, terms in state.log.rows],
            "verifier": verified,
            "seconds": self.seconds(),
        }
        rows = {"start": starts}
        self.files.save_unit(unit, rows, pixels, record, self.job.real.classes)
