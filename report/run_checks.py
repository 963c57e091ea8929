"""The checks of a run folder: does each file hold what the others say of it?"""

from concurrent.futures import ThreadPoolExecutor

import torch

from data.epoch_plan import draw_plan
from data.image_set import open_distilled
from data.labels import LabelStore, epoch_file
from data.run_folder import read_manifest
from utils.checkpoint import load_tensors
from utils.errors import UserError
from utils.files import read_json, sha256_file
from utils.progress import progress_bar


def check(run, workers):
    """Print what a run folder holds, and its problems. Returns their number."""
    problems = 0
    for sentence in find_problems(run, workers):
        problems += 1
        print(f"problem: {sentence}", flush=True)
    print(f"{run}: {problems or 'no'} problem{'s' * (problems > 1)}", flush=True)
    return problems


def find_problems(run, workers):
    """Yield a sentence per problem: of the images, then of labels and students."""
    images = None
    try:
        images = open_distilled(run / "images", workers)
        print(f"images: {len(images)} of {len(images.classes)} classes")
        yield from image_problems(run, images)

        if (run / "labels").is_dir():
            store = LabelStore(run / "labels", images)
            print(f"labels: {len(store.epochs)} epochs")
            yield from label_problems(store, workers)
    except UserError as error:
        yield str(error)

    students = sorted(path for path in (run / "students").glob("*") if path.is_dir())
    print(f"students: {len(students)}")
    yield from each(lambda folder: check_student(folder, images), students, workers)


def each(function, items, workers):
    """The messages of the UserErrors that function(item) raises, over all items, in threads."""
    def attempt(item):
        try:
            function(item)
            return None
        except UserError as error:
            return str(error)
        finally:
            bar.update(1)

    with (progress_bar(len(items), "check", " files", leave=False) as bar,
          ThreadPoolExecutor(workers) as pool):
        return [message for message in pool.map(attempt, items) if message]


def image_problems(run, images):
    """Every image can be read, has the size of the others and is the one in its unit's record."""
    again = "Run the same recover command again."
    for path in sorted((run / "units").glob("unfinished_*")):
        yield f"{path}: units that are not finished. {again}"
    hashes = {}  # by an image's path below the run folder
    for path in sorted((run / "units").glob("*.json")):
        hashes.update(read_json(path, "recover")["files"])

    names = [f"images/{name}" for name in images.names]
    for name in sorted(set(hashes) - set(names)):
        yield f"{run / name}: missing. {again}"
    for name in sorted(set(names) - set(hashes)) if hashes else []:
        yield f"{run / name}: no unit's record names it. Remove it. {again}"

    def check_image(i):
        path, expected = images.paths[i], hashes.get(names[i])
        if expected is not None and sha256_file(path) != expected:
            raise UserError(f"{path}: was changed since it was made. Remove it. {again}")
        images.image(i)

    yield from each(check_image, range(len(images)), images.workers)


def label_problems(store, workers):
    """Every epoch can be read, has the plan that labels.json gives it, and none is missing."""
    def check_epoch(epoch):
        if store.epoch(epoch).plan != draw_plan(store.plan_options, epoch):
            raise UserError(f"{epoch_file(store.folder, epoch)}: its plan is not the one that "
                            f"labels.json gives epoch {epoch}. Remove it and run relabel again.")

    return each(check_epoch, range(max(store.epochs, default=-1) + 1), workers)


def check_student(folder, images):
    """Weights are finite, and result, weights and images belong together.

    images: an ImageSet, or None where it cannot be read.
    """
    again = f"Remove {folder} and run the same validate command again."
    manifest = read_manifest(folder / "options.json", "validate")
    if not (folder / "result.json").exists():
        raise UserError(f"{folder}: is not finished. Run the same validate command again.")
    result = read_json(folder / "result.json", "validate")

    for which in ("best", "last"):
        path = folder / f"{which}.safetensors"
        tensors, content = load_tensors(path)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise UserError(f"{path}: {name} holds values that are not finite. {again}")
        test = {name: content.get("about", {}).get(name) for name in ("epoch", "top1", "top5")}
        if test != result.get(which):
            raise UserError(f"{path}: was tested with {test}, result.json says "
                            f"{result.get(which)}. {again}")

    trained_on = manifest["identity"]["images"]["files"]
    if images is not None and trained_on != images.identity["files"]:
        raise UserError(f"{folder}: was trained on other images than those in {images.folder}. "
                        f"Put those back, or remove {folder}.")
