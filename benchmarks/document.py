"""The figures in results/benchmarks as Markdown: a table a benchmark, a row a run and mode."""

import json
import re
import statistics

from benchmarks import measure
from report.verdicts import spread

_UNMEASURED = ("Nothing has run on a GPU so far: image-steps a second, memory, bf16 and compilation there are **unmeasured**, and "
               "so are GPU-hours. `pytest -m gpu` and the commands below run there as they are.")


def markdown():
    """All benchmarks that have figures, or what command would make them."""
    found = {path.stem: json.loads(path.read_text())["runs"] for path in sorted(measure.RESULTS.glob("*.json"))}
    parts = [] if any(run["hardware"]["device"] != "cpu" for runs in found.values() for run in runs) else [_UNMEASURED]
    for name, (title, write) in _BENCHMARKS.items():
        runs = [run for stem, those in found.items() if re.fullmatch(rf"{name}_(cpu|cuda)", stem) for run in those]
        parts.append(f"**{title}** " + ("\n\n".join(_one(name, run, write) for run in runs) if runs else
                                        f"`python -m benchmarks.{name}`: not run yet."))
    return "\n\n".join(parts)


def _one(name, run, write):
    """A run: its command, what it ran on, its table."""
    hardware, versions = run["hardware"], run["versions"]
    where = hardware["device"] if hardware["device"] != "cpu" else f"{hardware['cpu']}, {hardware['threads']} threads"
    return (f"`{command(name, run['options'])}` ({where}, {hardware['instructions']}, torch {versions['torch'].split('+')[0]}):\n\n"
            + write(run))


def command(name, options):
    """The command that makes a run again; options that say nothing are left out."""
    words = [f"python -m benchmarks.{name}"]
    for option, value in options.items():
        if value is None or value is False or isinstance(value, list) or option in ("threads", "output_dir", "teacher_weights"):
            continue
        words.append(f"--{option.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)


def _table(header, rows):
    return "\n".join(["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]])


def _ms(seconds):
    return f"{1e3 * seconds:.0f}" if seconds >= 0.0995 else f"{1e3 * seconds:.1f}"


def _recover(run):
    modes = [mode for mode in ("eager", "compiled") if mode in run["seconds"]["law"]]
    header = ["teachers", "reference, ms", *(f"{m}, ms" for m in (*modes, "floor")), *(f"{m} / floor" for m in modes),
              *(f"reference / {m}" for m in (*modes, "floor"))]
    titles = {"law": "average over the released law", "all teachers": "all five at once"}
    rows = [[titles[title], *(_ms(found[m]) for m in ("reference", *modes, "floor")),
             *(f"**{found[m] / found['floor']:.2f}**" for m in modes),
             *(f"{found['reference'] / found[m]:.2f}" for m in (*modes, "floor"))] for title, found in run["seconds"].items()]
    nets = [[name, *(_ms(found[f"{kind} {m}"]) for kind in ("ours", "floor") for m in modes)]
            for name, found in run["seconds alone"].items()]
    memory = run["memory"]
    ratios = ", ".join(f"{mode} {ratio:.2f}" for mode, ratio in memory["all / largest alone"].items())
    absolute = ", ".join(f"{mode} {value / 1e6:.0f} MB" for mode, value in memory["bytes"]["all teachers"].items())
    alone = ["one net, ms", *(f"{kind} {m}" for kind in ("ours", "floor") for m in modes)]
    return "\n\n".join([_table(header, rows), _table(alone, nets), f"Peak memory with all five teachers: {absolute}; against the "
                        f"largest net alone: {ratios}. "
                        f"{run['image_steps_per_second']:.3g} image-steps/s ({modes[-1]})."])


def _relabel(run):
    seconds, batches, floor = run["seconds"], run["options"]["batches"], run["seconds"]["floor"]
    return _table(["epoch of labels", "ms a batch", "of the floor's speed", "reference / it", "bytes a row"],
                  [[name, _ms(value / batches), f"{floor / value:.0%}", f"{seconds['reference'] / value:.2f}",
                    str(run["bytes a row"].get(name, ""))] for name, value in seconds.items()])


def _validate(run):
    seconds = {mode: run["seconds"][mode] for mode in ("plain", "apart", "together", "floor")}
    tests = run["test_images_per_second"]
    rows = [[mode, _ms(value), f"{value / seconds['floor']:.2f}", f"{seconds['plain'] / value:.2f}"]
            for mode, value in seconds.items()]
    return (_table(["step", "ms", "/ floor", "plain / it"], rows)
            + f"\n\nData path: {run['data_share']:.1%} of a step. Test images a second: {tests['decoding']:.0f} decoded every "
              f"time, {tests['decoded once']:.0f} decoded once, {tests['floor']:.0f} forward alone.")


def _scaling(run):
    rows = []
    for what, points in run["seconds, bytes"].items():
        for times, (seconds, memory) in zip((1, 2, 4), points, strict=True):
            rows.append([f"{what} x {times}", f"{seconds:.3f}", f"{seconds / points[0][0]:.2f}",
                         "" if memory is None else f"{memory / 1e6:.0f}"])
    return _table(["", "seconds", "times as long", "peak MB"], rows)


def _bf16(run):
    found = {name: run[name] for name in ("fp32", "bf16")}
    rows = [[name, f"{statistics.mean(values['loss']):.4f}", " ".join(f"{v:.1f}" for v in values["top1"]),
             spread(values["top1"])] for name, values in found.items()]
    change = statistics.mean(b / a - 1 for a, b in zip(found["fp32"]["loss"], found["bf16"]["loss"], strict=True))
    return (_table(["recover in", "loss of the last step", "student's top-1 by seed, %", "mean ± std"], rows)
            + f"\n\nLoss in bf16 against fp32: {change:+.2%}, mean over seeds.")


def _label_formats(run):
    base = statistics.mean(run["top1"]["fp32"])
    rows = [[name, f"{errors['relative']:.2g}", f"{errors['kl']:.2g}", f"{errors['mse']:.2g}",
             *([f"{statistics.mean(run['top1'][name]):.2f}", f"{statistics.mean(run['top1'][name]) - base:+.2f}"]
               if name in run["top1"] else ["", ""])] for name, errors in run["errors"].items()]
    return _table(["format", "relative error", "KL at T = 20", "MSE", "student's top-1, %", "against fp32"], rows)


_BENCHMARKS = {
    "recover": ("Recover's step.", _recover), "relabel": ("Relabel.", _relabel), "validate": ("A student's step.", _validate),
    "scaling": ("Growth of recover.", _scaling), "bf16": ("Recover in bf16 on digits.", _bf16),
    "label_formats": ("Number formats of labels on digits.", _label_formats),
}
