"""Saving and loading tensors without unpickling anything unsafe."""

import contextlib
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from utils.errors import UserError
from utils.run_folder import write_bytes, written_whole


@contextlib.contextmanager
def _as_os_error():
    """torch hides what the system answered to a write (a full disk) in an error of its own: raise the OSError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # of the Python file that torch.save writes to
            raise error.__context__ from None
        raise


def save_tensors(path, tensors, about=None):
    """Write {name: tensor} as safetensors, whole or not at all. about: JSON-able dict kept in the header."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    # not save_file, which has a temporary file of its own: nobody would remove it after a kill
    write_bytes(path, save(tensors, metadata={"about": json.dumps(about or {}, sort_keys=True)}))


def load_tensors(path):
    """Read ({name: tensor}, about) from a safetensors file; about is {} in files of other tools."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file.")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}). Remove it and make it again.") from None


def save_state(path, state):
    """Write a nested dict of tensors and plain values (to go on from), whole or not at all."""
    with written_whole(path) as temporary, _as_os_error(), open(temporary, "wb") as file:
        torch.save(state, file)


def load_state(path):
    """Read what save_state wrote. weights_only: a file from a stranger cannot run code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: damaged or not safe to load ({first_line}). Remove it and run this again.") from None


def tensors_hash(tensors):
    """Hex SHA-256 over names, types, shapes and bytes of {name: tensor}."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(t.dtype), list(t.shape)]).encode())
        digest.update(t.flatten().view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
