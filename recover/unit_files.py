"""What recover leaves on disk: a file per image, a record per finished unit (its done-marker), checkpoints, previews."""

import contextlib

import torch

from data import images, run_folder
from utils import checkpoint
from utils.errors import UserError
from utils.files import read_json, sha256_file, write_json

PREVIEW_IMAGES = 20
RESTART = "Give the same again, or choose another --output-dir."


def _remove(paths):
    """Remove files that may be there, and their folders when nothing is left in them."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def _fits(about, states):
    """Whether a checkpoint says the step, the seconds and the rows of these units."""
    step, seconds, log = (about.get(name) for name in ("next_step", "seconds", "log"))
    if not isinstance(step, int) or not isinstance(seconds, (int, float)) or not isinstance(log, dict):
        return False
    rows = [log.get(s.unit.name) for s in states]
    return 0 < step <= max(s.unit.steps for s in states) and all(isinstance(own, list) for own in rows) and all(
        isinstance(row, list) and len(row) == 2 and isinstance(row[0], int) and isinstance(row[1], dict)
        and all(isinstance(value, (int, float)) for value in row[1].values()) for own in rows for row in own)


class UnitFiles:
    """Files of the units below a run folder.

    run: the run folder. class_count: of the whole dataset, ipc: slices planned; they decide how wide numbers in names are.
    A folder that is there keeps its own width of slice numbers. image_format: jpg or png.
    """

    def __init__(self, run, class_count, ipc, image_format):
        self.run, self.image_format, self.manifest = run, image_format, run / "images.json"
        self.class_digits, self.id_digits = max(3, len(str(class_count - 1))), max(3, len(str(ipc - 1)))
        if self.manifest.exists():
            found = run_folder.read_manifest(self.manifest, "recover").get("id_digits", self.id_digits)
            if not isinstance(found, int) or not 3 <= found <= 9:
                raise UserError(f"{self.manifest}: says id_digits = {str(found)[:20]}, expected 3 to 9. {RESTART}")
            self.id_digits = found

    def image_path(self, label, ipc_id):
        """images/new%03d/class%03d_id%03d.jpg, wider numbers when classes or slices pass 999."""
        c = f"{label:0{self.class_digits}d}"
        return self.run / "images" / f"new{c}" / f"class{c}_id{ipc_id:0{self.id_digits}d}.{self.image_format}"

    def _image_paths(self, unit):
        return [self.image_path(label, ipc_id) for label, ipc_id in zip(unit.classes, unit.ipc_ids, strict=True)]

    def _record_path(self, name):
        return self.run / "units" / f"{name}.json"

    def _checkpoint_path(self, group):
        names = "_to_".join(dict.fromkeys([group[0].name, group[-1].name]))
        return self.run / "units" / f"unfinished_{names}.safetensors"

    def _record(self, unit, weights):
        """The record of a unit, or None. weights: {net: fingerprint}; a unit made with other weights is refused."""
        path = self._record_path(unit.name)
        if not path.exists():
            return None
        record = read_json(path, "recover")
        found, together = record.get("weights", {}), record.get("units_together", [])
        if not isinstance(found, dict) or not isinstance(together, list) or not all(isinstance(name, str) for name in together):
            raise UserError(f"{path}: is not a record of recover. Remove it and run recover again.")
        for name, fingerprint in found.items():
            if weights.get(name, fingerprint) != fingerprint:
                raise UserError(f"{path}: was made with other weights of {name} than those given now. {RESTART}")
        return record

    def unfinished(self, group, weights):
        """What is left to do of a group, as groups of units that share forwards; [] when all is finished.

        A unit is finished when its record and all its images are there. Units that once shared forwards are made again together
        (from their checkpoint) when one of them is not finished, since company may change last bits; those that join the group
        later (more IPC) keep to themselves. A checkpoint that a stop left behind finished units is removed.
        """
        records = {unit: self._record(unit, weights) for unit in group}
        together = {name: tuple(record["units_together"]) for record in records.values() if record
                    for name in record.get("units_together", [])}
        companies, left = {}, []
        for unit in group:
            companies.setdefault(together.get(unit.name), []).append(unit)
        for company in companies.values():
            if all(records[unit] and all(path.exists() for path in self._image_paths(unit)) for unit in company):
                self.drop_checkpoint(company)
            else:
                left.append(company)
        return left

    def save_unit(self, unit, pixels, starts, record, class_names):
        """Write the images of a finished unit, uint8 [n, 3, S, S], then its record, and its preview if it has one.

        record["start"]: words for every image.
        """
        files, paths = {}, self._image_paths(unit)
        try:
            for path, image in zip(paths, pixels, strict=True):
                images.save(image, path)
                files[str(path.relative_to(self.run))] = sha256_file(path)
        except BaseException:  # a full disk: a part of a unit would pass for a smaller set of images
            _remove(paths)
            raise
        if unit.preview is not None:
            rows = [starts[:PREVIEW_IMAGES], pixels[:PREVIEW_IMAGES]]
            names = [class_names[c] for c in unit.classes[:PREVIEW_IMAGES]]
            images.save_grid(rows, self.run / "previews" / f"{unit.preview}.png", ["start", "result"], names)
        start = dict(zip(files, record["start"], strict=True))
        write_json(self._record_path(unit.name), {**record, "start": start, "files": files})

    def save_checkpoint(self, group, states, next_step, seconds):
        """Keep what is needed to go on with a group of units at next_step. seconds: spent on it so far."""
        tensors = {f"{s.unit.name}.{name}": t for s in states for name, t in s.tensors().items()}
        about = {"next_step": next_step, "seconds": seconds, "log": {s.unit.name: s.log.rows for s in states}}
        checkpoint.save_tensors(self._checkpoint_path(group), tensors, about)

    def load_checkpoint(self, group, states):
        """Restore the states of a group; returns the step to go on at and the seconds spent, zeros without a checkpoint."""
        path = self._checkpoint_path(group)
        if not path.exists():
            return 0, 0.0
        tensors, about = checkpoint.load_tensors(path)
        if not _fits(about, states):
            raise UserError(f"{path}: is no checkpoint of these units. Remove it to start them afresh.")
        for state in states:
            prefix = f"{state.unit.name}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            plain = {name for name in own if not name.startswith("memory/")}
            moments = plain == {"x", "exp_avg", "exp_avg_sq", "step"} and own["step"].numel() == 1
            if not moments or any(own[name].shape != state.x.shape for name in ("x", "exp_avg", "exp_avg_sq")) or any(
                    not t.is_floating_point() or not torch.isfinite(t).all() for t in own.values()):
                raise UserError(f"{path}: does not hold {state.unit.name} as it is now. Remove it to start this unit afresh.")
            state.restore(own)
            state.log.rows = [(step, terms) for step, terms in about["log"][state.unit.name]]
        return about["next_step"], about["seconds"]

    def space(self, images, together, size):
        """About how many bytes are written at most: images, and a checkpoint beside the one it replaces.

        images: how many will be made; together: how many share a checkpoint; size: side in pixels.
        """
        image = size**2 * (3 if self.image_format == "png" else 0.75) + 1000  # JPEG of noise at quality 75: 6 bits a pixel
        return int(images * image + 2 * together * 3 * 4 * 3 * size**2)

    def checkpoint_step(self, group):
        """The step that a kept checkpoint of a group goes on at, or None."""
        path = self._checkpoint_path(group)
        return checkpoint.load_tensors(path)[1]["next_step"] if path.exists() else None

    def drop_checkpoint(self, group):
        self._checkpoint_path(group).unlink(missing_ok=True)
