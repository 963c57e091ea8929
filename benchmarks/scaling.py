"""How recover grows with IPC, classes, steps, teachers and the training folder.

    python -m benchmarks.scaling

Recover runs as a whole on random images with teachers of random weights, with one, two and four
times as much of each quantity. Seconds are those of the optimisation, from the units' records;
memory is the peak of the process. The folder grows by files that no unit starts from, so there the
seconds are those of listing it.
"""

import math
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from recover import data_synthesis
from utils.errors import run_entry
from utils.files import read_json

TEACHERS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5")
TIMES = (1, 2, 4)
BASE = {"ipc": 1, "classes": 8, "steps": 40, "teachers": 1}
FILES = 2000


def main(argv=None):
    parser = measure.timing_parser("scaling", "Measure how recover grows.", batch_size=8,
                                   image_size=32, turns=3)
    args = parser.parse_args(argv)
    device = measure.start(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_teachers(folder / "teachers", args.image_size)
        points = {quantity: [grow(quantity, times, folder, args, device) for times in TIMES]
                  for quantity in BASE}
        points["files of the folder"] = [
            (time_listing(folder / f"files{times}", FILES * times, args), None) for times in TIMES]

    rows = {}
    for quantity, measured in points.items():
        for times, (seconds, memory) in zip(TIMES, measured, strict=True):
            rows[f"{quantity} x {times}"] = {
                "seconds": seconds, "times as long": seconds / measured[0][0],
                "peak MB": math.nan if memory is None else memory / 1e6}
    measure.print_table("", rows)
    measure.save(args, "scaling", device, {"seconds, bytes": points})


def make_teachers(folder, size):
    """Random teachers of the most classes; fewer classes pick their columns of the head."""
    from benchmarks.plain_views import class_names  # here and below: --help needs no PyTorch
    from models.networks import build, save_network

    classes = class_names(BASE["classes"] * TIMES[-1])
    for name in TEACHERS:
        network = build(name, len(classes), seed=("scaling", name))
        network.classes = classes
        save_network(folder / f"{name}.safetensors", network, {"image_size": size})


def grow(quantity, times, folder, args, device):
    """(median seconds, peak bytes) of recover with `times` as much of a quantity."""
    sizes = {**BASE, quantity: BASE[quantity] * times}
    seconds = statistics.median(recover(sizes, folder, args, device) for _ in range(args.turns))
    return seconds, measure.peak_memory(device, recover, sizes, folder, args, device)


def recover(sizes, folder, args, device):
    """Run recover with teachers in `folder`. Returns the seconds that its units took."""
    from benchmarks.plain_views import random_images

    with tempfile.TemporaryDirectory() as output:
        train, run = Path(output, "train"), Path(output, "run")
        random_images(train, sizes["classes"] * sizes["ipc"], args.image_size, sizes["classes"])
        primary, *others = TEACHERS[: sizes["teachers"]]
        threads = [] if args.threads is None else ["--threads", args.threads]
        arguments = [
            "--train-dir", train, "--image-size", args.image_size, "--output-dir", run,
            "--teacher-weights", folder / "teachers", "--min-teacher-accuracy", 0,
            "--primary-teacher", primary, "--bn-teachers", *others,
            "--bn-law", "exact", "--bn-count", sizes["teachers"],
            "--ipc-end", sizes["ipc"], "--iteration", sizes["steps"], "--steps", "constant",
            "--batch-size", args.batch_size, "--precision", args.precision,
            *(["--compile"] if args.compile else []), "--device", device.type, *threads]
        measure.quietly(data_synthesis.main, [str(argument) for argument in arguments])
        return sum(read_json(path, "recover")["seconds"]
                   for path in (run / "units").glob("*.json"))


def time_listing(root, files, args):
    """Median seconds to open a folder of this many files."""
    from data.opening import open_real

    for i in range(files):
        path = root / f"class{i % 10}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    times = []
    for _ in range(args.turns):
        begin = time.perf_counter()
        open_real("imagefolder", "train", root, args.image_size).contents_hash()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    run_entry(main)
