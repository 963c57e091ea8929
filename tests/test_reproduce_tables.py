"""The cells of the paper's tables: complete, with the paper's numbers, made as their rows say."""

from pathlib import Path

import pytest

from reproduce import commands, table1, table2, table3
from reproduce.cells import pick
from reproduce.run import TABLES, cells_for
from reproduce.sizes import Sizes
from utils import options
from utils.errors import UserError

# Options that name folders and runs.
NAMES = {"output_dir", "fkd_path", "student_name"}


def numbers(table, **words):
    return [(cell.paper, cell.std) for cell in table.cells if words.items() <= cell.words.items()]


def resolved(stage, cell):
    """The options of a cell's command, with the preset's and defaults."""
    sizes = Sizes(output_dir=Path("/out"), seeds=(0,))
    return [c for c in commands.cell_commands(cell, sizes) if c.stage == stage][-1].resolved()


def test_table1_has_every_cell_with_the_papers_numbers():
    table = table1.TABLE
    assert len(table.cells) == 7 * 3 * 3
    assert numbers(table, row="prism", student="r18") == [(49.4, 0.2), (59.0, 0.1), (60.9, 0.2)]
    assert numbers(table, row="prism-delt", student="r101") == [
        (40.7, 3.6), (66.7, 0.2), (70.4, 0.2)]
    assert numbers(table, row="delt", student="r50") == [(None, None)] * 3
    assert numbers(table, row="edc", ipc="ipc50") == [(58.0, 0.2), (64.3, 0.2), (64.9, 0.2)]
    with_number = [cell for cell in table.cells if cell.paper is not None]
    assert len(with_number) == 54  # this and the sums were counted in the paper's text
    assert round(sum(cell.paper for cell in with_number), 1) == 2948.0
    assert round(sum(cell.std for cell in with_number), 1) == 22.0


def test_table2_and_3_have_every_cell_with_the_papers_numbers():
    assert [cell.paper for cell in table2.TABLE.cells] == [
        70.0, 17.9, 18.3, 19.0, 32.4, 36.2, 37.4, 38.7, 39.1]
    assert [cell.paper for cell in table3.TABLE.cells] == [
        21.22, 23.75, 28.97, 28.07, 23.85, 29.53, 29.53, 29.93, 31.30, 30.89, 31.30, 40.41, 43.40,
        44.04, 43.79, 42.59, 44.04, 45.73, 45.73, 46.63, 47.35, 47.35, 47.53, 47.77, 49.4]


def test_numbers_have_the_papers_digits():
    assert table1.TABLE.cell("r50 ipc10 rded").paper_words == "–"
    assert table1.TABLE.cell("r50 ipc10 prism").paper_words == "51.1 ± 1.2"
    assert table3.TABLE.cell("batch b16").paper_words == "40.41"
    assert table3.TABLE.cell("schedule ssrs").paper_words == "49.4"


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_names_are_unique_and_claims_follow_the_paper(table):
    assert len({cell.name for cell in table.cells}) == len(table.cells)
    for claim in table.claims:
        assert table.cell(claim.higher).paper > table.cell(claim.lower).paper, claim


@pytest.mark.parametrize("dataset", ["imagefolder", "digits"])
def test_a_folder_is_made_by_one_command(dataset):
    """Run folders, labels and students are shared between cells, so they must be made alike."""
    sizes = Sizes(output_dir=Path("/out"), dataset=dataset, seeds=(0,))
    by_folder = {}
    for table in TABLES.values():
        for command in commands.graph(cells_for(table, dataset).cells, sizes):
            known = by_folder.setdefault(command.folder, command.options)
            assert known == command.options, command.title


def test_the_last_step_of_table3_is_prism_of_table1():
    last, prism = table3.TABLE.cell("schedule ssrs"), table1.TABLE.cell("r18 ipc10 prism")
    assert (last.images, last.labels, last.student) == (prism.images, prism.labels, prism.student)
    assert last.paper == prism.paper


def test_prism_is_what_the_stages_do_by_default():
    cell = table1.TABLE.cell("r18 ipc10 prism")
    for stage in ("recover", "relabel", "validate"):
        _, kind, presets = commands.STAGES[stage]
        default = options.as_dict(options.from_values(kind, {}, presets))
        found = resolved(stage, cell)
        assert {name for name in found if found[name] != default[name]} <= NAMES


@pytest.mark.parametrize(("dataset", "smallest_class", "expected"), [
    ("imagefolder", 732, {(10, 300, 2), (50, 300, 2), (100, 400, 2)}),
    ("digits", 126, {(10, 300, 2), (50, 300, 1), (100, 300, 1)})])
def test_every_class_can_fill_its_mosaics(dataset, smallest_class, expected):
    """RDED's 300 candidates cannot fill 100 mosaics of four, nor can a class of digits fill 50."""
    cells = pick(cells_for(table1.TABLE, dataset), ["rded", "edc"])
    sizes = Sizes(output_dir=Path("/out"), dataset=dataset)
    found = set()
    for o in (commands.cell_commands(cell, sizes)[0].resolved() for cell in cells):
        crops = o["ipc_end"] * o["mosaic_grid"] ** 2
        assert crops <= min(smallest_class, o["mosaic_candidates"])
        found.add((o["ipc_end"], o["mosaic_candidates"], o["mosaic_grid"]))
    assert found == expected
    assert len(cells) == 18


def test_table2_is_sre2l_but_for_its_teachers():
    base = resolved("recover", table2.TABLE.cell("sre2l"))
    assert {name: base[name] for name in ("lr", "iteration", "steps", "batch_size", "ipc_end")} == {
        "lr": 0.25, "iteration": 4000, "steps": "constant", "batch_size": 100, "ipc_end": 1300}
    assert (base["start"], base["decoupling"], base["logit_teacher"]) == (
        "real", "single", "primary")
    assert base["allow_short_classes"]
    of_teachers = {"decoupling", "logit_teacher", "selection", "bn_teachers", "bn_law", "bn_count",
                   "theta1"}
    for cell in table2.TABLE.cells[2:]:
        row = resolved("recover", cell)
        assert {name for name in row if row[name] != base[name]} - NAMES <= of_teachers
        assert row["logit_teacher"] == "drawn"
        assert row["selection"] == ("intra" if "intra" in cell.name else "pre")
        assert row["decoupling"] == cell.name.split("-")[0].rstrip("234")
        assert len({row["primary_teacher"], *row["bn_teachers"]}) == 4
    for count in (2, 3, 4):
        row = resolved("recover", table2.TABLE.cell(f"multi{count}"))
        assert (row["bn_law"], row["bn_count"], row["theta1"]) == ("exact", count, "free")
    assert resolved("validate", table2.TABLE.cells[0])["loss_type"] == "ce"


STEPS_OF_TABLE3 = [  # (cell, stage, what changes from the cell before it in this list)
    ("labels resnet18", None, {}),
    ("labels ensemble", "relabel", {"teachers", "ensemble"}),
    ("labels mse0.1", "validate", {"loss_type"}),
    ("recovery varied", "recover", {"steps"}),
    ("batch b50", "relabel", {"batch_size"}),
    ("teachers forced", "recover", {"bn_law", "theta1"}),
    ("lr lr0.10", "recover", {"lr"}),
    ("lr lr0.05", "recover", {"lr"}),
    ("backbones alexnet-relabel", "relabel", {"teachers"}),
    ("backbones alexnet-recover", "recover", {"bn_teachers"}),
    ("schedule ssrs", None, {})]


def test_table3_changes_one_thing_at_a_time():
    for (before, _, _), (after, changed_stage, changed) in zip(
            STEPS_OF_TABLE3, STEPS_OF_TABLE3[1:], strict=False):
        if changed_stage is None:
            continue
        for stage in ("recover", "relabel", "validate"):
            a, b = (resolved(stage, table3.TABLE.cell(name)) for name in (before, after))
            differ = {name for name in a if a[name] != b[name]} - NAMES
            assert differ == (changed if stage == changed_stage else set()), (after, stage)
    final = resolved("recover", table3.TABLE.cells[-1])
    assert (final["lr"], final["steps"], final["bn_law"], final["theta1"]) == (
        0.05, "varied", "slots", "forced")


def test_words_of_one_kind_are_alternatives():
    table = table1.TABLE
    assert [cell.name for cell in pick(table, ["r50", "ipc50", "delt"])] == ["r50 ipc50 delt"]
    assert len(pick(table, ["r18", "r50", "prism"])) == 6
    assert len(pick(table, [])) == 63
    assert len(pick(table3.TABLE, ["labels"])) == 6
    assert [cell.name for cell in pick(table3.TABLE, ["baseline"])] == [
        "recovery baseline", "teachers baseline", "backbones baseline"]


def test_unknown_words_list_the_words_there_are():
    with pytest.raises(UserError, match="'r34': table1 has no such word. It has student: r18, r50"):
        pick(table1.TABLE, ["r34"])
    with pytest.raises(UserError, match="no cell of table3 has all of these words"):
        pick(table3.TABLE, ["lr", "resize"])
