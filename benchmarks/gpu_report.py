"""What the figures of benchmarks.gpu come to: a cell's GPU-hours, targets, and one table.

Imports no PyTorch.
"""

from benchmarks import cell

PRECISIONS = ("bf16", "fp32")
COMMAND = "fp32", ("eager", 1)  # how recover runs in reproduce/table1.sh as it is
HEADER = ["", *PRECISIONS, "target"]

# {target: (words, function of a figure)}, for one H100 or H200
TARGETS = {
    "image-steps/s": ("≥ 14,000", lambda value: value >= 14_000),
    "hours": ("≤ 1", lambda value: value <= 1),
    "memory": ("≤ 1.3", lambda value: value <= 1.3),
    "waits": ("0", lambda value: value == 0)}


def conclusions(parts, on_gpu, args):
    """What the parts' figures come to: {"cell", "modes", "command", "targets"}.

    cell: {precision: GPU-hours by stage} with recover's fastest mode. modes: which that is,
    {precision: (mode, units a step)}. command: GPU-hours by stage of reproduce/table1.sh as it is.
    targets: {target: [figure, met]}. All are empty on a CPU and at other sizes than the paper's:
    nothing there says how long a GPU takes.
    """
    if not on_gpu or (args.image_size, args.batch_size) != (224, 100):
        return {"cell": {}, "modes": {}, "command": {}, "targets": {}}
    modes = {name: fastest(recover_rows(parts, name)) for name in PRECISIONS}
    hours = {name: cell.hours(rates(parts, name, modes[name])) for name in PRECISIONS}
    best = recover_rows(parts, "bf16").get(modes["bf16"], {})
    values = {"image-steps/s": best.get("image-steps/s"), "hours": hours["bf16"].get("all"),
              "memory": parts.get("memory", {}).get("all / largest alone", {}).get("bf16"),
              "waits": waits(parts)}
    targets = {name: [value, TARGETS[name][1](value)] for name, value in values.items()
               if value is not None}
    return {"cell": hours, "modes": {name: mode for name, mode in modes.items() if mode},
            "command": cell.hours(rates(parts, *COMMAND)), "targets": targets}


def recover_rows(parts, precision):
    """{(mode, units): figures} of recover that fitted into memory."""
    modes = (("eager", parts.get("recover", {})),
             ("compiled", parts.get(f"compiled-{precision}", {})))
    return {(mode, row["units"]): row for mode, figures in modes
            for row in figures.get(precision, []) if "image-steps/s" in row}


def fastest(rows):
    """The (mode, units) of recover_rows with the most image-steps per second, or None."""
    return max(rows, key=lambda key: rows[key]["image-steps/s"], default=None)


def waits(parts):
    """How often the host waited in all steps in which that was counted, or None."""
    counts = [row["waits"] for name in PRECISIONS for row in recover_rows(parts, name).values()]
    counts += [figures[key] for part, key in (("relabel", "waits in a batch"),
                                              ("validate", "waits in a step"))
               for figures in parts.get(part, {}).values()]
    counts = [count for count in counts if count is not None]
    return sum(counts) if counts else None


def rates(parts, precision, mode):
    """What cell.hours takes: those that were measured. mode: (mode, units) of recover."""
    result, recover = {}, recover_rows(parts, precision)
    if mode in recover:
        result["image-steps"] = recover[mode]["image-steps/s"]
    if precision in parts.get("relabel", {}):
        labels = parts["relabel"][precision]
        result["crops"] = labels["images"] / labels["seconds"]["fp16"]
        result["decoded distilled images"] = 1 / labels["seconds to decode an image"]
    if precision in parts.get("validate", {}):
        student = parts["validate"][precision]
        result["training images"] = student["images"] / student["seconds"]["together"]
        result["tested images"] = student["test_images_per_second"]["decoded once"]
        result["decoded test images"] = student["test_images_per_second"]["decoding"]
    return result


# The table

def text(figures, hardware):
    """The table as lines for a terminal, of at most 25 lines. hardware: of measure.hardware."""
    lines = [headline(figures["parts"], hardware)]
    rows = [HEADER, *table(figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    for row in rows:
        words = [word.ljust(width) if i in (0, 3) else word.rjust(width)
                 for i, (word, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(words).rstrip())
    return "\n".join([*lines, *notes(figures)])


def headline(parts, hardware):
    """What was measured, in a line."""
    device = parts.get("device", {})
    name = hardware["device"]
    if name == "cpu":
        return f"No GPU: {hardware['cpu']}, {hardware['threads']} threads, at tiny size"
    memory = f", {device['memory'] / 1e9:.0f} GB" if device.get("memory") else ""
    versions = ", ".join(f"{key} {device[key]}" for key in ("torch", "cuda", "driver")
                         if device.get(key))
    return f"{name}{memory}{', ' if versions else ''}{versions}"


def table(figures):
    """Rows of texts [what, bf16, fp32, target], of what was measured."""
    parts = figures["parts"]
    rows = [*_device(parts.get("device", {})), *_recover(parts, figures["targets"]),
            *_other_stages(parts), *_hours(figures)]
    tests = parts.get("tests", {})
    if "passed" in tests:
        rows.append([f"GPU tests: {tests['passed']} passed, {len(tests['failed'])} failed, "
                     f"{tests['skipped']} skipped", "", "", ""])
    return rows


def _device(device):
    rows = []
    if "matrix product, FLOP/s" in device:
        values = {name: value / 1e12 for name, value in device["matrix product, FLOP/s"].items()}
        rows.append(_row("matrix product, TFLOP/s", values, "{:.3g}"))
        if "tf32" in values:
            used = ", ".join(f"{name}: {'yes' if allowed else 'no'}"
                             for name, allowed in device["tf32"].items())
            rows.append(_row(f"  in TF32 ({used})", {"fp32": values["tf32"]}, "{:.3g}"))
    if "copy, bytes/s" in device:
        rows.append(["copy, GB/s", f"{device['copy, bytes/s'] / 1e9:,.0f}", "", ""])
    return rows


def _recover(parts, targets):
    """Speed of every mode and number of units, then what the target asks of them."""
    by_precision = {name: recover_rows(parts, name) for name in PRECISIONS}
    keys = sorted({key for rows in by_precision.values() for key in rows},
                  key=lambda key: (key[0] != "eager", key[1]))
    rows = []
    for key in keys:
        values = {name: figures[key]["image-steps/s"] for name, figures in by_precision.items()
                  if key in figures}
        mode, units = key
        rows.append(_row(f"recover {mode}, {units} unit{'s' * (units > 1)} a step: image-steps/s",
                         values, "{:,.0f}"))
    if rows:
        rows[-1][3] = _verdict(targets, "image-steps/s", "bf16 ")

    peaks = {name: max((row["peak bytes"] / 1e9 for row in figures.values() if row["peak bytes"]),
                       default=None) for name, figures in by_precision.items()}
    if any(peaks.values()):
        rows.append(_row("  most memory, GB", peaks, "{:.1f}"))
    hosts = {name: max((row["host seconds, all teachers"] / row["seconds, all teachers"]
                        for row in figures.values() if "host seconds, all teachers" in row),
                       default=None) for name, figures in by_precision.items()}
    if any(hosts.values()):
        rows.append(_row("  host's time / step's, eager, at most", hosts, "{:.2f}"))
    if parts.get("floor"):
        shares = {name: figures["law"]["ours"] / figures["law"]["floor"]
                  for name, figures in parts["floor"].items()}
        rows.append(_row("  time / floor, eager, 1 unit", shares, "{:.2f}"))
    if "memory" in parts and "all / largest alone" in parts["memory"]:
        rows.append(_row("  memory, five teachers / largest alone",
                         parts["memory"]["all / largest alone"], "{:.2f}",
                         _verdict(targets, "memory")))
    if "waits" in targets:
        rows.append(["waits for the GPU in steps of all stages", str(targets["waits"][0]), "",
                     _verdict(targets, "waits")])
    return rows


def _other_stages(parts):
    rows = []
    labels, students = parts.get("relabel", {}), parts.get("validate", {})
    if labels:
        rows.append(_row("relabel, images/s", {name: figures["images"] / figures["seconds"]["fp16"]
                                               for name, figures in labels.items()}, "{:,.0f}"))
        rows.append(_row("  of the teachers' forward alone", {
            name: figures["seconds"]["floor"] / figures["seconds"]["fp16"]
            for name, figures in labels.items()}, "{:.0%}"))
    if students:
        rows.append(_row("validate, images/s", {
            name: figures["images"] / figures["seconds"]["together"]
            for name, figures in students.items()}, "{:,.0f}"))
        rows.append(_row("  tests, decoded images/s", {
            name: figures["test_images_per_second"]["decoded once"]
            for name, figures in students.items()}, "{:,.0f}"))
    return rows


def _hours(figures):
    """GPU-hours of the cell. A run of an older version has no "modes" and no "command"."""
    rows, hours = [], figures["cell"]
    stages = [stage for stage in ("recover", "relabel", "validate")
              if all(stage in of_precision for of_precision in hours.values())]
    if hours and stages:
        rows.append([f"Table 1, R18 IPC 10, hours: {'+'.join(stages)}",
                     *("+".join(f"{hours[name][stage]:.2f}" for stage in stages)
                       for name in PRECISIONS), ""])
        whole = {name: of_precision.get("all") for name, of_precision in hours.items()}
        rows.append(_row("  of the whole cell", whole, "{:.2f}", _verdict(figures["targets"],
                                                                           "hours")))
    if figures.get("modes"):
        modes = {name: f"{mode}, {units}" for name, (mode, units) in figures["modes"].items()}
        rows.append(_row("  with recover's fastest mode, units a step", modes, "{}"))
    if "all" in figures.get("command", {}):
        precision, (mode, units) = COMMAND
        rows.append(_row(f"  of reproduce/table1.sh as it is: {precision}, {mode}, {units} unit",
                         {precision: figures["command"]["all"]}, "{:.2f}"))
    return rows


def _row(what, values, form, target=""):
    return [what, *("" if values.get(name) is None else form.format(values[name])
                    for name in PRECISIONS), target]


def _verdict(targets, name, before=""):
    if name not in targets:
        return ""
    return f"{before}{TARGETS[name][0]}: {'met' if targets[name][1] else 'not met'}"


def notes(figures):
    """Lines about how hours were computed, and what is not in the table."""
    lines = []
    if figures["cell"]:
        lines.append("GPU-hours are measured rates times the counts of the cell's options, with "
                     "images decoded once.")
    for title in ("left out", "failed"):
        if figures[title]:
            lines.append(f"{title}: {', '.join(figures[title])}")
    return lines
