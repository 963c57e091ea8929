"""Recover's step beside the plain arithmetic and beside its floor.        python -m benchmarks.recover [--compile]

Random weights, no data. One whole step (augment, gradient, Adam, clamp) of
  reference   the released arithmetic as it stands, in float32: phi and theta_1 run apart, every net that was drawn runs,
              variances come from a permuted copy, all graphs live until one backward, unused priors are computed
  eager       ours
  compiled    ours with --compile
  floor       ours with BatchNorm folded into the convolutions and no statistics, each net eager or compiled, which is faster
is timed for every set of teachers that the released law can draw, averaged with its probabilities, and for all teachers at once.
With --precision bf16 all but the reference run in bfloat16.
"""

import contextlib
import copy
import functools
import itertools
import math

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks import measure
from data import images
from models.bn_statistics import has_batch_norm
from models.networks import build
from recover import losses
from recover.alignment import NormAlignment
from recover.presets import POOL
from recover.synthesize import Recipe, UnitState, draw_augmentation, one_step
from recover.teacher_pool import TeacherLaw, Teachers, without_primary
from recover.units import Unit
from utils import schedules
from utils.errors import UserError, run_entry
from utils.precision import Arithmetic
from utils.seeding import stream

CLASSES, STEPS = 1000, 4000
IPC10 = 1000 * 10 * 2550  # image-steps of Table 1's cell: classes, images per class, mean steps


def get_args_parser():
    parser = measure.get_args_parser("recover", "Time recover's step.", batch_size=100)
    parser.add_argument("--primary-teacher", default="resnet18", metavar="NAME")
    parser.add_argument("--bn-teachers", nargs="*", default=POOL, metavar="NAME", help="pool of extra BN teachers")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    device = measure.start(args)
    pool = without_primary(args.bn_teachers, args.primary_teacher)
    names = [name for name in (args.primary_teacher, *pool) if has_batch_norm(name)]
    modes = ("eager", "compiled") if args.compile else ("eager",)
    ours, floors = ({mode: make(names, Arithmetic(args.precision, mode == "compiled"), device) for mode in modes}
                    for make in (alignments, folded_alignments))
    with contextlib.ExitStack() as stack:
        for guides in (*ours.values(), *floors.values()):
            for alignment in guides.values():
                stack.enter_context(alignment)
        alone = time_nets(names, ours, floors, args, device)
        floor = {name: floors[min(modes, key=lambda mode, name=name: alone[name][f"floor {mode}"])][name] for name in names}
        sets = time_sets(ours, floor, pool, args, device)
    timed, rate = ("reference", *modes, "floor"), args.batch_size / sets["law"][modes[-1]]
    print("\n" + measure.table(
        ["whole step", *(f"{m}, ms" for m in timed), *(f"{m} / floor" for m in modes), *(f"reference / {m}" for m in timed[1:])],
        [[title, *(1e3 * seconds[m] for m in timed), *(f"{seconds[m] / seconds['floor']:.2f}" for m in modes),
          *(f"{seconds['reference'] / seconds[m]:.2f}" for m in timed[1:])] for title, seconds in sets.items()]))
    print(f"\n{modes[-1]}: {rate:.3g} image-steps/s over the law, {IPC10 / rate / 3600:.3g} hours for IPC 10 on ImageNet-1K",
          flush=True)
    memory = measure_memory(names, pool, modes, args, device)
    print("\n" + measure.table(["peak memory, MB", "reference", *modes],
                              [[name, *(value / 1e6 for value in row.values())] for name, row in memory["bytes"].items()]
                              + [["all / largest alone", *(f"{ratio:.2f}" for ratio in memory["all / largest alone"].values())]]))
    measure.save(args, "recover", device, {"seconds alone": alone, "seconds": sets, "memory": memory,
                                           "image_steps_per_second": rate})


def alignments(names, arithmetic, device):
    """{name: NormAlignment} of nets with random weights."""
    return {name: NormAlignment(network(name, device), arithmetic=arithmetic) for name in names}


def folded_alignments(names, arithmetic, device):
    """{name: FoldedAlignment}."""
    return {name: FoldedAlignment(network(name, device), arithmetic) for name in names}


def network(name, device):
    return build(name, CLASSES, seed=("benchmark", name)).requires_grad_(False).eval().to(device)


class FoldedAlignment(contextlib.nullcontext):
    """What a step cannot do without: the net's convolutions and activations, forward and back. Its distance is any number."""

    layers = 1

    def __init__(self, network, arithmetic):
        super().__init__()
        network.net = fold(network.net).to(memory_format=torch.channels_last)
        self.logits = arithmetic.of(network)

    def __call__(self, x, sizes, labels=None, memories=None):  # noqa: ARG002 - the protocol
        logits = self.logits(x)
        return logits, torch.stack([part.float().mean() for part in logits.split(list(sizes))])


def fold(net):
    """A frozen net with every BatchNorm2d folded into the convolution before it."""
    traced = fx.symbolic_trace(net)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.BatchNorm2d):
            before = node.args[0]
            traced.set_submodule(before.target, fuse_conv_bn_eval(modules[before.target], modules[node.target]))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.recompile()
    return traced


class Reference:
    """The released arithmetic of a step, written plainly. x: images that it optimises, float32 [n, 3, S, S]."""

    def __init__(self, networks, teachers, x, labels, recipe, unit):
        self.networks = {name: copy.deepcopy(networks[name]).to(memory_format=torch.contiguous_format) for name in
                         dict.fromkeys((teachers.logit, *teachers.bn))}
        for net in self.networks.values():
            net.channels_last = False
        self.teachers, self.labels, self.recipe, self.unit = teachers, labels, recipe, unit
        self.x = x.clone().requires_grad_(True)
        self.adam = torch.optim.Adam([self.x], lr=recipe.lr, betas=(0.5, 0.9), eps=1e-8)
        self.found = []
        for net in self.networks.values():
            for place, layer in enumerate(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
                layer.register_forward_hook(functools.partial(self.distance, 10.0 if place == 0 else 1.0))

    def distance(self, weight, layer, inputs, _):
        z = inputs[0]
        mean = z.mean((0, 2, 3))
        var = z.permute(1, 0, 2, 3).contiguous().view(z.shape[1], -1).var(1, unbiased=False)
        self.found.append(weight * (torch.norm(layer.running_var - var, 2) + torch.norm(layer.running_mean - mean, 2)))

    def step(self, step):
        (top, left, height, width), flip, rolled = draw_augmentation(self.unit, step, self.x.shape[-1], self.recipe)
        view = F.interpolate(self.x[:, :, top : top + height, left : left + width], self.x.shape[2:], mode="bilinear")
        view = torch.roll(view.flip(3) if flip else view, rolled, (2, 3))
        loss = F.cross_entropy(self.networks[self.teachers.logit](view), self.labels)
        for name in self.teachers.bn:
            self.found = []
            self.networks[name](view)
            loss = loss + self.recipe.r_bn / len(self.teachers.bn) * sum(self.found)
        losses.total_variation(view)
        losses.l2_prior(view)
        self.adam.param_groups[0]["lr"] = self.recipe.lr * schedules.cosine(step, self.unit.steps)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        images.clamp_(self.x.data)


def unit_of(teachers, count):
    law = TeacherLaw(teachers.logit, tuple(name for name in teachers.bn if name != teachers.logit))
    return Unit("benchmark", 0, (0, 0), tuple(i % CLASSES for i in range(count)), (0,) * count, STEPS, law, (0,), teachers)


def start_of(count, size, device):
    x = torch.randn(count, 3, size, size, generator=stream("benchmark", "start")).to(device)
    return images.clamp_(x), (torch.arange(count) % CLASSES).to(device)


def reference_step(teachers, args, device):
    """Function that runs the next step of the plain arithmetic."""
    x, labels = start_of(args.batch_size, args.image_size, device)
    networks = {name: network(name, device) for name in (teachers.logit, *teachers.bn)}
    reference, steps = Reference(networks, teachers, x, labels, Recipe(), unit_of(teachers, len(x))), itertools.count()
    return lambda: reference.step(next(steps))


def our_step(guides, teachers, args, device):
    """Function that runs the next step of recover's own loop with these alignments."""
    x, labels = start_of(args.batch_size, args.image_size, device)
    state, steps = UnitState(unit_of(teachers, len(x)), x, labels), itertools.count(1)  # no step that is logged
    return lambda: one_step([state], guides, Recipe(), next(steps), STEPS)


def time_nets(names, ours, floors, args, device):
    """{net: {"ours eager": seconds of forward, distance and gradient, ...}}, printed as they come."""
    x, labels = start_of(args.batch_size, args.image_size, device)

    def run(alignment):
        logits, distances = alignment(x.requires_grad_(True), [len(x)])
        (F.cross_entropy(logits.float(), labels) + 0.01 * distances.sum()).backward()
        x.grad = None

    found = {}
    for name in names:
        variants = {f"{kind} {mode}": functools.partial(run, guides[name]) for kind, made in (("ours", ours), ("floor", floors))
                    for mode, guides in made.items()}
        found[name] = measure.in_turn(variants, args.turns, device)
        print(f"{name}: " + ", ".join(f"{variant} {seconds * 1e3:.1f} ms" for variant, seconds in found[name].items()), flush=True)
    return found


def released_law(primary, pool, slots=3, filled=0.5):
    """[(probability, Teachers)]: every set of BN teachers that draw_slots can give (at least as many nets as slots)."""
    if len(pool) < slots:
        raise UserError(f"--bn-teachers: found {len(pool)} besides the primary, expected at least {slots} for {slots} slots.")
    return [(math.comb(slots, count) * filled**count * (1 - filled) ** (slots - count) / math.comb(len(pool), count),
             Teachers(primary, (primary, *subset)))
            for count in range(slots + 1) for subset in itertools.combinations(pool, count)]


def time_sets(ours, floor, pool, args, device):
    """Seconds of whole steps: {"law": {variant: average}, "all teachers": {variant: seconds}}."""
    def seconds(teachers):
        variants = {"reference": reference_step(teachers, args, device)}
        variants |= {mode: our_step(guides, teachers, args, device) for mode, guides in ours.items()}
        return measure.in_turn({**variants, "floor": our_step(floor, teachers, args, device)}, args.turns, device)

    average = {}
    for weight, teachers in released_law(args.primary_teacher, pool):
        for name, value in seconds(teachers).items():
            average[name] = average.get(name, 0.0) + weight * value
    return {"law": average, "all teachers": seconds(Teachers(args.primary_teacher, (args.primary_teacher, *pool)))}


def two_steps(mode, teachers, args, device):
    """Two steps of a mode from nothing; in the second, Adam has its states."""
    if mode == "reference":
        step = reference_step(teachers, args, device)
        step()
        return step()
    guides = alignments([n for n in teachers.bn if has_batch_norm(n)], Arithmetic(args.precision, mode == "compiled"), device)
    with contextlib.ExitStack() as stack:
        for alignment in guides.values():
            stack.enter_context(alignment)
        step = our_step(guides, teachers, args, device)
        step()
        return step()


def measure_memory(names, pool, modes, args, device):
    """Peak bytes of each net alone and of all teachers, in processes of their own, and the ratio that matters."""
    sets = {f"{name} alone": Teachers(name, (name,)) for name in names}
    sets["all teachers"] = Teachers(args.primary_teacher, (args.primary_teacher, *pool))
    found = {title: {mode: measure.peak_memory(two_steps, mode, teachers, args, device) for mode in ("reference", *modes)}
             for title, teachers in sets.items()}
    ratio = {mode: found["all teachers"][mode] / max(row[mode] for title, row in found.items() if title.endswith("alone"))
             for mode in ("reference", *modes)}
    return {"bytes": found, "all / largest alone": ratio}


if __name__ == "__main__":
    run_entry(main)
