"""The commands that make a cell, what each needs, and how they follow the sizes."""

import pytest

from models import diffusion_options, pretrain_options
from recover import options as recover_options
from recover.dap import options as dap_options
from relabel import options as relabel_options
from reproduce import commands, run, table1, table2, table3
from utils.errors import UserError
from validate import hard_options
from validate import options as validate_options

PARSE = {"squeeze": pretrain_options.parse, "diffusion": diffusion_options.parse,
         "recover": recover_options.parse, "dap": dap_options.parse,
         "relabel": relabel_options.parse, "validate": validate_options.parse,
         "hard": hard_options.parse}


def sizes_of(table, *arguments):
    return run.parse([table, *map(str, arguments)]).sizes


@pytest.mark.parametrize(("table", "dataset"), [
    (table, dataset) for table in run.TABLES
    for dataset in ("imagefolder", "digits", "cifar10", "fashion_mnist")
    if dataset in ("imagefolder", "digits") or table not in run.OF_DIGITS])
def test_stages_read_every_command_as_it_was_meant(table, dataset):
    request = run.parse([table, "--dataset", dataset, "--output-dir", "/out", "--val-dir", "/val"])
    graph = commands.graph(request.cells, request.sizes)
    assert len(graph) > 9
    for command in graph:
        read = PARSE[command.stage](command.arguments)
        assert read == command.parsed(), command.line()


def test_a_command_comes_after_what_it_needs():
    """EDC's images start from RDED's; its teachers are trained where none are published."""
    request = run.parse(["table1", "r18", "ipc10", "edc", "--dataset", "digits", "--seeds", "0"])
    graph = commands.graph(request.cells, request.sizes)
    order = [command.title for command in graph]
    needs = {command.title: [c.title for c in needed] for command, needed in graph.items()}
    rded, edc = "recover: rded_ipc10", "recover: edc_ipc10"
    labels, student = "relabel: edc_ipc10/labels_edc", order[-1]
    assert needs[rded] == ["squeeze: resnet18"]
    assert needs[edc][0] == rded
    assert set(needs[edc][1:]) == {f"squeeze: {name}" for name in (
        "resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet")}
    assert needs[labels][0] == edc
    assert needs[student] == [labels]
    for title, needed in needs.items():
        assert all(order.index(other) < order.index(title) for other in needed)


def test_commands_that_cells_share_are_there_once():
    request = run.parse(["table3", "labels"])
    stages = [command.stage for command in commands.graph(request.cells, request.sizes)]
    assert (stages.count("recover"), stages.count("relabel")) == (1, 2)
    assert stages.count("validate") == 6 * 3


@pytest.mark.parametrize(("cell", "teachers"), [("real", 0), ("sre2l", 1), ("multi2", 4)])
def test_only_the_teachers_that_a_cell_needs_are_trained(cell, teachers, tmp_path):
    def trained(*arguments):
        request = run.parse(["table2", cell, "--dataset", "digits", *arguments])
        return [c for c in commands.graph(request.cells, request.sizes) if c.stage == "squeeze"]

    assert len(trained()) == teachers
    assert trained("--teacher-weights", str(tmp_path)) == []


def test_parts_of_a_command():
    cells, sizes = table1.TABLE, sizes_of("table1", "--epochs", 3)
    parts = {command.title: (commands.parts(command, 8), commands.prepares(command))
             for name in ("edc", "prism", "gvbsm") for command in
             commands.cell_commands(cells.cell(f"r18 ipc10 {name}"), sizes)}
    assert parts["recover: rded_ipc10"] == (1, True)  # nothing but the choice of crops
    assert parts["recover: prism_r18_ipc10"] == (8, False)
    assert parts["recover: gvbsm_ipc10"] == (8, True)  # statistics are measured first
    assert parts["relabel: prism_r18_ipc10/labels_prism"] == (3, False)  # an epoch is whole
    assert parts["validate: prism_r18_ipc10/students/prism-prism-resnet18-seed0"] == (1, False)


def test_sizes_scale_steps_and_replace_epochs_and_ipc(tmp_path):
    sizes = sizes_of("table1", "--iteration", 40, "--epochs", 3, "--output-dir", tmp_path)
    rded, edc, labels, student = commands.cell_commands(
        table1.TABLE.cell("r18 ipc50 edc"), sizes)[:4]
    assert [c.resolved()["iteration"] for c in (rded, edc)] == [0, 10]  # RDED has no steps
    assert edc.options["start_dir"] == tmp_path / "rded_ipc50" / "images"
    assert labels.resolved()["epochs"] == student.resolved()["epochs"] == 3

    sizes = sizes_of("table2", "--ipc", 7, "--output-dir", tmp_path)
    command = commands.cell_commands(table2.TABLE.cell("multi2"), sizes)[0]
    assert command.resolved()["ipc_end"] == 7
    assert command.folder == tmp_path / "t2_multi2_ipc7"
    with pytest.raises(UserError, match="picked by their IPC"):
        run.parse(["table1", "--ipc", "7"])


@pytest.mark.parametrize(("full", "folders", "labels_seeds"), [
    (0, {"prism_r18_ipc10"}, {42}),
    (1, {"prism_r18_ipc10", "prism_r18_ipc10_seed2"}, {42, 44})])
def test_full_seeds_vary_all_three_stages(full, folders, labels_seeds):
    sizes = sizes_of("table3", "--seeds", 0, 2, "--full-seeds", full)
    made = commands.cell_commands(table3.TABLE.cell("schedule ssrs"), sizes)
    by_stage = {stage: [c for c in made if c.stage == stage]
                for stage in ("recover", "relabel", "validate")}
    assert {c.folder.name for c in by_stage["recover"]} == folders
    assert {c.resolved()["fkd_seed"] for c in by_stage["relabel"]} == labels_seeds
    assert {c.resolved()["seed"] for c in by_stage["recover"]} == ({0, 2} if full else {0})
    assert [c.resolved()["seed"] for c in by_stage["validate"]] == [0, 2]


@pytest.mark.parametrize("table", ["table3", "table_dap"])
def test_precision_and_compile_reach_every_stage_that_has_them(table):
    request = run.parse([table, "--dataset", "digits", "--precision", "bf16", "--compile"])
    made = commands.graph(request.cells, request.sizes)
    ways = {(o.get("precision"), o.get("compile"))
            for o in (command.resolved() for command in made if command.stage != "squeeze")}
    assert ways == {("bf16", True)}


def test_online_teacher_is_part_of_the_students_name():
    sizes = sizes_of("table1", "--seeds", 0, "--online-teacher", "student")
    o = commands.cell_commands(table1.TABLE.cell("r50 ipc10 prism-delt"), sizes)[-1].resolved()
    assert (o["teachers"], o["labels"]) == (("resnet50",), "teacher")
    assert o["student_name"] == "delt-resnet50-by-resnet50-seed0"
    prism = commands.cell_commands(table1.TABLE.cell("r50 ipc10 prism"), sizes)[-1]
    assert "teachers" not in prism.options
