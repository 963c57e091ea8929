"""The dataset card (README.md) of an exported set, from its images.json. Nothing is invented."""

import json
import shlex

from data.names import class_words

_ENTRIES = {"dap": "recover.dap_synthesis"}
_SHOWN = 1000  # class names in a card


def card(images, classes, manifest, stated):
    """The text of the card.

    images: ImageSet. classes: names in head order. manifest: content of images.json, or {}.
    stated: what the user says of the set, exchange.options.HuggingFaceTarget.
    """
    counts = images.labels.bincount(minlength=len(classes)).tolist()
    ipc = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    method = stated.method or manifest.get("method") or manifest.get("preset") or "not recorded"
    dataset = manifest.get("options", {}).get("dataset")
    data = stated.data or (dataset if dataset not in (None, "imagefolder") else None)
    title = stated.title or f"Distilled {data or 'images'}, IPC {ipc}"
    weights = stated.weights_licence or manifest.get("licence") or "not stated"
    lines = [
        *_front_matter(images, stated.layout), "",
        f"# {title}", "",
        f"{len(images)} images of {len(classes)} classes ({ipc} per class), {images.image_size} x "
        f"{images.image_size} pixels, made to train classifiers in place of the data that they "
        "were distilled from. Labels are in the order of the class list below.", "",
        "| | |", "|---|---|",
        f"| method | {_cell(method)} |",
        f"| data that was distilled | {_cell(data or 'not stated')} |",
        f"| licence of that data | {_cell(stated.data_licence or 'not stated')} |",
        f"| licence of the generator's weights | {_cell(weights)} |", "",
        "## How it was made", "", *_made(manifest), "",
        "## Classes", "", *_class_lines(classes), ""]
    return "\n".join(lines)


def _front_matter(images, layout):
    """The card's metadata, as the hub and the `datasets` library read it."""
    count = len(images)
    sizes = [(1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"),
             (1_000_000, "100K<n<1M")]
    size = next((words for limit, words in sizes if count < limit), "1M<n<10M")
    files = "data/train-*.parquet" if layout == "parquet" else "train/**"
    return ["---", "task_categories:", "- image-classification", "tags:", "- dataset-distillation",
            "size_categories:", f"- {size}", "configs:", "- config_name: default", "  data_files:",
            "  - split: train", f'    path: "{files}"', "---"]


def _made(manifest):
    """The command and the resolved options of images.json, in lines of Markdown."""
    if not manifest.get("options") or len(manifest["options"]) == 1:
        return ["Not recorded: the images came without a record of their options."]
    values = manifest["options"]
    rows = [f"| {_cell(name)} | {_cell(json.dumps(value, ensure_ascii=False))} |"
            for name, value in values.items()]
    versions = ", ".join(f"{name} {version}" for name, version
                         in manifest.get("versions", {}).items())
    return ["```sh", command(manifest), "```", "", "| option | value |", "|---|---|", *rows, "",
            f"Versions: {versions or 'not recorded'}. `images.json` has the whole record."]


def command(manifest):
    """The command that images.json describes. Places of data and weights are left to the reader."""
    entry = _ENTRIES.get(manifest.get("method"), "recover.data_synthesis")
    values, words = manifest["options"], [f"python -m {entry}"]
    names = manifest.get("preset_changed", list(values))
    if values.get("backbone") != "sd":  # others refuse a prompt
        names = [name for name in names if name not in ("prompt", "negative_prompt")]
    if manifest.get("preset"):
        words.append(f"--preset {shlex.quote(manifest['preset'])}")
    if "asked" in manifest:
        words.append("--ipc-start {} --ipc-end {}".format(*manifest["asked"]))
    for name in names:
        value, option = values.get(name), "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not None and value is not False and name not in ("ipc_start", "ipc_end"):
            many = value if isinstance(value, list) else [value]
            words.append(shlex.join([option, *map(str, many)]))
    places = "--output-dir OUTPUT_DIR"
    if values.get("dataset") != "digits":
        places += " --train-dir TRAIN_DIR"
    if values.get("backbone") == "pixel-dit":
        places += " --weights WEIGHTS"
    return " \\\n    ".join([*words, places])


def _class_lines(classes):
    """A numbered list; names in English beside wnids."""
    lines = []
    for i, name in enumerate(classes[:_SHOWN]):
        english = class_words(name)
        lines.append(f"| {i} | {_cell(name)} | {_cell('' if english == name else english)} |")
    rest = len(classes) - _SHOWN
    return ["| label | class | in English |", "|---|---|---|", *lines,
            *(["", f"... and {rest} more, in `images.json`."] if rest > 0 else [])]


def _cell(text):
    """Text for a cell of a table of Markdown."""
    return " ".join(str(text).split()).replace("|", "\\|")
