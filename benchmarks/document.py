"""Rewrite the generated part of docs/speed.md from the figures in results/benchmarks.

    python -m benchmarks.document

Each benchmark gets its tables, one for each run and hardware.
"""

import json
import statistics

from benchmarks import gpu_report
from report.verdicts import spread
from reproduce import ROOT
from reproduce.document import rewrite
from utils.errors import run_entry
from utils.options import Parser, flag

FILE = ROOT / "docs" / "speed.md"
RESULTS = ROOT / "results" / "benchmarks"

# Options that a command leaves out: they do not change what is measured.
_UNSHOWN = ("threads", "output_dir", "teacher_weights")


def main(argv=None):
    parser = Parser(prog="benchmarks.document", description=f"Rewrite the tables of {FILE.name}.")
    parser.parse_args(argv)
    rewrite(FILE, {"speed": markdown(RESULTS)})


def markdown(folder):
    """The figures in a folder as Markdown. Benchmarks without figures are left out."""
    sections, on_gpu = [], False
    for name, (title, write) in _BENCHMARKS.items():
        runs = []
        for device in ("cuda",) if name == "gpu" else ("cpu", "cuda"):
            path = folder / f"{name}_{device}.json"
            runs += json.loads(path.read_text())["runs"] if path.exists() else []
        on_gpu = on_gpu or any(run["hardware"]["device"] != "cpu" for run in runs)
        if runs:
            tables = "\n\n".join(_one(name, run, write) for run in runs)
            sections.append(f"**{title}** {tables}")
    if not on_gpu:
        sections.insert(0, "All figures are of CPUs; no GPU has been measured yet. "
                           "`sh benchmarks/gpu.sh` measures one, and the commands below run on a "
                           "GPU as they are.")
    return "\n\n".join(sections)


def _one(name, run, write):
    """A run: its command, what it ran on, its table."""
    hardware, torch = run["hardware"], run["versions"]["torch"].split("+")[0]
    device = hardware["device"]
    if device == "cpu":
        device = f"{hardware['cpu']}, {hardware['threads']} threads"
    return (f"`{command(name, run['options'])}` ({device}, {hardware['instructions']}, "
            f"torch {torch}):\n\n{write(run)}")


def command(name, options):
    """The command that makes a run again, without options that have nothing to say."""
    words = [f"python -m benchmarks.{name}"]
    for option, value in options.items():
        if value is None or value is False or isinstance(value, list):
            continue
        if option not in _UNSHOWN:
            words.append(flag(option) + ("" if value is True else f" {value}"))
    return " ".join(words)


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ms(seconds):
    return f"{1e3 * seconds:.0f}" if seconds >= 0.0995 else f"{1e3 * seconds:.1f}"


# A function per benchmark, from a run to its tables

def _recover(run):
    modes = [mode for mode in ("eager", "compiled") if mode in run["seconds"]["law"]]
    header = ["teachers", "reference, ms", *(f"{mode}, ms" for mode in (*modes, "floor")),
              *(f"{mode} / floor" for mode in modes),
              *(f"reference / {mode}" for mode in (*modes, "floor"))]
    titles = {"law": "average over the released law", "all teachers": "all teachers at once"}
    rows = [[titles[title], *(_ms(seconds[mode]) for mode in ("reference", *modes, "floor")),
             *(f"**{seconds[mode] / seconds['floor']:.2f}**" for mode in modes),
             *(f"{seconds['reference'] / seconds[mode]:.2f}" for mode in (*modes, "floor"))]
            for title, seconds in run["seconds"].items()]

    pairs = [f"{kind} {mode}" for kind in ("ours", "floor") for mode in modes]
    alone = [[name, *(_ms(seconds[pair]) for pair in pairs)]
             for name, seconds in run["seconds alone"].items()]
    return "\n\n".join([_table(header, rows), _table(["one net, ms", *pairs], alone),
                        _memory(run["memory"], run["image_steps_per_second"], modes[-1])])


def _memory(memory, speed, mode):
    peaks = memory["bytes"]["all teachers"]
    absolute = ", ".join(f"{mode} {value / 1e6:.0f} MB" for mode, value in peaks.items())
    ratios = ", ".join(f"{mode} {ratio:.2f}"
                       for mode, ratio in memory["all / largest alone"].items())
    return (f"Peak memory with all teachers at once: {absolute}; against the largest net alone: "
            f"{ratios}. {speed:.3g} image-steps/s ({mode}).")


def _relabel(run):
    seconds, batches = run["seconds"], run["options"]["batches"]
    header = ["epoch of labels", "ms a batch", "of the floor's speed", "reference / it",
              "bytes a row"]
    return _table(header, [
        [name, _ms(value / batches), f"{seconds['floor'] / value:.0%}",
         f"{seconds['reference'] / value:.2f}", str(run["bytes a row"].get(name, ""))]
        for name, value in seconds.items()])


def _validate(run):
    seconds = {mode: run["seconds"][mode] for mode in ("plain", "apart", "together", "floor")}
    rows = [[mode, _ms(value), f"{value / seconds['floor']:.2f}", f"{seconds['plain'] / value:.2f}"]
            for mode, value in seconds.items()]
    tests = run["test_images_per_second"]
    return (_table(["step", "ms", "/ floor", "plain / it"], rows)
            + f"\n\nData path: {run['data_share']:.1%} of a step. Test images a second: "
              f"{tests['decoding']:.0f} decoded every time, {tests['decoded once']:.0f} decoded "
              f"once, {tests['floor']:.0f} forward alone.")


def _scaling(run):
    rows = []
    for quantity, points in run["seconds, bytes"].items():
        for times, (seconds, memory) in zip((1, 2, 4), points, strict=True):
            rows.append([f"{quantity} x {times}", f"{seconds:.3f}",
                         f"{seconds / points[0][0]:.2f}",
                         "" if memory is None else f"{memory / 1e6:.0f}"])
    return _table(["", "seconds", "times as long", "peak MB"], rows)


def _bf16(run):
    fp32, bf16 = run["fp32"], run["bf16"]
    rows = [[name, f"{statistics.mean(run[name]['loss']):.4f}",
             " ".join(f"{value:.1f}" for value in run[name]["top1"]), spread(run[name]["top1"])]
            for name in ("fp32", "bf16")]
    change = statistics.mean(b / a - 1 for a, b in zip(fp32["loss"], bf16["loss"], strict=True))
    header = ["recover in", "loss of the last step", "student's top-1 by seed, %", "mean ± std"]
    return (_table(header, rows)
            + f"\n\nLoss in bf16 against fp32: {change:+.2%}, mean over seeds.")


def _dap(run):
    seconds, expected = run["seconds"], run["expected"]
    rows = [[name, _ms(value), f"**{value / seconds['plain']:.2f}**", f"{expected[name]:.2f}",
             f"{1 - seconds['plain'] / value:.0%}", f"{run['bytes'][name] / 1e6:.0f}"]
            for name, value in seconds.items()]
    return _table(["sampling", "ms", "/ plain", "expected from blocks", "share of guidance",
                   "peak MB"], rows)


def _gpu(run):
    rows = gpu_report.table(run)
    return "\n\n".join([gpu_report.headline(run["parts"], run["hardware"]) + ".",
                        _table(gpu_report.HEADER, rows), *gpu_report.notes(run)])


_BENCHMARKS = {
    "gpu": ("A GPU in minutes.", _gpu),
    "recover": ("Recover's step.", _recover),
    "relabel": ("Relabel.", _relabel),
    "validate": ("A student's step.", _validate),
    "scaling": ("Growth of recover.", _scaling),
    "dap": ("DAP's guidance.", _dap),
    "bf16": ("Recover in bf16 on digits.", _bf16),
}

if __name__ == "__main__":
    run_entry(main)
