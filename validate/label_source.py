"""Where the plans and the soft labels of a student come from."""

from dataclasses import dataclass

from data.epoch_plan import PlanOptions, draw_plan
from data.label_formats import through_format
from data.labels import LabelStore, arithmetic_of
from data.names import MIXES, flip_probability
from models.ensemble import Ensemble
from models.networks import fingerprint
from models.teachers import load_teachers
from utils.errors import UserError
from utils.options import flag
from utils.precision import Arithmetic
from validate.options import label_kind


@dataclass
class LabelSource:
    """The plan and the soft labels of every epoch.

    kind: "stored": the files of relabel. "online": made here by relabel's recipe, through the same
    number format, so they are the numbers of the files. "teacher": made here for views of this run,
    as they are (DELT, RDED). "hard": none.
    plan_options: PlanOptions of the epochs. store: LabelStore, with stored and online labels.
    ensemble: Ensemble that labels here, with online and teacher labels.
    """

    kind: str
    plan_options: PlanOptions
    store: LabelStore | None = None
    ensemble: Ensemble | None = None

    @property
    def identity(self):
        """What the labels are, as labels.json names it; None for hard labels."""
        if self.kind == "hard":
            return None
        if self.store is not None:
            return self.store.identity
        networks = self.ensemble.teachers
        return {"options": {"teachers": [network.name for network in networks],
                            "ensemble": self.ensemble.rule},
                "teachers": {network.name: fingerprint(network) for network in networks}}

    @property
    def stem(self):
        """The stem of the teacher that labels, the first of several; None where none is known."""
        if self.ensemble is not None:
            return self.ensemble.teachers[0].stem
        return self.store and self.store.stem

    def epoch(self, epoch):
        """(EpochPlan, labels) of an epoch; labels as validate.batches.epoch_batches takes them."""
        if self.kind == "stored":
            labels = self.store.epoch(epoch)
            return labels.plan, labels
        return draw_plan(self.plan_options, epoch), None if self.kind == "hard" else self.label

    def label(self, images):
        """Soft labels [n, C] of mixed images [n, 3, S, S], made here."""
        logits = self.ensemble(images)
        return through_format(logits, self.store.number_format) if self.store else logits


def open_source(o, images, device):
    """The LabelSource that resolved options ask for, checked against the distilled images."""
    kind = label_kind(o)
    if kind == "folder":
        return open_labels(o, images)
    if kind == "hard":
        return LabelSource("hard", own_plan(o, images))
    labels = o.soft_labels
    weights = labels.teacher_weights or "IMAGENET1K_V1"
    ensemble = load_ensemble(labels.teachers, labels.ensemble, weights, images, device)
    return LabelSource("teacher", own_plan(o, images), ensemble=ensemble)


def own_plan(o, images):
    """PlanOptions where no labels folder gives them: from the student's seed."""
    mix = o.views.mix_type or ("none" if label_kind(o) == "hard" else "cutmix")
    flip = o.views.flip_prob
    return PlanOptions(
        images=len(images), size=images.image_size, batch_size=o.optimisation.batch_size or 50,
        augment=o.views.augment or "crop", min_area=o.views.min_scale_crops or 0.25,
        flip=flip_probability(o.data.dataset) if flip is None else flip,
        mix=mix, alpha=MIXES[mix], seed=o.run.seed)


def open_labels(o, images):
    """The LabelSource of a labels folder, stored or online; with online labels without teachers.

    Raises UserError when the labels belong to other images or were made with other views than the
    options ask for, and when an epoch of 0 ... epochs - 1 is missing.
    """
    store = LabelStore(o.data.fkd_path or o.data.output_dir / "labels", images)
    check_views(o, store)
    wanted = o.soft_labels.labels
    if wanted == "stored" and store.store == "none":
        raise UserError(f"{store.folder}: relabel stored no labels here, only their recipe. Give "
                        "--labels online, or run relabel so that it stores them.")
    if wanted == "online" and store.store == "imported":
        raise UserError(f"{store.folder}: these labels were imported, and their files do not say "
                        "what made them. Give --labels stored.")
    if wanted == "online" or store.store == "none":
        return LabelSource("online", store.plan_options, store)
    store.check(o.optimisation.epochs)
    return LabelSource("stored", store.plan_options, store)


def check_views(o, store):
    """Raise UserError for a batch size, crop, flip or mixing that is asked for, not the labels'."""
    plan = store.plan_options
    pairs = {"batch_size": (o.optimisation.batch_size, plan.batch_size),
             "augment": (o.views.augment, plan.augment),
             "min_scale_crops": (o.views.min_scale_crops, plan.min_area),
             "flip_prob": (o.views.flip_prob, plan.flip),
             "mix_type": (o.views.mix_type, plan.mix)}
    for name, (value, labelled) in pairs.items():
        if value in (None, labelled) or labelled is None:  # imported labels do not say all
            continue
        wanted, advice = f"{flag(name)} {value}", "Leave it out"
        if name not in o.given:
            wanted += f" of --preset {o.preset}"
            advice = f"Give {flag(name)} {labelled} to go on with these labels"
        raise UserError(f"{store.folder}: labels were made with {flag(name)} {labelled}, found "
                        f"{wanted}. {advice}, or run relabel with {flag(name)} {value} into "
                        "another --fkd-path.")


def recipe_ensemble(store, weights, images, device):
    """The Ensemble that labels.json describes.

    weights: --teacher-weights, or None for those that labels.json names. Raises UserError when a
    teacher's weights are not those that the labels were made with.
    """
    rule = store.options["ensemble"]
    weights = weights or store.options["teacher_weights"]
    names = store.options["teachers"][: 1 if rule == "single" else None]
    ensemble = load_ensemble(names, rule, weights, images, device, arithmetic_of(store.options))
    for network in ensemble.teachers:
        if fingerprint(network) != store.teachers.get(network.name):
            raise UserError(f"{store.folder}: the weights of {network.name} in {weights} are not "
                            "those the labels were made with. Give the right --teacher-weights, "
                            "or run relabel again into another --fkd-path.")
    return ensemble


def load_ensemble(names, rule, weights, images, device,
                  arithmetic=Arithmetic()):  # noqa: B008 - frozen
    """An Ensemble of teachers by name, for the images of an ImageSet."""
    teachers = load_teachers(names, weights, images.classes, device, images.image_size,
                             numbered=images.numbered)
    return Ensemble([teachers[name] for name in names], rule, arithmetic)
