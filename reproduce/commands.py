"""The stages' commands that make a cell."""

import math
from dataclasses import dataclass
from pathlib import Path

from models import pretrain
from models.pretrain_args import get_args_parser as squeeze_parser
from recover import data_synthesis
from recover.args import get_args_parser as recover_parser
from recover.settings import RANKED
from relabel import generate_soft_label
from relabel.args import get_args_parser as relabel_parser
from reproduce.cells import as_arguments
from reproduce.sizes import ITERATION
from reproduce.steps import command_line
from validate import train_fkd
from validate.args import get_args_parser as validate_parser

ENTRIES = {"squeeze": pretrain, "recover": data_synthesis, "relabel": generate_soft_label, "validate": train_fkd}


@dataclass(frozen=True)
class Command:
    """One command. stage: key of ENTRIES. arguments: tuple of strings. folder: what it fills (run, labels or student folder).

    title: for the banner and for timings.json; unique below an output folder.
    """

    stage: str
    arguments: tuple
    folder: Path
    title: str

    @property
    def module(self):
        """The stage's entry, as after python -m."""
        return ENTRIES[self.stage].__spec__.name

    def line(self, share=(0, 1)):
        """As one would type it in the project's root. share: (I, N), part I of N of the work."""
        return command_line(self.module, self.arguments_of(share))

    def arguments_of(self, share):
        """arguments for part I of N of the work: (I, N)."""
        return [*self.arguments, *(["--shard", f"{share[0]}/{share[1]}"] if share[1] > 1 else [])]


def cell_commands(cell, sizes):
    """The commands of a cell in the order in which they run, for all seeds; equal ones are there once."""
    commands = [command for seed in sizes.seeds for command in _of_seed(cell, sizes, seed)]
    return list(dict.fromkeys(commands))


def squeeze(commands, sizes):
    """The command that trains the teachers these commands need, or None where teachers are given or published."""
    if sizes.dataset == "imagefolder" or sizes.teacher_weights is not None:
        return None
    names = list(dict.fromkeys(name for command in commands for name in nets(command)))
    if not names:
        return None
    folder = Path(sizes.teachers)
    arguments = as_arguments({"dataset": sizes.dataset, **_given(train_dir=sizes.train_dir, image_size=sizes.image_size),
                              "teachers": names, "output_dir": folder, **_given(threads=sizes.threads)})
    return Command("squeeze", tuple(arguments), folder, f"squeeze: {', '.join(names)}")


def needs(cells, sizes):
    """{command: commands that must be finished before it} for some cells, in the order in which one process runs them: teachers,
    then cell by cell, equal commands once."""
    chains = [_of_seed(cell, sizes, seed) for cell in cells for seed in sizes.seeds]
    teachers = squeeze([command for chain in chains for command in chain], sizes)
    found = {} if teachers is None else {teachers: ()}
    for chain in chains:
        for before, command in zip([None, *chain], chain, strict=False):
            own = [] if before is None else [before]
            found.setdefault(command, (*own, *([teachers] if teachers is not None and nets(command) else ())))
    return found


def shares(command, classes):
    """In how many parts (--shard) a command's work can be done side by side; a student is one. classes: number of the dataset's."""
    if command.stage == "squeeze":
        return len(squeeze_parser().parse_args(command.arguments).teachers)
    if command.stage == "relabel":
        args = relabel_parser().parse_args(command.arguments)
        return args.epochs if args.label_store == "files" else 1
    if command.stage == "validate":
        return 1
    args = recover_parser().parse_args(command.arguments)
    if args.iteration == 0 and args.start in RANKED:
        return 1  # all of its work is to choose, and each part would choose for itself
    units = math.ceil(args.ipc_end * classes / args.batch_size)
    if args.batch_layout == "slice":
        units = args.ipc_end * math.ceil(classes / args.batch_size)
    return math.ceil(units / args.units_per_step)


def prepares(command):
    """Whether a recover command looks at the training images before it optimises: to choose where it starts or to measure
    statistics, which is kept. Of parts that start together each would do that anew."""
    if command.stage != "recover":
        return False
    args = recover_parser().parse_args(command.arguments)
    return args.start in RANKED or args.match == "convolution" or args.without_bn == "calibrated"


def nets(command):
    """Names of the teachers that a command needs."""
    if command.stage == "recover":
        args = recover_parser().parse_args(command.arguments)
        names = [args.ranker or args.primary_teacher] if args.start in RANKED else []
        if args.iteration:
            pool = args.decoupling != "single" or args.logit_teacher == "drawn" or args.selection == "in-turn"
            names += [args.primary_teacher, *(args.bn_teachers if pool else [])]
        return names
    if command.stage == "relabel":
        args = relabel_parser().parse_args(command.arguments)
        return args.teachers[:1] if args.ensemble == "single" else args.teachers
    args = validate_parser().parse_args(command.arguments)
    return args.teachers if args.labels == "teacher" else []


def run_of(cell, sizes, seed=0):
    """The run folder of a cell's images."""
    return _run_folder(cell.images, _ipc(cell, sizes), sizes, seed)


def student_folder(cell, sizes, seed):
    """students/NAME of a cell and seed."""
    return run_of(cell, sizes, seed) / "students" / _student_name(cell, sizes, seed)


def labels_folder(cell, sizes, seed):
    """The labels' folder of a cell and seed, beside its images."""
    return run_of(cell, sizes, seed) / f"labels_{cell.labels.name}"


def _ipc(cell, sizes):
    """Images per class; Table 1's IPC is part of a cell's name and stays."""
    return sizes.ipc if sizes.ipc is not None and "ipc" not in cell.words else cell.ipc


def _run_folder(images, ipc, sizes, seed):
    """Seed 0 is what images and labels have where only the student's seed varies, so its folder has no mark."""
    mark = f"_seed{seed}" if sizes.full_seeds and seed else ""
    return sizes.output_dir / f"{images.name}_ipc{ipc}{mark}"


def _student_name(cell, sizes, seed):
    parts = [cell.labels.name] if cell.labels else []
    teacher = _online_teacher(cell, sizes)
    return "-".join([*parts, cell.student.name, cell.student.net, *([f"by-{teacher}"] if teacher else []), f"seed{seed}"])


def _online_teacher(cell, sizes):
    """Another teacher than the protocol's for labels made online, or None."""
    if sizes.online_teacher is None or "teachers" not in cell.student.options:
        return None
    return cell.student.net if sizes.online_teacher == "student" else sizes.online_teacher


def _of_seed(cell, sizes, seed):
    """The commands of a cell for one seed of the student."""
    ipc, run = _ipc(cell, sizes), run_of(cell, sizes, seed)
    images_seed = seed if sizes.full_seeds else 0
    commands = _recover(cell.images, ipc, sizes, images_seed)
    common = {"output_dir": run, **_given(threads=sizes.threads)}
    weights = _given(teacher_weights=sizes.teachers)
    epochs = _given(epochs=sizes.epochs)
    if cell.labels is not None:
        folder = labels_folder(cell, sizes, seed)
        options = {**cell.labels.options, **weights, **epochs, **common, "fkd_path": folder,
                   **_given(label_store=sizes.label_store)}
        if images_seed:
            options["fkd_seed"] = 42 + images_seed
        commands.append(_command("relabel", options, folder, sizes))
    folder = student_folder(cell, sizes, seed)
    options = {**cell.student.options, "student": cell.student.net, **_given(val_dir=sizes.val_dir), **epochs, **common,
               "student_name": folder.name, "seed": seed}
    if cell.labels is not None:
        options["fkd_path"] = labels_folder(cell, sizes, seed)
    if "teachers" in cell.student.options:
        options |= {"teachers": [_online_teacher(cell, sizes) or cell.student.options["teachers"][0]], **weights}
    commands.append(_command("validate", options, folder, sizes))
    return commands


def _recover(images, ipc, sizes, seed):
    """The commands that make images, those they start from first."""
    before = [] if images.start is None else _recover(images.start, ipc, sizes, seed)
    run = _run_folder(images, ipc, sizes, seed)
    options = {**images.options, "ipc_end": ipc, "dataset": sizes.dataset, "output_dir": run,
               **_given(train_dir=sizes.train_dir, image_size=sizes.image_size, teacher_weights=sizes.teachers,
                        threads=sizes.threads, units_per_step=sizes.units_per_step, seed=seed or None)}
    if before:
        options["start_dir"] = _run_folder(images.start, ipc, sizes, seed) / "images"
    if sizes.iteration is not None:
        full = recover_parser().parse_args(as_arguments(options)).iteration
        if full:
            options["iteration"] = max(1, round(full * sizes.iteration / ITERATION))
    return [*before, _command("recover", options, run, sizes)]


def _command(stage, options, folder, sizes):
    return Command(stage, tuple(as_arguments(options)), folder, f"{stage}: {folder.relative_to(sizes.output_dir)}")


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}
