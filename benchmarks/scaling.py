"""How recover grows with IPC, classes, steps, teachers and the training folder.        python -m benchmarks.scaling

Runs the whole of recover on folders of random images with random-weight teachers. For each quantity, one, two and four times as
much: seconds of optimisation (from the units' records) against what a straight line says, and peak memory of the process. The
training folder only grows in files that no unit starts from; there the seconds are those of listing it.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import measure
from data.datasets import open_images
from models.networks import build, save_network
from recover import data_synthesis
from utils.errors import run_entry
from utils.files import read_json

TEACHERS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5")  # four of them: one net more for each time as much
TIMES = (1, 2, 4)
BASE = {"ipc": 1, "classes": 8, "steps": 40, "teachers": 1}


def main(argv=None):
    args = measure.get_args_parser("scaling", "Measure how recover grows.", batch_size=8, image_size=32, turns=3).parse_args(argv)
    device = measure.start(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        names = make_images(folder / "train", BASE["classes"] * TIMES[-1], BASE["ipc"] * TIMES[-1], args.image_size)
        make_teachers(folder / "teachers", names, args.image_size)
        found = {what: [grow(what, times, folder, args, device) for times in TIMES] for what in BASE}
        found["files of the folder"] = [list_folder(folder / f"files{times}", 2000 * times, args) for times in TIMES]
    rows = [[f"{what} x {times}", f"{seconds:.3f}", f"{seconds / points[0][0]:.2f}", "-" if memory is None else memory / 1e6]
            for what, points in found.items() for times, (seconds, memory) in zip(TIMES, points, strict=True)]
    print("\n" + measure.table(["", "seconds", "times as long", "peak MB"], rows))
    measure.save(args, "scaling", device, {"seconds, bytes": found})


def make_images(root, classes, per_class, size):
    """A folder of random images. Returns class names."""
    random, names = np.random.default_rng(0), [f"class{c:03d}" for c in range(classes)]
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(root / name / f"{i:05d}.png")
    return names


def make_teachers(root, classes, size):
    """Random-weight teachers for all classes; fewer classes pick their columns of the head."""
    for name in TEACHERS:
        network = build(name, len(classes), seed=("scaling", name))
        network.classes = list(classes)
        save_network(root / f"{name}.safetensors", network, {"image_size": size})


def grow(what, times, folder, args, device):
    """(seconds, bytes) of recover with `times` as much of one quantity: the median of the turns, the memory of one."""
    sizes = {**BASE, what: BASE[what] * times}
    seconds = sorted(recover(sizes, folder, args, device) for _ in range(args.turns))
    return seconds[len(seconds) // 2], measure.peak_memory(recover, sizes, folder, args, device)


def recover(sizes, folder, args, device):
    """Run recover; returns the seconds that its units took."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        train = Path(output, "train")  # as many classes as asked for
        train.mkdir()
        for name in sorted(path.name for path in (folder / "train").iterdir())[: sizes["classes"]]:
            (train / name).symlink_to(folder / "train" / name)
        primary, *others = TEACHERS[: sizes["teachers"]]
        measure.quietly(data_synthesis.main, [
            "--train-dir", str(train), "--image-size", str(args.image_size), "--output-dir", str(Path(output, "run")),
            "--teacher-weights", str(folder / "teachers"), "--min-teacher-accuracy", "0", "--device", device.type,
            "--primary-teacher", primary, "--bn-teachers", *others, "--bn-law", "exact", "--bn-count", str(sizes["teachers"]),
            "--ipc-end", str(sizes["ipc"]), "--iteration", str(sizes["steps"]), "--steps", "constant",
            "--batch-size", str(args.batch_size), "--threads", str(torch.get_num_threads()),
            "--precision", args.precision, *(["--compile"] if args.compile else [])])
        records = Path(output, "run", "units").glob("*.json")
        return sum(read_json(path, "recover")["seconds"] for path in records)


def list_folder(root, files, args):
    """(seconds to open a folder of so many files, None)."""
    for c in range(10):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(files // 10):
            (root / f"class{c}" / f"{i:06d}.jpg").touch()
    times = []
    for _ in range(args.turns):
        begin = time.perf_counter()
        open_images("imagefolder", "train", root, args.image_size).fingerprint()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2], None


if __name__ == "__main__":
    run_entry(main)
