"""The run folder and its records: written once, compared before anything is mixed.

results/NAME/
  images/        nothing but class folders of images
  images.json    what the images are: dataset, classes, every option that changes pixels
  units/         a record of every finished unit of recover, checkpoints of unfinished ones
  previews/      pictures of the first units
  selection/     which real images or crops the images started from, where a network chose them
  labels/        epoch_000.safetensors ...     labels.json
  students/NAME/ last, best, state, metrics.jsonl, result.json, curve.png
  students/NAME.json             top-1 over the seeds of train_hard
"""

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path

from utils.errors import UserError
from utils.files import damaged, read_json, write_json


def read_manifest(path, made_by):
    """read_json of a manifest: {"options": {...}, "identity": {...}, ...}."""
    content = read_json(path, made_by)
    for part in ("options", "identity"):
        if not isinstance(content.get(part, {}), dict):
            raise damaged(path, made_by, f"{part} is not an object")
    return content


def settle_manifest(path, content, how_to_restart):
    """Write a manifest, or check that the one on disk says the same. Returns the one on disk.

    content["options"]: {name: value}, every option that changes the result.
    content["identity"]: likewise, for facts such as class names and hashes of weights.
    Raises UserError, which names the first option that differs and ends in how_to_restart.
    Other entries (versions) are only noted.
    """
    path = Path(path)
    content = json.loads(json.dumps(content))  # tuples become lists, as in the file
    if not path.exists():
        write_json(path, content)
        return content

    stored = read_manifest(path, "this command")
    for part in ("options", "identity"):
        before, now = stored.get(part, {}), content.get(part, {})
        for name in sorted(set(before) | set(now)):
            if before.get(name) != now.get(name):
                raise UserError(f"{path}: was made with {name} = {_short(before.get(name))}, "
                                f"now {name} = {_short(now.get(name))}. {how_to_restart}")
    return stored


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:60] + f"... ({len(text)} characters)"


def manifest_hash(content):
    """Hex SHA-256 of the parts of a manifest that change numbers: options and identity."""
    parts = [content.get("options"), content.get("identity")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def versions():
    """Versions that a result is stored with."""
    import torch
    import torchvision

    return {"python": platform.python_version(), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "timm": metadata.version("timm")}
