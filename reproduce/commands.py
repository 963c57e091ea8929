"""The commands of the stages that make a cell, and what each of them needs.

A command is {option: value}. What follows from it (which teachers it needs, in how many parts it
can be done) is read from these options as the stage itself would fill them in. Imports no PyTorch.
"""

from dataclasses import dataclass, field
from pathlib import Path

from models import diffusion_options, pretrain_options
from recover import options as recover_options
from recover.dap import options as dap_options
from recover.presets import PRESETS as RECOVER_PRESETS
from relabel import options as relabel_options
from relabel.presets import PRESETS as RELABEL_PRESETS
from reproduce import command_line
from reproduce.sizes import ITERATION
from utils import options
from validate import hard_options
from validate import options as validate_options
from validate.presets import PRESETS as VALIDATE_PRESETS

# stage: the module behind python -m, its options, their presets
STAGES = {
    "squeeze": ("models.pretrain", pretrain_options.Options, None),
    "diffusion": ("models.pretrain_diffusion", diffusion_options.Options, None),
    "recover": ("recover.data_synthesis", recover_options.Options, RECOVER_PRESETS),
    "dap": ("recover.dap_synthesis", dap_options.Options, None),
    "relabel": ("relabel.generate_soft_label", relabel_options.Options, RELABEL_PRESETS),
    "validate": ("validate.train_fkd", validate_options.Options, VALIDATE_PRESETS),
    "hard": ("validate.train_hard", hard_options.Options, None),
}
STUDENTS = ("validate", "hard")  # stages that train students


@dataclass(frozen=True)
class Command:
    """One call of a stage.

    stage: a key of STAGES. folder: what it fills (a teacher's, run, labels or student folder); each
    folder has one command, so commands are equal when their folders are. title: for banners and
    timings.json. options: {option: value}, keyed by long names with _ for -.
    """

    stage: str
    folder: Path
    title: str
    options: dict = field(compare=False)

    @property
    def module(self):
        """The stage's entry, as after python -m."""
        return STAGES[self.stage][0]

    @property
    def slug(self):
        """The title as the name of a file."""
        return self.title.replace(": ", ".").replace("/", ".")

    @property
    def arguments(self):
        """The options as a list of strings for the stage's main()."""
        return as_arguments(self.options)

    def line(self):
        """The command as one types it in the project's root."""
        return command_line(self.module, self.arguments)

    def parsed(self):
        """The Options of the stage: given, the preset's, or default."""
        return _parsed(self.stage, self.options)

    def resolved(self):
        """{option: value} of all options of the stage."""
        return options.as_dict(self.parsed())


def _parsed(stage, values):
    _, kind, presets = STAGES[stage]
    return options.from_values(kind, values, presets)


def as_arguments(values):
    """{"bn_teachers": ["a", "b"], "compile": True} as --bn-teachers a b --compile, in a list."""
    arguments = []
    for name, value in values.items():
        arguments.append(options.flag(name))
        if value is not True:
            several = isinstance(value, (list, tuple))
            arguments += [str(v) for v in value] if several else [str(value)]
    return arguments


# What a table needs

def graph(cells, sizes):
    """{command: tuple of the commands that it needs}, in the order in which one process runs them.

    Commands that cells share are in it once.
    """
    needs = {}
    for cell in cells:
        for seed in sizes.seeds:
            before = ()
            for command in _chain(cell, sizes, seed):
                networks = networks_needed(command.stage, command.resolved())
                teachers = tuple(squeeze(name, sizes) for name in networks
                                 if sizes.trains_teachers)
                if command.stage == "dap" and sizes.trains_diffusion:
                    teachers = (_diffusion(sizes),)
                needs |= {teacher: () for teacher in teachers}
                needs.setdefault(command, (*before, *teachers))
                before = (command,)
    return needs


def cell_commands(cell, sizes):
    """The commands of a cell for all seeds, without the training of teachers, each once."""
    return list(dict.fromkeys(c for seed in sizes.seeds for c in _chain(cell, sizes, seed)))


def networks_needed(stage, o):
    """Names of the teachers that a stage needs with the options {name: value}."""
    if stage == "recover":
        ranked = o["start"] in recover_options.RANKED
        names = [o["ranker"] or o["primary_teacher"]] if ranked else []
        if o["iteration"]:
            draws = (o["decoupling"] != "single" or o["logit_teacher"] == "drawn"
                     or o["selection"] == "in-turn")
            names += [o["primary_teacher"], *(o["bn_teachers"] if draws else ())]
    elif stage == "relabel":
        names = o["teachers"][:1] if o["ensemble"] == "single" else o["teachers"]
    elif stage == "validate":
        names = o["teachers"] if o["labels"] == "teacher" else []
    else:
        names = []
    return list(dict.fromkeys(names))


def parts(command, most):
    """In how many parts (--shard) a command's work is done side by side, at most `most`."""
    o = command.resolved()
    if command.stage == "recover":
        # Where all of the work is to choose start images, each part would choose for itself.
        only_chooses = o["start"] in recover_options.RANKED and not o["iteration"]
        return 1 if only_chooses else most
    if command.stage == "relabel":
        return min(most, o["epochs"]) if o["label_store"] == "files" else 1
    return most if command.stage == "dap" else 1


def takes_shards(command):
    """Whether a command has the option --shard."""
    names = {field.name for field in options.option_fields(STAGES[command.stage][1])}
    return "shard" in names


def prepares(command):
    """Whether recover looks at the training images first, and keeps what it found for other parts.

    It does so to choose start images and to measure statistics. Of parts that start together, each
    would do it anew.
    """
    if command.stage != "recover":
        return False
    o = command.resolved()
    return (o["start"] in recover_options.RANKED or o["match"] == "convolution"
            or o["without_bn"] == "calibrated")


# Folders

def run_folder(cell, sizes, seed=0):
    """The run folder of a cell's images."""
    return _images_folder(cell.images, _ipc(cell, sizes), sizes, seed)


def labels_folder(cell, sizes, seed):
    """The folder of a cell's labels, beside its images."""
    return run_folder(cell, sizes, seed) / f"labels_{cell.labels.name}"


def student_folder(cell, sizes, seed):
    """students/NAME of a cell and seed."""
    teacher = _online_teacher(cell, sizes)
    name = "-".join([
        *([cell.labels.name] if cell.labels else []), cell.student.name, cell.student.net,
        *([f"by-{teacher}"] if teacher else [])])
    # train_hard appends the seed to a name itself.
    name += f"_seed{seed}" if cell.student.stage == "hard" else f"-seed{seed}"
    return run_folder(cell, sizes, seed) / "students" / name


def _images_folder(images, ipc, sizes, seed):
    """Seed 0 makes images and labels where only the student's seed varies: it leaves no mark."""
    mark = f"_seed{seed}" if sizes.full_seeds and seed else ""
    return sizes.output_dir / f"{images.name}_ipc{ipc}{mark}"


def _ipc(cell, sizes):
    """Images per class. In Table 1 the IPC is part of a cell's name and cannot be replaced."""
    return cell.ipc if sizes.ipc is None or "ipc" in cell.words else sizes.ipc


def _online_teacher(cell, sizes):
    """Another teacher than the protocol's for labels made online, or None."""
    if sizes.online_teacher is None or "teachers" not in cell.student.options:
        return None
    return cell.student.net if sizes.online_teacher == "student" else sizes.online_teacher


# The commands of one cell and seed

def _chain(cell, sizes, seed):
    """The commands of a cell for one seed of the student; each needs the one before it."""
    images_seed = seed if sizes.full_seeds else 0
    commands = _recover(cell.images, _ipc(cell, sizes), sizes, images_seed)
    if cell.labels is not None:
        commands.append(_relabel(cell, sizes, seed, images_seed))
    student = _hard if cell.student.stage == "hard" else _validate
    return [*commands, student(cell, sizes, seed)]


def squeeze(name, sizes):
    """The command that trains one teacher."""
    folder = Path(sizes.teachers)
    values = {"dataset": sizes.dataset,
              **_given(train_dir=sizes.train_dir, image_size=sizes.image_size),
              "teachers": [name], "output_dir": folder, **_given(threads=sizes.threads)}
    return Command("squeeze", folder / name, f"squeeze: {name}", values)


def _diffusion(sizes):
    """The command that trains a diffusion model where none is given."""
    folder = Path(sizes.diffusion)
    values = {"dataset": sizes.dataset, **_given(train_dir=sizes.train_dir), "output_dir": folder,
              **_machine(sizes)}
    return Command("diffusion", folder, f"diffusion: {sizes.dataset}", values)


def _recover(images, ipc, sizes, seed):
    """The commands that make images; those that make the images they start from come first."""
    if images.stage == "dap":
        return [_dap(images, ipc, sizes, seed)]
    before = [] if images.start is None else _recover(images.start, ipc, sizes, seed)
    folder = _images_folder(images, ipc, sizes, seed)

    values = {**images.options, "ipc_end": ipc, "dataset": sizes.dataset, "output_dir": folder,
              **_given(train_dir=sizes.train_dir, image_size=sizes.image_size,
                       units_per_step=sizes.units_per_step, seed=seed or None),
              **_machine(sizes)}
    if before:
        values["start_dir"] = _images_folder(images.start, ipc, sizes, seed) / "images"

    o = options.as_dict(_parsed("recover", values))
    if networks_needed("recover", o):
        values |= _given(teacher_weights=sizes.teachers)
    if sizes.iteration is not None and o["iteration"]:
        values["iteration"] = max(1, round(o["iteration"] * sizes.iteration / ITERATION))
    return [*before, _command("recover", values, folder, sizes)]


def _dap(images, ipc, sizes, seed):
    folder = _images_folder(images, ipc, sizes, seed)
    values = {**images.options, "ipc_end": ipc, "dataset": sizes.dataset, "output_dir": folder,
              **_given(train_dir=sizes.train_dir, image_size=sizes.image_size,
                       weights=sizes.diffusion, seed=seed or None), **_machine(sizes)}
    return _command("dap", values, folder, sizes)


def _relabel(cell, sizes, seed, images_seed):
    folder = labels_folder(cell, sizes, seed)
    values = {**cell.labels.options,
              **_given(teacher_weights=sizes.teachers, epochs=sizes.epochs),
              "output_dir": run_folder(cell, sizes, seed), **_machine(sizes),
              "fkd_path": folder, **_given(label_store=sizes.label_store)}
    if images_seed:
        values["fkd_seed"] = 42 + images_seed
    return _command("relabel", values, folder, sizes)


def _validate(cell, sizes, seed):
    folder, protocol = student_folder(cell, sizes, seed), cell.student.options
    values = {**protocol, "student": cell.student.net,
              **_given(val_dir=sizes.val_dir, epochs=sizes.epochs),
              "output_dir": run_folder(cell, sizes, seed), **_machine(sizes),
              "student_name": folder.name, "seed": seed}
    if cell.labels is not None:
        values["fkd_path"] = labels_folder(cell, sizes, seed)
    if "teachers" in protocol:
        values["teachers"] = [_online_teacher(cell, sizes) or protocol["teachers"][0]]
        values |= _given(teacher_weights=sizes.teachers)
    return _command("validate", values, folder, sizes)


def _hard(cell, sizes, seed):
    folder = student_folder(cell, sizes, seed)
    values = {**cell.student.options, "student": cell.student.net,
              **_given(val_dir=sizes.val_dir, epochs=sizes.epochs),
              "output_dir": run_folder(cell, sizes, seed), **_machine(sizes),
              "student_name": folder.name.removesuffix(f"_seed{seed}"), "seeds": [seed]}
    return _command("hard", values, folder, sizes)


def _command(stage, values, folder, sizes):
    return Command(stage, folder, f"{stage}: {folder.relative_to(sizes.output_dir)}", values)


def _machine(sizes):
    """How the networks of a stage run, which no cell says."""
    return _given(threads=sizes.threads, precision=sizes.precision, compile=sizes.compile or None)


def _given(**values):
    return {name: value for name, value in values.items() if value is not None}
