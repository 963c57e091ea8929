"""The variants of recover's step that benchmarks.recover compares, and their time and memory."""

import functools
import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.optimization import fuse

from benchmarks import measure
from data import images
from models.bn_statistics import has_batch_norm
from models.networks import build
from recover import losses
from recover.alignment import NormAlignment
from recover.gradient import Part, loss_gradient
from recover.options import Options, TeacherLaw
from recover.presets import PRESETS
from recover.synthesize import UnitState, draw_augmentation
from recover.teacher_pool import TeacherDraws, Teachers
from recover.units import Unit
from utils import schedules
from utils.errors import UserError
from utils.options import from_values
from utils.precision import Arithmetic
from utils.seeding import stable_seed

CLASSES, STEPS = 1000, 4000
OPTIONS = from_values(Options, {"flip_prob": 0.5, "jitter": 32}, PRESETS)


@dataclass(frozen=True)
class Work:
    """What every variant optimises: one unit of random images. size: their side in pixels."""

    count: int
    size: int
    device: torch.device

    def start(self):
        """(images, labels) to start from."""
        # Drawn by the device itself: a CPU would take longer for it than a GPU for the steps.
        generator = torch.Generator(self.device).manual_seed(stable_seed("benchmark", "start"))
        shape = self.count, 3, self.size, self.size
        x = torch.randn(shape, generator=generator, device=self.device)
        return images.clamp_(x), torch.arange(self.count, device=self.device) % CLASSES

    def unit(self, teachers, number=0):
        """The unit, guided by these Teachers. number: of several, which have their own crops."""
        classes = tuple(i % CLASSES for i in range(self.count))
        return Unit("benchmark", number, (0, number), classes, (0,) * self.count, STEPS,
                    TeacherDraws(TeacherLaw()), (0,), teachers)


def network(name, device):
    """A frozen network with random weights."""
    net = build(name, CLASSES, seed=("benchmark", name))
    return net.requires_grad_(False).eval().to(device)


# Ours and the floor

def alignments_of(kind, names, arithmetic, device):
    """{name: alignment} of networks with random weights; kind: NormAlignment or FoldedAlignment.

    They are entered once and for all: entering them again would compile them again.
    """
    return {name: kind(network(name, device), arithmetic=arithmetic).__enter__() for name in names}


class OurStep:
    """The step of recover.synthesize for units that share a forward; a call takes the next one.

    first: its number. The terms of step 0, and of every log_every-th one, are logged.
    """

    def __init__(self, work, alignments, teachers, units=1, first=1):
        self.states = [UnitState(work.unit(teachers, number), *work.start())
                       for number in range(units)]
        self.alignments, self.steps = alignments, itertools.count(first)

    def __call__(self):
        step = next(self.steps)
        views = [state.view(step, OPTIONS) for state in self.states]
        loss_gradient(views, self.alignments, OPTIONS.losses)
        for state, view in zip(self.states, views, strict=True):
            state.descend(view, step, OPTIONS)
            state.log.arrived()


class FoldedAlignment:
    """What no step can do without: convolutions and activations, forward and backward.

    The distances are arbitrary numbers that depend on the logits.
    """

    layers = 1

    def __init__(self, network, arithmetic):
        network.net = fuse(network.net).to(memory_format=torch.channels_last)
        self.network, self.logits = network, arithmetic.of(network)

    def __enter__(self):
        return self

    def __call__(self, x, parts):
        logits = self.logits(x)
        units = logits.split([len(part) for part in parts])
        return logits, torch.stack([unit.float().mean() for unit in units])


# The reference

class ReferenceNetworks:
    """The reference's networks by name, whose BatchNorm layers tell their distances."""

    def __init__(self, names, device):
        self.distances = None  # of the forward that is asked for them
        self.networks = {name: network(name, device).to(memory_format=torch.contiguous_format)
                         for name in names}
        for net in self.networks.values():
            net.channels_last = False
            layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
            for place, layer in enumerate(layers):
                weight = 10.0 if place == 0 else 1.0
                layer.register_forward_hook(functools.partial(self.note_distance, weight))

    def logits(self, name, x):
        """A network's forward, which gathers no statistics."""
        return self.networks[name](x)

    def distance(self, name, x):
        """The sum of the layers' weighted distances in a forward."""
        self.distances = []
        self.networks[name](x)
        distances, self.distances = self.distances, None
        return sum(distances)

    def note_distance(self, weight, layer, inputs, _):
        """Note a layer's distance, if the forward is asked for it."""
        if self.distances is None:
            return
        z = inputs[0]
        mean = z.mean((0, 2, 3))
        var = z.permute(1, 0, 2, 3).contiguous().view(z.shape[1], -1).var(1, unbiased=False)
        self.distances.append(weight * (torch.norm(layer.running_var - var, 2)
                                        + torch.norm(layer.running_mean - mean, 2)))


class Reference:
    """The released arithmetic of a step, in float32 and PyTorch's own layout; a call takes a step.

    phi and theta_1 run apart, every teacher that was drawn runs, variances come from a permuted
    copy, all graphs live until one backward, and unused priors are computed. phi's own forward
    gathers no statistics. networks: ReferenceNetworks of the teachers at least.
    """

    def __init__(self, work, teachers, networks):
        self.teachers, self.unit, self.networks = teachers, work.unit(teachers), networks
        self.x, self.labels = work.start()
        self.x.requires_grad_(True)
        self.adam = torch.optim.Adam([self.x], betas=(0.5, 0.9), eps=1e-8)
        self.steps = itertools.count()

    def __call__(self):
        """Take the next step."""
        step, size = next(self.steps), self.x.shape[-1]
        box, flip, roll = draw_augmentation(self.unit, step, size, OPTIONS)
        top, left, height, width = box.tolist()
        crop = self.x[:, :, top : top + height, left : left + width]
        view = F.interpolate(crop, (size, size), mode="bilinear")
        view = torch.roll(view.flip(3) if flip else view, roll, (2, 3))

        loss = F.cross_entropy(self.networks.logits(self.teachers.logit, view), self.labels)
        weight = losses.bn_weight(OPTIONS.losses.r_bn, len(self.teachers.bn))
        for name in self.teachers.bn:
            loss = loss + weight * self.networks.distance(name, view)
        losses.total_variation(view)
        losses.l2_prior(view)

        lr = OPTIONS.optimisation.lr * schedules.cosine(step, self.unit.steps)
        self.adam.param_groups[0]["lr"] = lr
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        images.clamp_(self.x.data)


# Figures

def measured(args, device):
    """All figures of the benchmark, as its JSON file keeps them."""
    work = Work(args.batch_size, args.image_size, device)
    law = TeacherLaw(args.primary_teacher, tuple(args.bn_teachers))
    draws, everyone = possible_draws(law), Teachers(law.primary_teacher, tuple(law.everyone))
    names = [name for name in law.everyone if has_batch_norm(name)]

    arithmetics = {"eager": Arithmetic(args.precision)}
    if args.compile:
        arithmetics["compiled"] = Arithmetic(args.precision, compile=True)
    ours, floors = (
        {mode: alignments_of(kind, names, arithmetic, device)
         for mode, arithmetic in arithmetics.items()} for kind in (NormAlignment, FoldedAlignment))
    alone = {name: time_alone(name, ours, floors, work, args.turns) for name in names}
    floor = {name: floors[min(floors, key=lambda mode: alone[name][f"floor {mode}"])][name]
             for name in names}

    references = ReferenceNetworks(law.everyone, device)

    def seconds(teachers):
        return time_step(teachers, references, ours, floor, work, args.turns)

    law_seconds = over_draws(draws, seconds)
    return {"seconds alone": alone,
            "seconds": {"law": law_seconds, "all teachers": seconds(everyone)},
            "memory": measure_memory(names, everyone, {"reference": None, **arithmetics}, work),
            "image_steps_per_second": args.batch_size / law_seconds[list(arithmetics)[-1]]}


def possible_draws(law):
    """[(probability, Teachers)] of every set that a TeacherLaw's slots can give.

    Of n slots, each filled with probability p, k are filled with probability
    C(n, k) p^k (1 - p)^(n - k); all sets of k networks of the pool are equally likely. Raises
    UserError for a pool of fewer networks than slots.
    """
    slots, p, pool = law.bn_slots, law.bn_slot_prob, law.pool
    if len(pool) < slots:
        raise UserError(f"--bn-teachers: found {len(pool)} besides the primary, expected at least "
                        f"{slots} for {slots} slots.")
    return [(math.comb(slots, k) * p**k * (1 - p) ** (slots - k) / math.comb(len(pool), k),
             Teachers(law.primary_teacher, (law.primary_teacher, *subset)))
            for k in range(slots + 1) for subset in itertools.combinations(pool, k)]


def over_draws(draws, seconds):
    """Mean seconds over the sets of possible_draws: {variant: seconds}.

    seconds: function of Teachers that gives {variant: seconds}.
    """
    drawn = [(probability, seconds(teachers)) for probability, teachers in draws]
    return {variant: sum(probability * times[variant] for probability, times in drawn)
            for variant in drawn[0][1]}


def time_alone(name, ours, floors, work, turns):
    """Seconds of one network's forward, distance and gradient: {"ours eager": seconds, ...}."""
    x, labels = work.start()
    x.requires_grad_(True)

    def run(alignment):
        logits, distances = alignment(x, [Part(labels, {})])
        (F.cross_entropy(logits.float(), labels) + 0.01 * distances.sum()).backward()
        x.grad = None

    variants = {f"{kind} {mode}": functools.partial(run, alignments[name])
                for kind, modes in (("ours", ours), ("floor", floors))
                for mode, alignments in modes.items()}
    seconds = measure.in_turn(variants, turns, work.device)
    text = ", ".join(f"{variant} {1e3 * value:.1f} ms" for variant, value in seconds.items())
    print(f"{name}: {text}", flush=True)
    return seconds


def time_step(teachers, references, ours, floor, work, turns):
    """Seconds of a whole step: {variant: seconds}. references: ReferenceNetworks."""
    variants = {"reference": Reference(work, teachers, references)}
    for mode, alignments in ours.items():
        variants[mode] = OurStep(work, alignments, teachers)
    variants["floor"] = OurStep(work, floor, teachers)
    return measure.in_turn(variants, turns, work.device)


def measure_memory(names, everyone, variants, work):
    """Peak bytes with each network alone and with all teachers, and the ratio to the largest.

    variants: {name: Arithmetic of our step, or None for the reference}.
    """
    sets, count = {f"{name} alone": Teachers(name, (name,)) for name in names}, {}
    for title, teachers in {**sets, "all teachers": everyone}.items():
        count[title] = {variant: measure.peak_memory(work.device, two_steps, work, teachers, how)
                        for variant, how in variants.items()}
    ratio = {variant: count["all teachers"][variant] / max(count[title][variant] for title in sets)
             for variant in variants}
    return {"bytes": count, "all / largest alone": ratio}


def two_steps(work, teachers, arithmetic):
    """Two steps from nothing; in the second one Adam has its moments.

    arithmetic: of our step, or None for the reference.
    """
    if arithmetic is None:
        names = dict.fromkeys((teachers.logit, *teachers.bn))
        step = Reference(work, teachers, ReferenceNetworks(names, work.device))
    else:
        names = [name for name in teachers.bn if has_batch_norm(name)]
        alignments = alignments_of(NormAlignment, names, arithmetic, work.device)
        step = OurStep(work, alignments, teachers)
    step()
    step()
