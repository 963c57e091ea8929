"""What recover leaves on disk: images, records of finished units, checkpoints, previews, frames."""

import contextlib

from data import images
from data.names import class_words, digits, image_name
from data.run_folder import read_manifest
from recover.units import frame_steps
from utils import checkpoint
from utils.errors import UserError
from utils.files import damaged, read_json, sha256_file, write_json

PREVIEW_IMAGES = 20
RESTART = "Give the same again, or choose another --output-dir."


class UnitFiles:
    """Files of the units below a run folder.

    class_count: classes of the dataset, and ipc: slices planned; they decide how wide numbers in
    names are. A folder that exists keeps its own width of slice numbers. image_format: jpg or png.
    """

    def __init__(self, run, class_count, ipc, image_format):
        self.run, self.image_format, self.manifest = run, image_format, run / "images.json"
        self.class_digits, self.id_digits = digits(class_count), digits(ipc)
        if self.manifest.exists():
            self.id_digits = read_manifest(self.manifest, "recover").get("id_digits", 3)

    def image_path(self, label, ipc_id):
        """images/new%03d/class%03d_id%03d.jpg, with wider numbers past 999."""
        name = image_name(label, ipc_id, self.class_digits, self.id_digits)
        return self.run / "images" / f"{name}.{self.image_format}"

    def image_paths(self, unit):
        """The paths of a unit's images, in its order."""
        pairs = zip(unit.classes, unit.ipc_ids, strict=True)
        return [self.image_path(label, ipc_id) for label, ipc_id in pairs]

    def record_path(self, name):
        """The record of the unit of this name, which marks it as finished."""
        return self.run / "units" / f"{name}.json"

    def checkpoint_path(self, units):
        """The checkpoint of units that share forwards."""
        names = "_to_".join(dict.fromkeys([units[0].name, units[-1].name]))
        return self.run / "units" / f"unfinished_{names}.safetensors"

    def unfinished(self, units, weights):
        """What is left to do of units that share forwards, as lists of units; [] when all is done.

        A unit is finished when its record and all its images exist. Units that once shared forwards
        are made again together, from their checkpoint, when one of them is not finished, since
        sharing may change last bits; units that are added later (more IPC) keep to themselves.
        weights: {network: fingerprint}; a unit made with other weights is refused.
        """
        records = {unit: self.record(unit.name, weights) for unit in units}
        shared = {name: tuple(record["units_together"]) for record in records.values() if record
                  for name in record["units_together"]}
        together = {}
        for unit in units:
            together.setdefault(shared.get(unit.name), []).append(unit)

        left = []
        for alike in together.values():
            if all(records[unit] and all(path.exists() for path in self.image_paths(unit))
                   for unit in alike):
                self.drop_checkpoint(alike)
            else:
                left.append(alike)
        return left

    def groups(self, weights):
        """The images (label, ipc_id) of every record, as a list of tuples.

        weights: {network: fingerprint}; a record of other weights is refused.
        """
        groups = []
        for path in sorted((self.run / "units").glob("*.json")):
            record = self.record(path.stem, weights)
            try:
                groups.append(tuple(zip(record["classes"], record["ipc_ids"], strict=True)))
            except (KeyError, TypeError, ValueError) as error:
                raise damaged(path, "recover", error) from None
        return groups

    def record(self, name, weights):
        """The record of the unit of this name, or None where there is none.

        weights: {network: fingerprint}. Raises UserError for a unit made with other weights.
        """
        path = self.record_path(name)
        if not path.exists():
            return None
        record = read_json(path, "recover")
        if "units_together" not in record:
            raise damaged(path, "recover", "it does not say 'units_together'")
        for name, fingerprint in record.get("weights", {}).items():
            if weights.get(name, fingerprint) != fingerprint:
                raise UserError(f"{path}: was made with other weights of {name} than those given "
                                f"now. {RESTART}")
        return record

    def save_unit(self, unit, rows, pixels, record, class_names):
        """Write the images of a finished unit, then its record, and its preview if it has one.

        pixels: uint8 [n, 3, S, S]. rows: {name: likewise}, what the preview shows above them.
        record["start"]: words for every image.
        """
        paths, files = self.image_paths(unit), {}
        try:
            with self._not_removed():
                for path, image in zip(paths, pixels, strict=True):
                    images.save(image, path)
                    files[str(path.relative_to(self.run))] = sha256_file(path)
        except BaseException:  # part of a unit would pass for a smaller set of images
            _remove(paths)
            raise

        with self._not_removed():
            if unit.preview is not None:
                self._save_preview(unit, {**rows, "result": pixels}, class_names)
            start = dict(zip(files, record["start"], strict=True))
            write_json(self.record_path(unit.name), {**record, "start": start, "files": files})

    def _save_preview(self, unit, rows, class_names):
        count = min(PREVIEW_IMAGES, *map(len, rows.values()))
        names = [class_words(class_names[c]) for c in unit.classes[:count]]
        path = self.run / "previews" / f"{unit.preview}.png"
        images.save_grid([row[:count] for row in rows.values()], path, list(rows), names)

    def frame_path(self, label, ipc_id, step):
        """frames/new%03d/class%03d_id%03d/step%05d.png: an image after so many steps."""
        image = self.image_path(label, ipc_id)
        return self.run / "frames" / image.parent.name / image.stem / f"step{step:05d}.png"

    def save_frames(self, unit, step, pixels):
        """Write the first images of a unit as they are after `step` steps: uint8 [n, 3, S, S]."""
        with self._not_removed():
            for label, ipc_id, image in zip(unit.classes, unit.ipc_ids, pixels, strict=False):
                images.save(image, self.frame_path(label, ipc_id, step))

    @contextlib.contextmanager
    def _not_removed(self):
        """Raise UserError where the run folder was removed: what is written then has no options."""
        try:
            self.manifest.stat()
            yield
        except FileNotFoundError as error:
            raise UserError(f"{error.filename or self.run}: was removed while recover worked. Run "
                            "the same command again.") from None

    def save_checkpoint(self, units, states, next_step, seconds):
        """Keep what is needed to go on with some units at next_step. seconds: spent so far."""
        tensors = {f"{state.unit.name}.{name}": tensor for state in states
                   for name, tensor in state.tensors().items()}
        log = {state.unit.name: state.log.rows for state in states}
        with self._not_removed():
            checkpoint.save_tensors(self.checkpoint_path(units), tensors,
                                    {"next_step": next_step, "seconds": seconds, "log": log})

    def load_checkpoint(self, units, states):
        """Restore states; returns (next step, seconds spent), zeros without a checkpoint."""
        path = self.checkpoint_path(units)
        if not path.exists():
            return 0, 0.0
        tensors, about = checkpoint.load_tensors(path)
        try:
            for state in states:
                prefix = f"{state.unit.name}."
                state.restore({name.removeprefix(prefix): tensor
                               for name, tensor in tensors.items() if name.startswith(prefix)})
                rows = about["log"][state.unit.name]
                state.log.rows = [(step, terms) for step, terms in rows]
            return about["next_step"], about["seconds"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: does not hold these units ({checkpoint.first_line(error)}). "
                            "Remove it to start them afresh.") from None

    def checkpoint_step(self, units):
        """The step that a kept checkpoint goes on at, or None."""
        path = self.checkpoint_path(units)
        return checkpoint.read_header(path)["next_step"] if path.exists() else None

    def drop_checkpoint(self, units):
        """Remove the checkpoint of some units, if there is one."""
        self.checkpoint_path(units).unlink(missing_ok=True)

    def space(self, units, options):
        """About how many bytes all processes write at most: images, frames, checkpoints of one.

        units: of the whole run; those with a record are done. A checkpoint is written beside the
        one that it replaces. options: recover.options.Options, resolved.
        """
        size, together = options.data.image_size, options.optimisation.units_per_step
        units = [unit for unit in units if not self.record_path(unit.name).exists()]
        counts = [len(unit.classes) for unit in units]
        frames = sum(min(PREVIEW_IMAGES, len(unit.classes))
                     * len(frame_steps(unit.steps, options.run.frames))
                     for unit in units if unit.preview is not None)
        # Noise at JPEG's quality 75 takes 6 bits a pixel.
        image = size**2 * (3 if self.image_format == "png" else 0.75) + 1000
        pixels, moments = 3 * size**2, 3 * 4
        return int(sum(counts) * image + frames * pixels
                   + 2 * max(counts, default=0) * together * moments * pixels)


def _remove(paths):
    """Remove files that may exist, and their folders when nothing is left in them."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()
