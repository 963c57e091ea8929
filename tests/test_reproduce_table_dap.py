"""DAP's tables: the paper's numbers, the options of their cells, and digits in their place."""

from pathlib import Path

import pytest

from data.class_lists import class_list
from reproduce import ROOT, ablation_dap, commands, dap_report, table_dap
from reproduce.departures import images_of
from reproduce.run import parse
from reproduce.sizes import Sizes, settle
from utils.errors import UserError
from utils.files import write_json

SIZES = Sizes(output_dir=Path("/out"), seeds=(0,), full_seeds=1)


def resolved(cell, stage):
    """The options of a cell's command."""
    return next(command.resolved() for command in commands.cell_commands(cell, SIZES)
                if command.stage == stage)


def test_table_3_has_the_papers_numbers():
    cells = [cell for cell in table_dap.TABLE.cells if cell.words["set"] in ("nette", "woof")]
    assert len(cells) == 2 * 3 * 3 * 3
    assert all(cell.paper and cell.std for cell in cells)
    # The sums were counted in the paper's table, column by column.
    sums = {row: [round(sum(numbers), 1) for numbers in zip(
        *((cell.paper, cell.std) for cell in cells if cell.words["row"] == row), strict=True)]
        for row in table_dap.ROWS}
    assert sums == {"random": [1032.7, 17.7], "dit": [1096.4, 15.3],
                    "dap": [1213.9, 18.8]}
    cell = table_dap.TABLE.cell("nette resnetap10 ipc10 dap")
    assert cell.paper_words == "67.8 ± 1.2"
    assert table_dap.TABLE.cell("imagenet resnet101-soft ipc50 dap").paper == 68.1
    assert table_dap.TABLE.cell("idc convnet6 ipc10 dap").paper_words == "–"


def test_a_hard_cell_is_dap_by_the_protocol_of_its_comparisons():
    cell = table_dap.TABLE.cell("woof resnet18 ipc50 dap")
    o = resolved(cell, "dap")
    assert (o["backbone"], o["gamma"], o["classes"], o["ipc_end"]) == ("dit", 1.0, "imagewoof", 50)
    o = resolved(cell, "hard")
    assert (o["protocol"], o["student"], o["seeds"]) == ("igd", "resnet18_in", (0,))
    plain = resolved(table_dap.TABLE.cell("woof resnet18 ipc50 dit"), "dap")
    assert {name for name in plain if plain[name] != resolved(cell, "dap")[name]} == {
        "gamma", "output_dir"}
    assert images_of(cell).classes == class_list("imagewoof")

    o = resolved(table_dap.TABLE.cell("nette convnet6 ipc10 random"), "recover")
    assert (o["start"], o["iteration"], o["crop"], o["image_size"], o["classes"]) == (
        "random", 0, "square", 256, "imagenette")


def test_a_soft_cell_is_at_the_size_of_its_teacher():
    cell = table_dap.TABLE.cell("imagenet resnet18-soft ipc10 dap")
    assert resolved(cell, "dap")["image_size"] == 224
    o = resolved(cell, "validate")
    assert (o["labels"], o["teachers"], o["shuffle_patches"]) == ("teacher", ("resnet18",), 2)


def test_every_ablation_changes_one_thing():
    default = resolved(ablation_dap.TABLE.cell("gamma gamma1"), "dap")
    changed = {"gamma": {"gamma"}, "layer": {"layer"}, "kernel": {"kernel"},
               "range": {"guide_from", "guide_to"}, "reals": {"reals", "mean_form"},
               "scale": {"guidance_scale_by", "gamma"}}
    for cell in ablation_dap.TABLE.cells:
        o = resolved(cell, "dap")
        differ = {name for name in o if o[name] != default[name]} - {"output_dir"}
        assert differ <= changed[cell.words["panel"]], cell.name
    assert resolved(ablation_dap.TABLE.cell("reals n100"), "dap") == default


def test_digits_train_their_diffusion_model_first():
    request = parse(["table_dap", "gamma1", "dap-prism", "resnet18-soft", "--dataset", "digits",
                     "--seeds", "0"])
    graph = commands.graph(request.cells, request.sizes)
    needs = {command.title: [other.title for other in needed] for command, needed in graph.items()}
    assert needs["dap: dap_gamma1_ipc10"] == ["diffusion: digits"]
    assert needs["recover: dap_prism_ipc10"][0] == "dap: dap_gamma1_ipc10"
    assert [c.resolved()["epochs"] for c in graph if c.stage == "validate"] == [50, 50]
    assert not any(commands.takes_shards(c) for c in graph if c.stage in ("diffusion", "validate"))


# The report on digits

def line(row, seed, **values):
    numbers = dict.fromkeys(table_dap.DIGITS_STUDENTS, 50.0 + seed)
    form = 0.999 if row.startswith("gamma") else None
    return {"images": row, "seed": seed, **numbers, "cosine": 0.9, "distance": 2.0,
            "form_cosine": form, **values}


def test_the_report_has_means_and_deviations(tmp_path):
    lines = [line(row, seed) for row in table_dap.DIGITS_IMAGES for seed in (0, 1, 2)]
    dap_report.write_csv(lines, tmp_path / "dap.csv", dap_report.COLUMNS)
    assert dap_report.read_csv(tmp_path / "dap.csv") == lines
    text = dap_report.markdown(lines)
    assert "| DAP, γ = 1 | 51.0 ± 1.0 | 51.0 ± 1.0 | 51.0 ± 1.0 | 0.900 | 2.00 |" in text
    assert "at least 0.9990" in text


def test_the_two_forms_of_the_mean_point_the_same_way_on_digits():
    """What was measured on the digits' model, whose training is too long for a test."""
    lines = dap_report.read_csv(ROOT / "results/measured/digits_dap.csv")
    forms = [line["form_cosine"] for line in lines if line["images"].startswith("gamma")]
    assert len(forms) == 5 * 3
    assert min(forms) > 0.99


def test_the_report_wants_finished_cells(tmp_path):
    with pytest.raises(UserError, match="the cell random convnet3-hard of seed 0 is not finished"):
        dap_report.main(["--output-dir", str(tmp_path), "--seeds", "0"])


def test_top1_is_the_test_that_the_protocol_reports(tmp_path):
    sizes = settle(Sizes(dataset="digits", output_dir=tmp_path, full_seeds=1), "table_dap")
    for place, cell in enumerate(table_dap.digits_cells()[:3]):
        folder = commands.student_folder(cell, sizes, 1)
        write_json(folder / "result.json", {"best": {"top1": 60.0 + place}, "last": {"top1": 59.5}})
    assert dap_report.top1("random", 1, sizes) == {
        "convnet3-hard": 59.5, "resnet18-hard": 61.0, "resnet18-soft": 62.0}
