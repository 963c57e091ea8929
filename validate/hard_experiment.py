"""Students of the hard-label protocols, one per seed: opened and checked; top-1 over the seeds."""

import json
import statistics
from dataclasses import asdict, dataclass, replace

import torch

from data import run_folder
from data.image_set import ImageSet
from data.names import has_flips
from data.opening import open_distilled
from models.networks import Network, build, check_image_size, file_stem
from utils import options
from utils.distributed import print0
from utils.files import write_json
from utils.options import print_options
from validate import experiment, hard_options
from validate.hard_protocols import Recipe
from validate.options import input_side
from validate.student_folder import StudentFolder


@dataclass
class Study:
    """What all seeds share.

    options: validate.hard_options.Options. recipe: the protocol's, with what the options change.
    images, test: the distilled and the real ImageSet, both of recipe.image_size.
    """

    options: hard_options.Options
    recipe: Recipe
    images: ImageSet
    test: ImageSet
    device: torch.device

    @property
    def name(self):
        """The students' folders are students/NAME_seed0 ..."""
        student, protocol = file_stem(self.recipe.student), self.options.method.protocol
        return self.options.student.student_name or f"{student}_{protocol}"

    @property
    def folder(self):
        return self.options.data.output_dir / "students"

    @property
    def flips(self):
        """Whether mirroring an image keeps its class."""
        return has_flips(self.options.data.dataset or self.images.dataset)


@dataclass
class Experiment:
    """The student of one seed: its first weights, the content of its options.json, its folder."""

    study: Study
    seed: int
    network: Network
    manifest: dict
    folder: StudentFolder

    @property
    def images(self):
        return self.study.images

    @property
    def device(self):
        return self.study.device


def open_study(o, device):
    """The Study that options ask for. Raises UserError for what does not fit together."""
    # The protocols keep the whole short side, of distilled images as of real ones.
    images = open_distilled(o.data.train_dir or o.data.output_dir / "images", o.run.workers,
                            hard_options.image_size(o), "square")
    study = Study(o, hard_options.recipe_of(o, images), images,
                  experiment.open_test_images(o, images, "square"), device)
    check_image_size(build_student(study, study.recipe.seeds[0]), images.image_size)
    return study


def build_student(study, seed):
    """The student of a seed with its first weights."""
    student = replace(study.options.student, student=study.recipe.student)
    classes = study.test.classes
    network = build(student.student, len(classes), student.stem, input_side(student),
                    (seed, "student", student.student), study.images.image_size)
    network.classes = classes
    return network


def open_experiment(study, seed):
    """The Experiment of a seed."""
    o, images = study.options, study.images
    manifest = {"preset": o.method.protocol,
                "preset_changed": hard_options.departures(o, images),
                "options": {**hard_options.result_options(o, study.recipe, images), "seed": seed},
                "identity": experiment.identity(images, study.test),
                "versions": run_folder.versions()}
    return Experiment(study, seed, build_student(study, seed), manifest, folder_of(study, seed))


def folder_of(study, seed):
    """students/NAME_seedN. Each seed is trained by one process, which writes its folder."""
    return StudentFolder(study.folder / f"{study.name}_seed{seed}",
                         report_to=study.options.run.report_to)


def print_study(study, threads):
    """Print what is trained."""
    o, recipe = study.options, study.recipe
    changed = ", ".join(hard_options.departures(o, study.images))
    values = {**options.shown(o), **asdict(recipe), "milestones": [
        recipe.epochs * part // whole for part, whole in recipe.milestones]}
    print_options("validate, hard labels", {
        **values, "protocol_changed": changed or "nothing", "flips": study.flips,
        "images": study.images, "test_images": len(study.test), "device": study.device,
        "threads": threads, "folders": study.folder / f"{study.name}_seed..."})


# Over seeds

def summarise(study):
    """Write students/NAME.json and print it: top-1 over all finished seeds, from their results.

    Seeds of an earlier call count where they were trained with the same options, on the same images
    and tested on the same.
    """
    results = finished_results(study)
    over_seeds = {which: spread([result[which]["top1"] for result in results.values()])
                  for which in ("best", "last")}
    seconds = [result["seconds"] for result in results.values()]
    write_json(study.folder / f"{study.name}.json", {
        "protocol": study.options.method.protocol,
        "protocol_changed": hard_options.departures(study.options, study.images),
        "student": study.recipe.student, "seeds": list(results), **over_seeds,
        "device": next(iter(results.values())).get("device"), "seconds": seconds})

    words = ", ".join(f"{which} {spread_words(values)}" for which, values in over_seeds.items())
    print0(f"{study.name}: top-1 % over {len(results)} seed{'s' * (len(results) > 1)}: {words}; "
           f"{sum(seconds):.0f} s; {study.folder / study.name}.json")


def finished_results(study):
    """{seed: result} of the study's finished students, in the order of the seeds."""
    options = hard_options.result_options(study.options, study.recipe, study.images)
    options = json.loads(json.dumps(options))  # tuples become lists, as in the files
    identity = experiment.identity(study.images, study.test)
    belongs = {name: identity[name] for name in ("images", "labels", "test_set")}
    results = {}
    for path in study.folder.glob(f"{study.name}_seed*"):
        result = StudentFolder(path).result()
        if result is None or result.get("identity") != belongs:
            continue
        seed = result["options"]["seed"]
        if {**options, "seed": seed} == result["options"]:
            results[seed] = result
    return dict(sorted(results.items()))


def spread(values):
    """{"mean", "std", "top1"} of top-1 per seed; std is the sample's (n - 1), None for one seed."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": deviation, "top1": values}


def spread_words(values):
    """"61.9 ± 1.9" of what `spread` gives."""
    mean, deviation = values["mean"], values["std"]
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
