"""The parts that benchmarks.gpu measures. Each fills a dict, so that what it has found is kept.

A part is called with (figures, args, device): the dict, the options of benchmarks.gpu, and the
torch.device.
"""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import measure, relabel, relabel_epoch, validate, validate_steps
from benchmarks.recover_steps import (
    OPTIONS,
    FoldedAlignment,
    OurStep,
    Reference,
    ReferenceNetworks,
    Work,
    alignments_of,
    measure_memory,
    over_draws,
    possible_draws,
    time_alone,
)
from models.bn_statistics import has_batch_norm
from recover.alignment import NormAlignment
from recover.options import TeacherLaw
from recover.teacher_pool import Teachers
from utils.errors import is_out_of_gpu_memory
from utils.precision import PRECISIONS, Arithmetic

ROOT = Path(__file__).resolve().parents[1]
ORDER = tuple(reversed(PRECISIONS))  # bf16 first: it is what the targets are about
CHECKED = 5  # steps in which waits are counted; the second of them logs its terms


# The device

def device_rates(figures, _args, device):
    """Name, memory and versions; rates of a large matrix product and of a copy."""
    figures["torch"], figures["cuda"] = torch.__version__, torch.version.cuda
    figures["memory"], figures["driver"] = None, None
    side, values = 512, 2**22
    if device.type == "cuda":
        figures["memory"] = torch.cuda.get_device_properties(device).total_memory
        figures["driver"] = driver()
        side, values = 8192, 2**28

    # PyTorch's own choices, which the stages leave as they are
    figures["tf32"] = {"convolutions": torch.backends.cudnn.allow_tf32,
                     "matrix products": torch.get_float32_matmul_precision() != "highest"}
    figures["matrix product, FLOP/s"] = rates = {}
    for name, dtype, allowed in (("bf16", torch.bfloat16, "highest"),
                                 ("fp32", torch.float32, "highest"),
                                 ("tf32", torch.float32, "high")):
        if name != "tf32" or device.type == "cuda":
            rates[name] = 2 * side**3 / product_seconds(side, dtype, allowed, device)

    a = torch.randn(values, device=device)
    b = torch.empty_like(a)
    seconds = measure.in_turn({"copy": lambda: b.copy_(a)}, 5, device)["copy"]
    figures["copy, bytes/s"] = 2 * a.nbytes / seconds  # read and written


def product_seconds(side, dtype, allowed, device):
    """Seconds of a product of two square matrices. allowed: PyTorch's precision of float32."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        return measure.in_turn({"product": lambda: a @ b}, 5, device)["product"]
    finally:
        torch.set_float32_matmul_precision(before)


def driver():
    """The version of the GPU's driver, or None where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return None
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return lines[0] if lines else None


# Recover

class Recover:
    """What recover's parts share: the work, the law, and the networks whose steps are taken."""

    def __init__(self, args, device):
        self.work = Work(args.batch_size, args.image_size, device)
        self.law = TeacherLaw("resnet18", tuple(args.bn_teachers))
        self.draws = possible_draws(self.law)
        self.everyone = Teachers(self.law.primary_teacher, tuple(self.law.everyone))
        self.names = [name for name in self.law.everyone if has_batch_norm(name)]

    def alignments(self, kind, arithmetic):
        return alignments_of(kind, self.names, arithmetic, self.work.device)

    def seconds(self, variants):
        """{variant: seconds} over the law. variants: {name: function of Teachers to a step}."""
        # Times of fifteen sets are averaged, so few calls of each will do.
        warm_up, turns, calls = (2, 3, 3) if self.work.device.type == "cuda" else (1, 1, 1)

        def of(teachers):
            steps = {name: make(teachers) for name, make in variants.items()}
            return measure.in_turn(steps, turns, self.work.device, warm_up, calls)

        return over_draws(self.draws, of)

    def row(self, alignments, units):
        """Figures of our step with as many units: seconds over the law, memory, waits."""
        work, on_gpu = self.work, self.work.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(work.device)
        step = functools.partial(OurStep, work, alignments, units=units)
        seconds = self.seconds({"ours": step})["ours"]
        peak = torch.cuda.max_memory_allocated(work.device) if on_gpu else None

        everyone = step(self.everyone, first=OPTIONS.run.log_every - 3)
        for _ in range(2):
            everyone()
        waits = measure.count_waits(lambda: [everyone() for _ in range(CHECKED)], work.device)
        whole = measure.in_turn({"": everyone}, 1, work.device, warm_up=0)[""]
        return {"units": units, "images": units * work.count, "seconds": seconds,
                "image-steps/s": units * work.count / seconds, "peak bytes": peak,
                "waits": waits, "steps checked": CHECKED, "seconds, all teachers": whole}

    def host_seconds(self, alignments, units):
        """Seconds of a step with all teachers in which a GPU has next to nothing to do.

        Two tiny images per unit: what is left is the time in which the host tells it what to do,
        which a step on real images cannot be shorter than.
        """
        work = Work(2, min(64, self.work.size), self.work.device)
        step = OurStep(work, alignments, self.everyone, units)
        return measure.in_turn({"": step}, 3, work.device)[""]


def recover_eager(figures, args, device):
    """Recover's step, eager: rows of figures for every number of units, {precision: [row]}."""
    recover = Recover(args, device)
    guides = {name: recover.alignments(NormAlignment, Arithmetic(name)) for name in ORDER}
    for units in args.units_per_step:
        for name in ORDER:
            add_row(figures, recover, name, guides[name], units)
            if device.type == "cuda":
                host = recover.host_seconds(guides[name], units)
                figures[name][-1]["host seconds, all teachers"] = host


def add_row(figures, recover, precision, alignments, units):
    """Add Recover.row to the precision's rows, or that it does not fit into the GPU's memory."""
    try:
        row = recover.row(alignments, units)
    except RuntimeError as error:
        if not is_out_of_gpu_memory(error):
            raise
        row = {"units": units, "out of memory": True}
    measure.release(recover.work.device)
    figures.setdefault(precision, []).append(row)
    rate = row.get("image-steps/s")
    text = "out of memory" if rate is None else f"{rate:,.0f} image-steps/s"
    print(f"  {precision}, units {units}: {text}", flush=True)


def recover_compiled(precision, figures, args, device):
    """Recover's step with torch.compile, with the most units: every number would compile anew."""
    recover = Recover(args, device)
    guides = recover.alignments(NormAlignment, Arithmetic(precision, compile=True))
    add_row(figures, recover, precision, guides, max(args.units_per_step))


def recover_memory(figures, args, device):
    """Peak memory of a step with five teachers and with each alone."""
    recover = Recover(args, device)
    variants = {name: Arithmetic(name) for name in ORDER}
    figures.update(measure_memory(recover.names, recover.everyone, variants, recover.work))


def recover_floor(figures, args, device):
    """Seconds of our step, of its floor and of the reference over the law; networks alone."""
    recover, turns = Recover(args, device), 3 if device.type == "cuda" else 1
    for precision in ORDER:
        ours, floor = (recover.alignments(kind, Arithmetic(precision))
                       for kind in (NormAlignment, FoldedAlignment))
        steps = {"ours": functools.partial(OurStep, recover.work, ours),
                 "floor": functools.partial(OurStep, recover.work, floor)}
        if precision == "fp32":
            networks = ReferenceNetworks(recover.law.everyone, device)
            steps["reference"] = functools.partial(Reference, recover.work, networks=networks)
        figures[precision] = {"law": recover.seconds(steps), "alone": {
            name: time_alone(name, {"eager": ours}, {"eager": floor}, recover.work, turns)
            for name in recover.names}}


# The other stages

def options_of(benchmark, args, precision, **values):
    """The options of another benchmark, for the sizes of this one."""
    words = ["--precision", precision, "--image-size", args.image_size,
             "--batch-size", min(50, args.batch_size), "--turns", values.pop("turns")]
    for name, value in values.items():
        words += [f"--{name.replace('_', '-')}", value]
    return benchmark.get_args_parser().parse_args([str(word) for word in words])


def relabel_epochs(figures, args, device):
    """Seconds of an epoch of labels and of the teachers' forward alone."""
    on_gpu = device.type == "cuda"
    for precision in ORDER:
        o = options_of(relabel, args, precision, turns=5 if on_gpu else 1,
                       batches=20 if on_gpu else 2)
        figures[precision] = {"images": o.batches * o.batch_size, **relabel_epoch.measured(
            o, device, ["fp16"], reference=False)}


def validate_epochs(figures, args, device):
    """Seconds of a student's step, and images per second of its tests."""
    on_gpu = device.type == "cuda"
    for precision in ORDER:
        o = options_of(validate, args, precision, turns=5 if on_gpu else 1,
                       test_images=1000 if on_gpu else 8)
        figures[precision] = {"images": o.batch_size, **validate_steps.measured(
            o, device, ["together", "floor"])}


# The tests

def gpu_tests(figures, args, _device):
    """Run pytest -m gpu and count. Raises RuntimeError when a test failed, or pytest itself."""
    marked = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").glob("test_*.py")
                    if "mark.gpu" in path.read_text())
    log = args.output_dir / "gpu_tests.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-o", "addopts=", "-p",
               "no:cacheprovider", "--continue-on-collection-errors", *map(str, marked)]
    try:
        with open(log, "w") as file:
            status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    finally:  # what ran before the time was over counts as well
        text = log.read_text()
        figures.update(count_tests(text), log=log.name)
    bad = figures["failed"]
    if bad:
        raise RuntimeError(f"{len(bad)} GPU tests failed: {', '.join(bad)} (see {log})")
    if status.returncode:
        raise RuntimeError(f"pytest ended with status {status.returncode} (see {log})")


def count_tests(text):
    """{"passed": number, "skipped": number, "failed": [names]} of what pytest -v printed."""
    ends = re.findall(r"^(tests/\S+?::.+?) (PASSED|FAILED|ERROR|SKIPPED)(?= |$)", text, re.M)
    unread = re.findall(r"^ERROR (tests/\S+\.py)(?= |$)", text, re.M)
    return {"passed": sum(fate == "PASSED" for _, fate in ends),
            "skipped": sum(fate == "SKIPPED" for _, fate in ends),
            "failed": [name for name, fate in ends if fate in ("FAILED", "ERROR")] + unread}


MEASURES = {
    "device": device_rates, "recover": recover_eager, "tests": gpu_tests,
    "memory": recover_memory, "relabel": relabel_epochs, "validate": validate_epochs,
    "floor": recover_floor,
    "compiled-bf16": functools.partial(recover_compiled, "bf16"),
    "compiled-fp32": functools.partial(recover_compiled, "fp32")}
