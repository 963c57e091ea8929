"""Measure a GPU within a budget of seconds, the most valuable first.

    sh benchmarks/gpu.sh [--budget 420] [--parts device recover ...]

The parts, in this order:

    device      name, memory, versions; measured rates of matrix products and of a copy
    recover     recover's step over the released law, units per step, bf16 and fp32, eager
    tests       pytest -m gpu
    memory      peak memory with five teachers against the largest alone
    relabel     an epoch of labels beside the teachers' forward
    validate    a student's step and tests
    floor       recover beside its floor, network by network, and beside the plain reference
    compiled-bf16, compiled-fp32    recover with torch.compile, which takes minutes to begin with

A part that the rest of the budget has no time for is left out, and so is what is left of one that
the GPU's memory does not hold. A part that fails is reported in a line and the others go on. The
figures are in a JSON file, which is rewritten after every part. On a CPU sizes are tiny: it shows
that the command works, and nothing about a GPU.
"""

import contextlib
import signal
import sys
import time
import traceback
from dataclasses import dataclass

from benchmarks import gpu_report, measure
from recover.presets import POOL
from utils import options
from utils.errors import explain, is_out_of_gpu_memory, run_entry


@dataclass(frozen=True)
class Part:
    """A part of the measurement.

    expected: seconds on a GPU, an estimate; cpu: on a CPU at tiny size, None where only a GPU has
    it. A part begins when this much of the budget is left. most: seconds after which a GPU's part
    is stopped.
    """

    name: str
    expected: int
    most: int
    cpu: int | None


PARTS = {part.name: part for part in (
    Part("device", 15, 60, 3),
    Part("recover", 40, 150, 20),
    Part("tests", 60, 150, None),
    Part("memory", 15, 60, 60),
    Part("relabel", 25, 75, 8),
    Part("validate", 25, 75, 8),
    Part("floor", 20, 90, 25),
    Part("compiled-bf16", 120, 300, 300),
    Part("compiled-fp32", 120, 300, 300))}

# On a GPU, and on a CPU
SIZES = {"image_size": (224, 64), "batch_size": (100, 4), "units_per_step": ((1, 2, 5), (1, 2))}


class OutOfTime(BaseException):
    """A part's time is over. No Exception: libraries must not handle it."""


def get_args_parser():
    parser = options.Parser(prog="benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto",
                        help="auto: a GPU if there is one")
    parser.add_argument("--budget", type=options.positive_int, default=420,
                        help="seconds for everything")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), metavar="PART",
                        help=f"some of {', '.join(PARTS)} (default: all)")
    for name, text in (("image_size", "side in pixels"),
                       ("batch_size", "images of recover's unit; labels and students take 50 at a "
                                      "time, or as many as this if that is less")):
        parser.add_argument(options.flag(name), type=options.positive_int,
                            help=f"{text} (default: {SIZES[name][0]}, on a CPU {SIZES[name][1]})")
    parser.add_argument("--units-per-step", type=options.positive_int, nargs="+", metavar="N",
                        help="units that share recover's forward (default: 1 2 5, on a CPU 1 2)")
    parser.add_argument("--bn-teachers", nargs="*", default=POOL, metavar="NAME",
                        help="recover's pool of extra BN teachers")
    parser.add_argument("--threads", type=options.thread_count,
                        help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--output-dir", type=options.path, default=measure.RESULTS,
                        help="where gpu_DEVICE.json goes")
    return parser


def main(argv=None):
    end = time.monotonic()
    args = get_args_parser().parse_args(argv)
    end += args.budget
    from benchmarks import gpu_parts  # needs PyTorch, unlike --help

    device = measure.start(args)
    args.output = args.output_dir / f"gpu_{device.type}.json"
    for name, (on_gpu, on_cpu) in SIZES.items():
        if getattr(args, name) is None:
            setattr(args, name, on_gpu if device.type == "cuda" else on_cpu)

    chosen = [part for part in PARTS.values() if part.name in (args.parts or PARTS)]
    figures = {"parts": {}, "left out": {}, "failed": {}}
    for part in chosen:
        take(part, gpu_parts.MEASURES[part.name], figures, args, device, end - time.monotonic())
        measure.release(device)  # the tests are another process
        figures.update(gpu_report.conclusions(figures["parts"], device.type == "cuda", args))
        measure.quietly(measure.save, args, "gpu", device, figures)

    print("\n" + gpu_report.text(figures, measure.hardware(device)))
    print(f"saved in {args.output}", flush=True)
    if figures["failed"]:
        sys.exit(1)


def take(part, measure_part, figures, args, device, left):
    """Measure a part, unless there is no time, and print a line about it.

    measure_part: fills the dict that it is given, whose content is kept when the part is stopped or
    fails. left: seconds of the budget.
    """
    on_gpu = device.type == "cuda"
    needed, most = (part.expected, part.most) if on_gpu else (part.cpu, left)
    if needed is None or needed > left:
        why = "needs a GPU" if needed is None else "budget"
        figures["left out"][part.name] = why
        print(f"{part.name}: left out: {why}", flush=True)
        return

    begin, of_part, fate = time.monotonic(), figures["parts"].setdefault(part.name, {}), "measured"
    try:
        with at_most(min(most, left)):
            measure_part(of_part, args, device)
    except OutOfTime:
        if most < left:
            fate = f"failed: not finished after {most} s"
            figures["failed"][part.name] = {"error": fate}
        else:
            fate = "stopped: budget"
            figures["left out"][part.name] = "budget, when it had begun"
    except Exception as error:
        if is_out_of_gpu_memory(error):
            fate = figures["left out"][part.name] = "out of GPU memory"
        else:
            line = explain(error) or f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
            fate = f"failed: {line}"
            figures["failed"][part.name] = {"error": line, "traceback": traceback.format_exc()}
    print(f"{part.name}: {fate} ({time.monotonic() - begin:.0f} s)", flush=True)


@contextlib.contextmanager
def at_most(seconds):
    """Raise OutOfTime inside the block after this many seconds. For the main thread.

    Then again every second, because a destructor and a C++ callback swallow what is raised in them.
    """
    def stop(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    run_entry(main)
