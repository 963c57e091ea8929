"""What the benchmarks share: variants timed in turn in one process, peak memory in a process of its own, a table, a JSON file."""

import contextlib
import io
import json
import multiprocessing
import os
import platform
import re
import statistics
import time
from pathlib import Path

import torch

from data import run_folder
from utils import distributed, options, precision
from utils.files import write_json
from utils.host_memory import keep_freed_memory

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"


def get_args_parser(prog, description, batch_size, image_size=224, turns=5):
    """Options that all benchmarks have."""
    parser = options.Parser(prog=f"benchmarks.{prog}", description=description)
    parser.add_argument("--batch-size", type=options.positive_int, default=batch_size, help="images a step")
    parser.add_argument("--image-size", type=options.positive_int, default=image_size, help="side in pixels")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--threads", type=options.positive_int, default=None, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--turns", type=options.positive_int, default=turns, help="times each variant is measured; medians count")
    parser.add_argument("--output", type=options.path, help=f"JSON file (default: results/benchmarks/{prog}_DEVICE.json)")
    precision.add_arguments(parser)
    return parser


def start(args):
    """Apply --threads and --device, and keep freed memory as the stages do. Returns the torch.device."""
    options.set_threads(args.threads)
    keep_freed_memory()
    return distributed.choose_device(args.device)


def quietly(function, *args):
    """function(*args) without what it prints and its progress bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*args)


def wait(device):
    """Wait for what a GPU has been told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(variants, turns, device, warm_up=2):
    """Median seconds of each variant. variants: {name: function}, called one after the other, `turns` times all of them.

    Before that each is called `warm_up` times, so that compilation and first calls are not timed.
    """
    for function in variants.values():
        for _ in range(warm_up):
            function()
    times = {name: [] for name in variants}
    for _ in range(turns):
        for name, function in variants.items():
            wait(device)
            begin = time.perf_counter()
            function()
            wait(device)
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in times.items()}


def peak_memory(function, *args):
    """Bytes that function(*args) needs at its peak, in a fresh process; what PyTorch takes by itself is left out.

    function: importable (module level), its last argument gets a torch.device. On a GPU: of PyTorch's allocator. On a CPU: of the
    process, from before the call.
    """
    context = multiprocessing.get_context("spawn")
    pool = context.Pool(1)
    try:
        return pool.apply(_measure_memory, (function, args))
    finally:
        pool.close()
        pool.join()


def _measure_memory(function, args):
    device = args[-1]
    keep_freed_memory()
    if device.type == "cuda":
        function(*args)
        return torch.cuda.max_memory_allocated(device)
    torch.randn(64, 64).mm(torch.randn(64, 64))  # what the first product sets up
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux): importing PyTorch had one of its own
    before = _process_memory("VmRSS")
    function(*args)
    return _process_memory("VmHWM") - before


def _process_memory(entry):
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    return 1024 * int(re.search(rf"{entry}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def processor_name():
    """The CPU's name as the system gives it."""
    try:
        with open("/proc/cpuinfo") as file:
            return re.search(r"model name\s*: (.*)", file.read())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def hardware(device):
    """What a figure was measured on."""
    found = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "cpu": processor_name(),
             "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {**found, "instructions": torch.backends.cpu.get_cpu_capability()}


def table(header, rows):
    """Text table: numbers to the right, words to the left. rows: lists of words or numbers (three significant digits)."""
    text = [list(header), *([word if isinstance(word, str) else f"{word:.3g}" if word < 100 else f"{word:.0f}" for word in row]
                            for row in rows)]
    widths = [max(len(row[c]) for row in text) for c in range(len(header))]
    lines = ["  ".join(word.ljust(w) if c == 0 else word.rjust(w) for c, (word, w) in enumerate(zip(row, widths, strict=True)))
             for row in text]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def save(args, prog, device, content):
    """Write the figures beside what they were measured on and with: one entry a set of options, an older one is replaced.

    Options that are paths of this machine are left out.
    """
    path = args.output or RESULTS / f"{prog}_{device.type}.json"
    settings = {name: value for name, value in vars(args).items()
                if name not in ("output", "device") and not isinstance(value, Path)}
    entry = {"options": settings, "hardware": hardware(device), "versions": run_folder.versions(), **content}
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    runs = [run for run in runs if (run["options"], run["hardware"]) != (entry["options"], entry["hardware"])]
    write_json(path, {"runs": [*runs, entry]})
    print(f"saved in {path}", flush=True)
