"""Where an epoch's plan and soft labels come from: stored by relabel, made here with the same numbers, or none at all."""

from models.ensemble import Ensemble
from models.networks import fingerprint
from models.teachers import load_teachers
from utils.epoch_plan import ALPHA, PlanOptions, draw_plan
from utils.errors import UserError
from utils.soft_labels import LabelStore, through_format


class StoredLabels:
    """Labels read from files. epoch(e) gives (EpochPlan, function of (batch, mixed images) giving [n, C])."""

    def __init__(self, store):
        self.store, self.options = store, store.plan_options

    def epoch(self, epoch):
        labels = self.store.epoch(epoch)
        return labels.plan, lambda batch, _: labels.batch(batch)


class OnlineLabels:
    """Labels made here by the recipe in labels.json, through the same number format: what StoredLabels would read."""

    def __init__(self, store, ensemble):
        self.store, self.options, self.ensemble = store, store.plan_options, ensemble

    def epoch(self, epoch):
        number_format = self.store.number_format
        return draw_plan(self.options, epoch), lambda _, images: through_format(self.ensemble(images), number_format)


class HardLabels:
    """No soft labels: plans drawn from the student's seed. epoch(e) gives (EpochPlan, None)."""

    def __init__(self, images, size, flip, seed, batch_size=None, min_area=None, mix=None):
        mix = mix or "none"
        self.options = PlanOptions(images, size, batch_size or 50, min_area or 0.25, flip, mix, ALPHA[mix], seed)

    def epoch(self, epoch):
        return draw_plan(self.options, epoch), None


def open_labels(folder, images, epochs, mode="auto", batch_size=None, min_area=None, mix=None):
    """Open and check a labels folder before anything expensive. Returns (LabelStore, whether to make labels online).

    mode: auto, stored or online. batch_size, min_area, mix: as the user gave them, or None. Raises UserError when one
    differs from the labels', when the labels belong to other images, or an epoch of 0 ... epochs-1 is missing.
    """
    store = LabelStore(folder, images)
    there = store.plan_options
    for option, given, own in (("--batch-size", batch_size, there.batch_size), ("--min-scale-crops", min_area, there.min_area),
                               ("--mix-type", mix, there.mix)):
        if given is not None and given != own:
            raise UserError(f"{folder}: labels were made with {option} {own}, found {option} {given}. Leave it out, or run "
                            f"relabel with {option} {given} into another --fkd-path.")
    if mode == "stored" and store.store == "none":
        raise UserError(f"{folder}: relabel stored no labels here, only their recipe. Give --labels online, or run relabel "
                        "so that it stores them.")
    online = mode == "online" or (mode == "auto" and store.store == "none")
    if not online:
        store.check(epochs)
    return store, online


def load_ensemble(store, images, weights, device):
    """The Ensemble that labels.json describes. Raises UserError when a teacher's weights are not those it names."""
    rule, weights = store.options["ensemble"], weights or store.options["teacher_weights"]
    names = store.options["teachers"][: 1 if rule == "single" else None]
    teachers = load_teachers(names, weights, images.classes, device, image_size=store.plan_options.size)
    for name, network in teachers.items():
        if fingerprint(network) != store.teachers.get(name):
            raise UserError(f"{store.folder}: the weights of {name} in {weights} are not those the labels were made with. Give "
                            "the right --teacher-weights, or run relabel again into another --fkd-path.")
    return Ensemble([teachers[name] for name in names], rule)
