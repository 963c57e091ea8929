"""Where an epoch's plan and soft labels come from.

A source has: kind, a word; options, the PlanOptions; identity(), what the labels are (None without); prepare(), which loads what it
needs; epoch(e) -> (EpochPlan, function of (batch, mixed images) giving soft labels [n, C], or None). Call it batch after batch.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

from data.epoch_plan import ALPHA, PlanOptions, draw_plan
from data.label_formats import through_format
from data.labels import LabelStore, arithmetic_of
from models.ensemble import Ensemble
from models.networks import fingerprint
from models.teachers import load_teachers
from utils.errors import UserError
from utils.precision import Arithmetic


def read_ahead(function, count):
    """function(0) ... function(count - 1), in order, each called by a thread while the one before is being used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(function, 0)
        for number in range(1, count + 1):
            found = waiting.result()
            if number < count:
                waiting = pool.submit(function, number)
            yield found


class StoredLabels:
    """Labels read from the files of relabel."""

    kind = "stored"

    def __init__(self, store):
        self.store, self.options = store, store.plan_options

    def identity(self):
        recipe = {name: value for name, value in self.store.options.items() if name != "teacher_weights"}
        return {"options": recipe, "teachers": self.store.teachers}

    def prepare(self):
        pass

    def epoch(self, epoch):
        labels = self.store.epoch(epoch)
        batches = read_ahead(labels.batch, self.options.batches)
        return labels.plan, lambda *_: next(batches)


class OnlineLabels(StoredLabels):
    """Labels made here by the recipe in labels.json, through the same number format: what StoredLabels would read.

    load: function giving the Ensemble that the recipe describes.
    """

    kind = "online"

    def __init__(self, store, load):
        super().__init__(store)
        self._load = load

    def prepare(self):
        self.ensemble = self._load()

    def epoch(self, epoch):
        number_format = self.store.number_format
        return draw_plan(self.options, epoch), lambda _, images: through_format(self.ensemble(images), number_format)


class TeacherLabels:
    """Labels made here for views of this run's own: plans drawn from the student's seed, logits as they are (DELT, RDED).

    load: function giving the Ensemble.
    """

    kind = "teacher"

    def __init__(self, options, load):
        self.options, self._load = options, load

    @functools.cached_property
    def ensemble(self):
        return self._load()

    def identity(self):
        """In the words of labels.json."""
        return {"options": {"teachers": [t.name for t in self.ensemble.teachers], "ensemble": self.ensemble.rule},
                "teachers": {t.name: fingerprint(t) for t in self.ensemble.teachers}}

    def prepare(self):
        pass  # identity has loaded them

    def epoch(self, epoch):
        return draw_plan(self.options, epoch), lambda _, images: self.ensemble(images)


class HardLabels:
    """No soft labels: plans drawn from the student's seed."""

    kind = "none"

    def __init__(self, options):
        self.options = options

    def identity(self):
        return None

    def prepare(self):
        pass

    def epoch(self, epoch):
        return draw_plan(self.options, epoch), None


def own_plan(images, size, flip, seed, batch_size=None, min_area=None, mix="none"):
    """PlanOptions where no labels folder gives them; None: batches of 50, 0.25 of the area (the paper's)."""
    return PlanOptions(images, size, batch_size or 50, min_area or 0.25, flip, mix, ALPHA[mix], seed)


def open_labels(folder, images, epochs, mode="auto", wanted=()):
    """Open and check a labels folder before anything expensive. Returns (LabelStore, whether to make labels online).

    mode: auto, stored or online. wanted: [(option, value or None, the preset that asks for it or None)] for --batch-size,
    --min-scale-crops and --mix-type. Raises UserError when one differs from the labels', when the labels belong to other
    images, or an epoch of 0 ... epochs-1 is missing.
    """
    store = LabelStore(folder, images)
    there = store.plan_options
    own = {"--batch-size": there.batch_size, "--min-scale-crops": there.min_area, "--mix-type": there.mix}
    for option, value, preset in wanted:
        if value is not None and value != own[option]:
            found, advice = f"{option} {value}", "Leave it out"
            if preset is not None:
                found, advice = f"{found} of --preset {preset}", f"Give {option} {own[option]} to go on with these labels"
            raise UserError(f"{folder}: labels were made with {option} {own[option]}, found {found}. {advice}, or run relabel with "
                            f"{option} {value} into another --fkd-path.")
    if mode == "stored" and store.store == "none":
        raise UserError(f"{folder}: relabel stored no labels here, only their recipe. Give --labels online, or run relabel "
                        "so that it stores them.")
    online = mode == "online" or (mode == "auto" and store.store == "none")
    if not online:
        store.check(epochs)
    return store, online


def stored_ensemble(store, images, weights, device):
    """The Ensemble that labels.json describes. Raises UserError when a teacher's weights are not those it names."""
    rule, weights = store.options["ensemble"], weights or store.options["teacher_weights"]
    names = store.options["teachers"][: 1 if rule == "single" else None]
    ensemble = own_ensemble(names, rule, weights, images, device, arithmetic_of(store.options))
    for network in ensemble.teachers:
        if fingerprint(network) != store.teachers.get(network.name):
            raise UserError(f"{store.folder}: the weights of {network.name} in {weights} are not those the labels were made with. "
                            "Give the right --teacher-weights, or run relabel again into another --fkd-path.")
    return ensemble


def own_ensemble(names, rule, weights, images, device, arithmetic=Arithmetic()):  # noqa: B008 - frozen
    """An Ensemble of teachers by name. weights: of torchvision, or a folder. images: DistilledImages they will see."""
    teachers = load_teachers(names, weights, images.classes, device, image_size=images.image_size)
    return Ensemble([teachers[name] for name in names], rule, arithmetic)
