"""Verify run folders: images, units, labels, students. Prints a line per problem, with what to run to repair it.

    python -m report.check results/prism_r18_ipc10 [...]

Exit status 0 when all is well, 1 when there is a problem, 2 for a folder that is none. Nothing is changed.
"""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

from data import run_folder
from data.datasets import class_folders
from data.distilled import DistilledImages
from data.epoch_plan import draw_plan
from data.images import decode
from data.labels import LabelStore
from utils import checkpoint, options
from utils.errors import UserError, run_entry
from utils.files import leftovers, read_json, sha256_file
from utils.progress import progress_bar, write_above

_IMAGE = re.compile(r"images/new\d+/class\d+_id\d+\.(jpg|png)")  # the only names that a record may give
_AT_ONCE = 1000  # images handed to threads at once
_RECOVER = "Run the same recover command again"


def get_args_parser():
    parser = options.Parser(prog="report.check", description="Verify run folders; nothing is changed.")
    parser.add_argument("folders", nargs="+", type=options.path, metavar="FOLDER", help="run folder, such as results/NAME")
    options.add_workers_argument(parser)
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    for folder in args.folders:
        if not any((folder / name).exists() for name in ("images", "labels", "students")):
            raise UserError(f"{folder}: is no run folder (no images, labels or students in it). Give one such as results/NAME.")
    if sum([Check(folder, args.workers).run() for folder in args.folders]):
        sys.exit(1)


class Check:
    """All checks of one run folder. problems: how many lines were printed."""

    def __init__(self, folder, workers):
        self.folder, self.workers, self.problems = folder, max(1, workers), 0
        self.images = None  # DistilledImages, when the folder holds such

    def run(self):
        """Print problems and a last line of what was there. Returns their number."""
        counts = []
        with progress_bar(0, f"check {self.folder.name}", "", leave=False) as self.bar:
            self.check_leftovers()
            for part, check in (("images", self.check_images), ("labels", self.check_labels), ("students", self.check_students)):
                if (self.folder / part).is_dir():
                    counts.append(check())
        words = "no problem" if self.problems == 0 else "1 problem" if self.problems == 1 else f"{self.problems} problems"
        print(f"{self.folder}: {', '.join(counts)}: {words}", flush=True)
        return self.problems

    def problem(self, text):
        self.problems += 1
        write_above(self.bar, f"problem: {text}")

    def attempt(self, function, *values):
        """function(*values); a UserError, which says what to do, becomes a problem and gives None."""
        try:
            return function(*values)
        except UserError as error:
            self.problem(str(error))
            return None

    def check_leftovers(self):
        for path, host, _ in leftovers(self.folder):
            self.problem(f"{path}: a file that was being written by a process on {host}. If that no longer runs: rm '{path}'")

    # images

    def check_images(self):
        manifest = self.folder / "images.json"
        content = self.attempt(run_folder.read_manifest, manifest, "recover") if manifest.exists() else None
        folders = self.attempt(class_folders, self.folder / "images")
        if folders is None:
            return "no images"
        expected = self.expected_files()
        if content is not None:
            self.check_classes(content, {name: len(files) for name, files in folders.items()})
        paths = [file for files in folders.values() for file in files]
        names = {str(path.relative_to(self.folder)) for path in paths}
        if expected is not None:
            for name in sorted(set(expected) - names):
                self.problem(f"{self.folder / name}: missing. {_RECOVER}: it makes this unit anew.")
            for name in sorted(names - set(expected)):
                self.problem(f"{self.folder / name}: no unit's record names it. {_RECOVER} if it was stopped, else "
                             "remove the file.")
        self.check_files(paths, expected or {})
        self.images = self.attempt(DistilledImages, self.folder / "images", self.workers)
        return f"{len(paths)} images of {len(folders)} classes"

    def expected_files(self):
        """{name below the run folder: (SHA-256, path of the unit's record)}, or None when no unit has a record."""
        found, units = {}, self.folder / "units"
        for path in sorted(units.glob("unfinished_*")):
            self.problem(f"{path}: units that are not finished. {_RECOVER}: it goes on there.")
        records = sorted(units.glob("*.json"))
        for path in records:
            files = (self.attempt(read_json, path, "recover") or {"files": {}}).get("files")
            if not isinstance(files, dict) or not all(_IMAGE.fullmatch(name) and isinstance(digest, str)
                                                      for name, digest in files.items()):
                self.problem(f"{path}: does not name images of this folder. rm '{path}', then run the same recover command again.")
                continue
            found.update({name: (digest, path) for name, digest in files.items()})
        return found if records else None

    def check_classes(self, content, counts):
        """counts: {class folder: images}."""
        classes = content.get("identity", {}).get("classes", [])
        if len(classes) != len(counts):
            self.problem(f"{self.folder / 'images'}: {len(counts)} class folders, images.json lists {len(classes)} classes. "
                         f"{_RECOVER}.")
        most = max(counts.values())
        if content.get("options", {}).get("allow_short_classes"):
            return
        for name, count in counts.items():
            if count < most:
                self.problem(f"{self.folder / 'images' / name}: {count} images, other classes have {most}. {_RECOVER}.")

    def check_files(self, paths, expected):
        """Decode every image and compare it with its record."""
        def look(path):
            known = expected.get(str(path.relative_to(self.folder)))
            if known is not None and sha256_file(path) != known[0]:
                raise UserError(f"{path}: was changed since it was made, says {known[1].name}. rm '{path}', then run the same "
                                "recover command again.")
            return decode(path).size

        size = None
        self.bar.reset(len(paths))
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(paths), _AT_ONCE):
                part = paths[start : start + _AT_ONCE]
                for path, job in [(path, pool.submit(look, path)) for path in part]:
                    found = self.attempt(job.result)
                    self.bar.update(1)
                    size = size or found
                    if found is not None and (found != size or found[0] != found[1]):
                        self.problem(f"{path}: {found[0]}x{found[1]} pixels, the others have {size[0]}x{size[1]}. rm '{path}', "
                                     "then run the same recover command again.")

    # labels

    def check_labels(self):
        folder = self.folder / "labels"
        if self.images is None:
            self.problem(f"{folder}: cannot be checked without the images they belong to. Repair the images first.")
            return "labels"
        store = self.attempt(LabelStore, folder, self.images)
        if store is None:
            return "labels"
        known = {"labels.json", "preview.png", *(f"epoch_{epoch:03d}.safetensors" for epoch in store.epochs)}
        for path in sorted(folder.iterdir()):
            if path.name not in known and not path.name.endswith(".tmp"):
                self.problem(f"{path}: is no file of relabel. rm '{path}'")
        for epoch in sorted(set(range(max(store.epochs, default=-1))) - set(store.epochs)):
            self.problem(f"{folder}: epoch {epoch} is missing. Run the same relabel command again: finished epochs are skipped.")
        self.bar.reset(len(store.epochs) * store.plan_options.batches)
        with ThreadPoolExecutor(self.workers) as pool:
            for job in [pool.submit(self.check_epoch, store, epoch) for epoch in store.epochs]:
                self.attempt(job.result)
        return f"{len(store.epochs)} epochs of labels"

    def check_epoch(self, store, epoch):
        labels = store.epoch(epoch)
        if labels.plan != draw_plan(store.plan_options, epoch):
            raise UserError(f"{labels.path}: its plan is not the one that labels.json gives epoch {epoch}. rm '{labels.path}', "
                            "then run the same relabel command again.")
        for batch in range(store.plan_options.batches):
            labels.batch(batch)
            self.bar.update(1)

    # students

    def check_students(self):
        folders = [path for path in sorted((self.folder / "students").iterdir()) if path.is_dir()]
        self.bar.reset(len(folders))
        for folder in folders:
            self.check_student(folder)
            self.bar.update(1)
        return f"{len(folders)} student{'s' * (len(folders) != 1)}"

    def check_student(self, folder):
        """Weights are readable and finite; result, weights, metrics and options say the same."""
        manifest = self.attempt(run_folder.read_manifest, folder / "options.json", "validate")
        again = f"Remove {folder} and run the same validate command again."
        done = (folder / "result.json").exists()
        if not done:
            self.problem(f"{folder}: is not finished. Run the same validate command again: it goes on there.")
        abouts = {which: self.attempt(_weights, folder / f"{which}.safetensors", again) for which in ("best", "last")
                  if done or (folder / f"{which}.safetensors").exists()}
        result = self.attempt(read_json, folder / "result.json", "validate") if done else None
        if result is None or manifest is None or None in abouts.values():
            return
        tested = self.attempt(_tested, folder / "metrics.jsonl", again) or []
        best = next((line for line in tested if line["top1"] == max(line["top1"] for line in tested)), None)
        for which, line in (("best", best), ("last", tested[-1] if tested else None)):
            for source, found in (("metrics.jsonl", line), (f"{which}.safetensors", abouts[which])):
                said = {name: result.get(which, {}).get(name) for name in ("epoch", "top1", "top5")}
                there = {name: (found or {}).get(name) for name in said}
                if said != there:
                    self.problem(f"{folder / 'result.json'}: says {which} = {said}, {source} says {there}. {again}")
        if result.get("options") != manifest.get("options"):
            self.problem(f"{folder / 'result.json'}: has other options than options.json. {again}")
        belongs = manifest.get("identity", {}).get("images", {}).get("files")
        if self.images is not None and belongs != self.images.identity["files"]:
            self.problem(f"{folder}: was trained on other images than lie in {self.images.folder} now. Put those back, or remove "
                         f"{folder}.")


def _weights(path, again):
    """What a file of weights says about its student. Raises UserError when it cannot be read or a weight is not finite."""
    tensors, about = checkpoint.load_tensors(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds values that are not finite. {again}")
    if not isinstance(about.get("about"), dict):
        raise UserError(f"{path}: does not say what was tested. {again}")
    return about["about"]


def _tested(path, again):
    """The lines of metrics.jsonl of epochs that were tested."""
    try:
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        return [line for line in lines if isinstance(line["epoch"], int) and "top1" in line]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}). {again}") from None


if __name__ == "__main__":
    run_entry(main)
