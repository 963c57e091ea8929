"""The cells of the paper's tables: complete, with valid commands, picked by words."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from data import datasets
from models.pretrain_args import get_args_parser as squeeze_parser
from recover.args import get_args_parser as recover_parser
from recover.mosaics import check_candidates
from relabel.args import get_args_parser as relabel_parser
from reproduce import commands, run, sizes, table1, table2, table3
from reproduce.cells import as_arguments, pick
from utils import options
from utils.errors import UserError
from validate.args import get_args_parser as validate_parser

ROOT = Path(__file__).parents[1]
PARSERS = {"models.pretrain": squeeze_parser, "recover.data_synthesis": recover_parser,
           "relabel.generate_soft_label": relabel_parser, "validate.train_fkd": validate_parser}


def sizes_of(table, *arguments):
    parser = run.get_args_parser()
    return sizes.from_arguments(parser.parse_intermixed_args([table, *arguments]), table)


def numbers(table, **words):
    return [(cell.paper, cell.std) for cell in table.cells if words.items() <= cell.words.items()]


def test_table1_has_every_cell_with_the_papers_numbers():
    table = table1.TABLE
    assert len(table.cells) == 7 * 3 * 3
    assert sum(cell.paper is None for cell in table.cells) == 3 + 3 + 3
    assert numbers(table, row="prism", student="r18") == [(49.4, 0.2), (59.0, 0.1), (60.9, 0.2)]
    assert numbers(table, row="prism-delt", student="r101") == [(40.7, 3.6), (66.7, 0.2), (70.4, 0.2)]
    assert numbers(table, row="delt", student="r50") == [(None, None)] * 3
    assert numbers(table, row="edc", ipc="ipc50") == [(58.0, 0.2), (64.3, 0.2), (64.9, 0.2)]
    with_number = [cell for cell in table.cells if cell.paper is not None]
    assert len(with_number) == 54  # these and the sums: counted in the paper's text
    assert round(sum(cell.paper for cell in with_number), 1) == 2948.0
    assert round(sum(cell.std for cell in with_number), 1) == 22.0


def test_table2_and_3_have_every_cell_with_the_papers_numbers():
    assert [cell.paper for cell in table2.TABLE.cells] == [70.0, 17.9, 18.3, 19.0, 32.4, 36.2, 37.4, 38.7, 39.1]
    assert [cell.paper for cell in table3.TABLE.cells] == [
        21.22, 23.75, 28.97, 28.07, 23.85, 29.53,  29.53, 29.93, 31.30, 30.89,  31.30, 40.41, 43.40, 44.04, 43.79, 42.59,
        44.04, 45.73,  45.73, 46.63, 47.35,  47.35, 47.53, 47.77,  49.4]


@pytest.mark.parametrize("table", run.TABLES.values(), ids=lambda table: table.name)
def test_cells_are_named_apart_and_claims_follow_the_paper(table):
    assert len({cell.name for cell in table.cells}) == len(table.cells)
    for claim in table.claims:
        assert table.cell(claim.higher).paper > table.cell(claim.lower).paper, claim


def test_a_name_always_means_the_same_options():
    """Run folders, labels and students of one name are shared between cells, so they must be made alike."""
    seen = {}
    for table in run.TABLES.values():
        for cell in table.cells:
            key = f"{cell.images.name}_ipc{cell.ipc}"
            assert seen.setdefault(key, cell.images) == cell.images
            if cell.labels:
                assert seen.setdefault((key, cell.labels.name), cell.labels) == cell.labels
            student = (key, cell.labels and cell.labels.name, cell.student.name, cell.student.net)
            assert seen.setdefault(student, cell.student) == cell.student
    different = {str(sorted(i.options.items())) for i in (v for v in seen.values() if type(v).__name__ == "Images")}
    assert len(different) == len({v.name for v in seen.values() if type(v).__name__ == "Images"})


def test_the_last_step_of_table3_is_prism_of_table1():
    last, prism = table3.TABLE.cell("schedule ssrs"), table1.TABLE.cell("r18 ipc10 prism")
    assert (last.images, last.labels, last.student, last.paper) == (prism.images, prism.labels, prism.student, prism.paper)


def test_prism_is_what_the_stages_do_by_default():
    """The cell of R18 only says what the defaults say."""
    cell = table1.TABLE.cell("r18 ipc10 prism")
    for parser, given in ((recover_parser, cell.images.options), (relabel_parser, cell.labels.options),
                          (validate_parser, cell.student.options)):
        need = as_arguments({"output_dir": "x"})
        default, cells = (vars(parser().parse_args(a)) for a in (need, [*need, *as_arguments(given)]))
        assert {k: v for k, v in cells.items() if k != "given"} == {k: v for k, v in default.items() if k != "given"}


@pytest.mark.parametrize(("dataset", "asked"), [("imagefolder", {(10, 300, 2), (50, 300, 2), (100, 400, 2)}),
                                                ("digits", {(10, 300, 2), (50, 300, 1), (100, 300, 1)})])
def test_every_class_can_fill_its_mosaics(dataset, asked):
    """RDED's 300 candidates cannot fill 100 mosaics of four, nor can a class of digits fill 50."""
    least = 732 if dataset == "imagefolder" else min(len(own) for own in datasets.open_images("digits", "train").by_class)
    found, cells = sizes_of("table1", "--dataset", dataset), pick(run.cells_for(table1.TABLE, dataset), ["rded", "edc"])
    mosaics = [recover_parser().parse_args(commands.cell_commands(cell, found)[0].arguments) for cell in cells]
    for args in mosaics:
        check_candidates("smallest", least, args.mosaic_candidates, args.ipc_end, args.mosaic_grid)
    assert {(args.ipc_end, args.mosaic_candidates, args.mosaic_grid) for args in mosaics} == asked
    assert len(mosaics) == 18


def parsed(stage, cell):
    own = [c for c in commands.cell_commands(cell, sizes_of(cell.table, "--seeds", "0")) if c.stage == stage]
    parsers = {"recover": recover_parser, "relabel": relabel_parser, "validate": validate_parser}
    return parsers[stage]().parse_args(own[-1].arguments)


def test_table2_is_sre2l_but_for_its_teachers():
    base = parsed("recover", table2.TABLE.cell("sre2l"))
    assert (base.lr, base.iteration, base.steps, base.batch_size, base.ipc_end) == (0.25, 4000, "constant", 100, 1300)
    assert (base.start, base.decoupling, base.logit_teacher, base.primary_teacher) == ("real", "single", "primary", "resnet18")
    assert base.allow_short_classes
    of_teachers = {"decoupling", "logit_teacher", "selection", "bn_teachers", "bn_law", "bn_count", "theta1",
                   "given", "changed", "output_dir"}
    for cell in table2.TABLE.cells[2:]:
        row = parsed("recover", cell)
        assert {k for k, v in vars(row).items() if v != getattr(base, k)} <= of_teachers
        assert row.logit_teacher == "drawn"
        assert row.selection == ("intra" if "intra" in cell.name else "pre")
        assert row.decoupling == cell.name.split("-")[0].rstrip("234")
        assert len({row.primary_teacher, *row.bn_teachers}) == 4
    for count in (2, 3, 4):
        row = parsed("recover", table2.TABLE.cell(f"multi{count}"))
        assert (row.bn_law, row.bn_count, row.theta1) == ("exact", count, "free")
    assert parsed("validate", table2.TABLE.cells[0]).loss_type == "ce"


STEPS_OF_TABLE3 = [  # (cell, stage, what changes from the cell before it in this list)
    ("labels resnet18", None, {}), ("labels ensemble", "relabel", {"teachers", "ensemble"}),
    ("labels mse0.1", "validate", {"loss_type", "temperature", "ce_weight"}), ("recovery varied", "recover", {"steps"}),
    ("batch b50", "relabel", {"batch_size"}), ("teachers forced", "recover", {"bn_law", "theta1"}),
    ("lr lr0.10", "recover", {"lr"}), ("lr lr0.05", "recover", {"lr"}), ("backbones alexnet-relabel", "relabel", {"teachers"}),
    ("backbones alexnet-recover", "recover", {"bn_teachers"}), ("schedule ssrs", None, {})]


def test_table3_changes_one_thing_at_a_time():
    names = {"given", "changed", "output_dir", "fkd_path", "student_name"}
    for (before, _, _), (after, stage, changed) in zip(STEPS_OF_TABLE3, STEPS_OF_TABLE3[1:], strict=False):
        if stage is None:
            continue
        for which in ("recover", "relabel", "validate"):
            a, b = (vars(parsed(which, table3.TABLE.cell(name))) for name in (before, after))
            assert {k for k in a if a[k] != b[k]} - names == (changed if which == stage else set()), (after, which)
    final = parsed("recover", table3.TABLE.cells[-1])
    assert (final.lr, final.steps, final.bn_law, final.theta1) == (0.05, "varied", "slots", "forced")


@pytest.mark.parametrize("script", ["table1", "table2", "table3"])
def test_dry_run_lists_a_valid_command_for_every_cell(script, tmp_path):
    env = {**os.environ, "PYTHON": sys.executable, "OUTPUT_DIR": str(tmp_path / "out"), "NGPU": "2"}
    done = subprocess.run(["sh", ROOT / "reproduce" / f"{script}.sh", "--dry-run"], cwd=tmp_path, env=env, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    check_listing(script, done.stdout)


@pytest.mark.parametrize("script", ["table1", "table2", "table3"])
def test_dry_run_on_digits(script, tmp_path, capsys):
    run.main([script, "--dry-run", "--dataset", "digits", "--output-dir", str(tmp_path / "out"), "--ngpu", "2"])
    check_listing(script, capsys.readouterr().out)


def check_listing(script, text):
    """Every command's arguments parse, three students per cell, a command that was listed comes again as a comment only."""
    cells, listed = {cell.name: 0 for cell in run.TABLES[script].cells}, set()
    assert "\n# NGPU=2: so many commands at a time" in text
    for line in text.splitlines()[2:]:
        comment = line.startswith("# ")
        words = shlex.split(line.removeprefix("# ").removeprefix("as above: ")) if not comment or "as above: " in line else []
        if comment and not words:
            current = line[2:].split(": ")[0]
        if words:
            module = [word for word in words if word in PARSERS][0]
            arguments = words[words.index(module) + 1 :]
            PARSERS[module]().parse_args(arguments)
            assert words[:3] == ["python", "-m", module]
            assert comment == (line.removeprefix("# as above: ") in listed), "listed twice"
            listed.add(line.removeprefix("# as above: "))
            if current in cells:
                cells[current] += module == "validate.train_fkd"
    assert set(cells.values()) == {3}  # three students


def test_words_of_one_kind_are_alternatives():
    table = table1.TABLE
    assert [c.name for c in pick(table, ["r50", "ipc50", "delt"])] == ["r50 ipc50 delt"]
    assert len(pick(table, ["r18", "r50", "prism"])) == 6
    assert len(pick(table, [])) == 63
    assert len(pick(table3.TABLE, ["labels"])) == 6
    assert [c.name for c in pick(table3.TABLE, ["baseline"])] == ["recovery baseline", "teachers baseline", "backbones baseline"]


def test_unknown_words_list_the_words_there_are():
    with pytest.raises(UserError, match="'r34': table1 has no such word. It has student: r18, r50, r101; ipc: ipc10"):
        pick(table1.TABLE, ["r34"])
    with pytest.raises(UserError, match="no cell of table3 has all of these words"):
        pick(table3.TABLE, ["lr", "resize"])


def test_sizes_scale_steps_and_replace_epochs_and_ipc(tmp_path):
    found = sizes_of("table1", "--iteration", "40", "--epochs", "3", "--output-dir", str(tmp_path))
    edc = commands.cell_commands(table1.TABLE.cell("r18 ipc50 edc"), found)
    assert [recover_parser().parse_args(c.arguments).iteration for c in edc if c.stage == "recover"] == [0, 10]  # RDED has none
    assert edc[1].arguments[edc[1].arguments.index("--start-dir") + 1] == str(tmp_path / "rded_ipc50" / "images")
    assert relabel_parser().parse_args(edc[2].arguments).epochs == validate_parser().parse_args(edc[3].arguments).epochs == 3
    small = sizes_of("table2", "--ipc", "7", "--output-dir", str(tmp_path))
    command = commands.cell_commands(table2.TABLE.cell("multi2"), small)[0]
    assert recover_parser().parse_args(command.arguments).ipc_end == 7
    assert command.folder == tmp_path / "t2_multi2_ipc7"
    with pytest.raises(UserError, match="picked by their IPC"):
        run.main(["table1", "--ipc", "7"])


def test_full_seeds_vary_all_three_stages(tmp_path):
    cell = table3.TABLE.cell("schedule ssrs")
    for full, folders in (("0", {"prism_r18_ipc10"}), ("1", {"prism_r18_ipc10", "prism_r18_ipc10_seed2"})):
        found = sizes_of("table3", "--seeds", "0", "2", "--full-seeds", full, "--output-dir", str(tmp_path))
        own = commands.cell_commands(cell, found)
        assert {c.folder.name for c in own if c.stage == "recover"} == folders
        assert [validate_parser().parse_args(c.arguments).seed for c in own if c.stage == "validate"] == [0, 2]
        labels = {relabel_parser().parse_args(c.arguments).fkd_seed for c in own if c.stage == "relabel"}
        images = {recover_parser().parse_args(c.arguments).seed for c in own if c.stage == "recover"}
        assert (labels, images) == (({42, 44}, {0, 2}) if full == "1" else ({42}, {0}))


def test_online_teacher_is_part_of_the_students_name(tmp_path):
    found = sizes_of("table1", "--seeds", "0", "--online-teacher", "student", "--output-dir", str(tmp_path))
    command = commands.cell_commands(table1.TABLE.cell("r50 ipc10 prism-delt"), found)[-1]
    args = validate_parser().parse_args(command.arguments)
    assert (args.teachers, args.labels, args.student_name) == (["resnet50"], "teacher", "delt-resnet50-by-resnet50-seed0")
    own = commands.cell_commands(table1.TABLE.cell("r50 ipc10 prism"), found)[-1]
    assert "--teachers" not in own.arguments


def test_squeeze_trains_what_the_cells_need(tmp_path):
    found = sizes_of("table2", "--dataset", "digits", "--output-dir", str(tmp_path))
    of = {name: commands.squeeze(commands.cell_commands(table2.TABLE.cell(name), found), found)
          for name in ("real", "sre2l", "multi2")}
    assert of["real"] is None
    assert squeeze_parser().parse_args(of["sre2l"].arguments).teachers == ["resnet18"]
    assert len(squeeze_parser().parse_args(of["multi2"].arguments).teachers) == 4
    given = sizes_of("table2", "--dataset", "digits", "--teacher-weights", str(tmp_path))
    assert commands.squeeze(commands.cell_commands(table2.TABLE.cell("multi2"), given), given) is None


def test_every_option_is_used():
    """Each option of the table scripts reaches Sizes or main."""
    text = (ROOT / "reproduce" / "sizes.py").read_text() + (ROOT / "reproduce" / "run.py").read_text()
    for action in run.get_args_parser()._actions:
        if action.dest != "help":
            assert f"args.{action.dest}" in text, action.dest
            assert action.help


def test_sibling_scripts_differ_only_above_the_line():
    below = {(ROOT / "reproduce" / f"{name}.sh").read_text().split("# ---- nothing to edit below ----")[1] for name in run.TABLES}
    assert len(below) == 1


def test_parser_is_the_projects():
    with pytest.raises(UserError, match="python -m reproduce.run --help"):
        run.main(["table4"])
    assert isinstance(run.get_args_parser(), options.Parser)
