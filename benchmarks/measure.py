"""What the benchmarks share: options, timing in turn, peak memory, a text table, a JSON file.

PyTorch is imported when it is needed, so that --help answers at once.
"""

import contextlib
import gc
import io
import json
import multiprocessing
import os
import platform
import re
import statistics
import time
import warnings
from pathlib import Path

from data import run_folder
from utils import distributed, memory, options
from utils.files import write_json
from utils.precision import PRECISIONS

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
CALLS = 5  # in a row on a GPU: one alone would be timed with the wait for its end


# Options

def basic_parser(prog, description):
    """The options of every benchmark."""
    parser = options.Parser(prog=f"benchmarks.{prog}", description=description)
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto",
                        help="auto: a GPU if there is one")
    parser.add_argument("--threads", type=options.thread_count,
                        help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--output", type=options.path,
                        help=f"JSON file (default: results/benchmarks/{prog}_DEVICE.json)")
    return parser


def timing_parser(prog, description, batch_size, image_size=224, turns=5):
    """The options of the benchmarks that time variants in turn, with these defaults."""
    parser = basic_parser(prog, description)
    for name, default, text in (
            ("--batch-size", batch_size, "images in a step"),
            ("--image-size", image_size, "side in pixels"),
            ("--turns", turns, "how often each variant is timed; the median counts")):
        parser.add_argument(name, type=options.positive_int, default=default, help=text)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32",
                        help="number format of the networks; the reference is always fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks, but "
                        "for the reference's")
    return parser


def start(args):
    """Apply --threads and --device. Returns the torch.device."""
    distributed.set_threads(args.threads)
    return distributed.choose_device(args.device)


# Time and memory

def quietly(function, *args):
    """function(*args) without what it prints and its progress bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*args)


def in_turn(variants, turns, device, warm_up=2, calls=None):
    """Median seconds of a call of each variant: {name: seconds}.

    variants: {name: function}. All of them are called one after the other, `turns` times. Before
    that each is called `warm_up` times, so that compilation and first calls are not timed. calls:
    in a row, of which the mean is one time (default: CALLS on a GPU, or one on a CPU).
    """
    calls = calls or (CALLS if device.type == "cuda" else 1)
    for function in variants.values():
        for _ in range(warm_up):
            function()

    times = {name: [] for name in variants}
    for _ in range(turns):
        for name, function in variants.items():
            times[name].append(_seconds(function, calls, device))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _seconds(function, calls, device):
    """Mean seconds of calls in a row. A GPU's are those between two of its own events."""
    _wait(device)
    begin = _now(device)
    for _ in range(calls):
        function()
    end = _now(device)
    _wait(device)
    seconds = begin.elapsed_time(end) / 1e3 if device.type == "cuda" else end - begin
    return seconds / calls


def _now(device):
    """This moment: of the clock, or an event among what a GPU has been told to do."""
    if device.type != "cuda":
        return time.perf_counter()
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def count_waits(function, device):
    """How often the host waits for the GPU in function(), which PyTorch tells; None on a CPU."""
    if device.type != "cuda":
        return None
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def _wait(device):
    """Wait for what a GPU has been told to do."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def peak_memory(device, function, *args):
    """Bytes that function(*args) needs at its peak, beyond what there was before the call.

    On a GPU these are the bytes of PyTorch's allocator. On a CPU they are those of a fresh process,
    which must be able to import the function: it is of a module's top level.
    """
    if device.type == "cuda":
        return _gpu_memory(device, function, args)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_memory, (function, args))


def release(device):
    """Give a GPU's memory that nothing uses any more back to it."""
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def _gpu_memory(device, function, args):
    import torch

    release(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function(*args)
    return torch.cuda.max_memory_allocated(device) - before


def _measure_memory(function, args):
    import torch

    memory.keep_freed_blocks()  # as in the stages
    torch.randn(64, 64).mm(torch.randn(64, 64))  # the first product sets up its library
    Path("/proc/self/clear_refs").write_text("5")  # Linux: importing PyTorch had a peak of its own
    before = _process_memory("VmRSS")
    function(*args)
    return _process_memory("VmHWM") - before


def _process_memory(entry):
    """Bytes of this process: VmRSS at this moment, VmHWM at the peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{entry}:\s*(\d+) kB", status)[1])


# Results

def print_table(title, rows):
    """Print {row: {column: number}}. title: of the first column."""
    widths = {column: max(len(column), 9) + 2 for column in next(iter(rows.values()))}
    first = max(map(len, (title, *rows)))
    print(f"\n{title:{first}}" + "".join(f"{column:>{width}}" for column, width in widths.items()))
    for name, row in rows.items():
        numbers = (f"{row[column]:>{width}.4g}" for column, width in widths.items())
        print(f"{name:{first}}" + "".join(numbers), flush=True)


def hardware(device):
    """What a figure was measured on."""
    import torch

    try:
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        cpu = platform.processor() or platform.machine()
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability()}


def save(args, prog, device, figures):
    """Write the figures into the benchmark's JSON file, {"runs": [one entry for each run]}.

    An entry says what the figures were measured with and on, and replaces an older one with the
    same options on the same hardware. Options that are paths of this machine are left out.
    """
    path = args.output or RESULTS / f"{prog}_{device.type}.json"
    settings = {name: value for name, value in vars(args).items()
                if name not in ("output", "device") and not isinstance(value, Path)}
    entry = {"options": settings, "hardware": hardware(device),
             "versions": run_folder.versions(), **figures}
    entry = json.loads(json.dumps(entry))  # tuples become lists, as in the file

    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    runs = [run for run in runs
            if (run["options"], run["hardware"]) != (entry["options"], entry["hardware"])]
    write_json(path, {"runs": [*runs, entry]})
    print(f"saved in {path}", flush=True)
