"""Distilled images on disk: reading them and knowing them again."""

import functools
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from utils.datasets import class_folders
from utils.distributed import rank
from utils.errors import UserError
from utils.images import decode, to_tensor
from utils.run_folder import read_json, sha256_file


class DistilledImages:
    """The images of a run, in ImageFolder's order (sorted folders, sorted names), decoded once and kept as uint8.

    folder: nothing but class folders, results/NAME/images or any other tool's. Where images.json lies beside it, class
    names and dataset come from there; otherwise folder names are the classes and dataset is None.
    paths: [N] relative to folder. labels: int64 tensor [N], index into classes.
    """

    def __init__(self, folder, workers=4):
        self.folder, self._workers = Path(folder), workers
        folders = class_folders(self.folder)
        self.paths = [file.relative_to(self.folder) for files in folders.values() for file in files]
        self.labels = torch.tensor([c for c, files in enumerate(folders.values()) for _ in files])
        self.classes, self.dataset = list(folders), None
        manifest = self.folder.parent / "images.json"
        if manifest.exists():
            content = read_json(manifest, "recover")
            self.classes, self.dataset = content["identity"]["classes"], content["options"]["dataset"]
            if len(self.classes) != len(folders):
                raise UserError(f"{self.folder}: found {len(folders)} class folders, {manifest.name} lists "
                                f"{len(self.classes)} classes. Was recover stopped, or a folder removed? Run recover again.")

    def __len__(self):
        return len(self.paths)

    @functools.cached_property
    def pixels(self):
        """All images, uint8 [N, 3, S, S], decoded by several threads. Raises UserError for images of unequal sizes."""
        size = decode(self.folder / self.paths[0]).size
        if size[0] != size[1]:
            raise UserError(f"{self.folder / self.paths[0]}: {size[0]}x{size[1]} pixels, expected a square image.")
        out = torch.empty(len(self), 3, size[1], size[0], dtype=torch.uint8)
        bar = tqdm(total=len(self), desc="decode", unit="image", disable=rank() != 0, leave=False)

        def fill(i):
            image = decode(self.folder / self.paths[i])
            if image.size != size:
                raise UserError(f"{self.folder / self.paths[i]}: {image.size[0]}x{image.size[1]} pixels, the others have "
                                f"{size[0]}x{size[1]}. Distilled images must be of one size.")
            out[i] = to_tensor(image)
            bar.update(1)

        with bar, ThreadPoolExecutor(max(1, self._workers)) as pool:
            list(pool.map(fill, range(len(self))))
        return out

    @functools.cached_property
    def identity(self):
        """What labels are tied to: {"count", "classes", "files"}; files is one SHA-256 over every path and file content.

        Renaming, adding, removing or changing one image changes it.
        """
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            hashes = list(pool.map(lambda p: sha256_file(self.folder / p), self.paths))
        lines = [[str(path), digest] for path, digest in zip(self.paths, hashes, strict=True)]
        return {"count": len(self), "classes": self.classes, "files": hashlib.sha256(json.dumps(lines).encode()).hexdigest()}
