"""The pages: their links, commands and options exist, and what formats.md says can be read."""

import contextlib
import functools
import importlib
import io
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from data.epoch_plan import PlanOptions, draw_plan
from data.label_formats import label_format
from data.labels import EpochLabels, save_epoch
from utils.checkpoint import load_tensors

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "[a-z]*/README.md")
               for path in ROOT.glob(pattern))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
OTHERS = {"--config", "--cores", "--executor", "--jobs", "--keep-going", "--printshellcmds",
          "--resources", "--retries", "--show-failed-logs", "--unlock"}  # Snakemake's options


def without_code(page):
    """A page's text without its blocks and spans of code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)


def page_name(page):
    return str(page.relative_to(ROOT))


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


# Links

def anchors(page):
    """The anchors that a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_resolve(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page_name(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page_name(page)}: no heading for {link}"


# Commands and options

def entries():
    """The modules that python -m runs."""
    return [f"{path.parent.name}.{path.stem}" for path in sorted(ROOT.glob("*/*.py"))
            if path.parent.name != "tests" and "\nif __name__ ==" in path.read_text()]


@functools.cache
def options_of(module):
    """The options that a module's --help lists, and those of its commands, such as fig1."""
    main, text = importlib.import_module(module).main, io.StringIO()
    with contextlib.redirect_stdout(text):
        with contextlib.suppress(SystemExit):
            main(["--help"])
        for choices in re.findall(r"^  \{([\w,]+)\}", text.getvalue(), re.M):
            for command in choices.split(","):
                with contextlib.suppress(SystemExit):
                    main([command, "--help"])
    return set(OPTION.findall(text.getvalue()))


def options_of_script(path):
    """The options that a script reads itself, and those of the modules that it starts."""
    text = path.read_text()
    modules = set(re.findall(r"(?:\blaunch|-m) ([a-z]+\.\w+)", text)) & set(entries())
    return set(OPTION.findall(text)).union(*map(options_of, modules))


def commands(page):
    """(module or script, rest of the command) of every command of ours that a page shows."""
    text = page.read_text().replace("\\\n", " ")
    found = [match for line in re.split(r"[\n`;|#]", text)
             for match in re.findall(r"(?<!\S)(?:-m|sh) ([\w./]+)(.*)", line)]
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir()}
    return [(name, rest) for name, rest in found
            if name.endswith(".sh") or name.split(".")[0] in rooms]


def script_of(name):
    """The script that a page names from the project's root, or from the script's own folder."""
    return next((path for path in (ROOT / name, *ROOT.glob(f"*/{name}")) if path.is_file()), None)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_exist(page):
    for name, rest in commands(page):
        known = {"--option"}
        if name.endswith(".sh"):
            path = script_of(name)
            assert path, f"{page_name(page)}: sh {name}"
            known |= options_of_script(path)
        else:
            assert name in entries(), f"{page_name(page)}: python -m {name}"
            known |= options_of(name)
        unknown = set(OPTION.findall(rest)) - known
        assert not unknown, f"{page_name(page)}: {name} has no {', '.join(unknown)}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_options_exist(page):
    """An option that is named without its command is one of some module."""
    spans = re.findall(r"`(--[^`\n]+)`", page.read_text())
    named = {option.removesuffix("-for") for span in spans for option in OPTION.findall(span)}
    unknown = named - OTHERS - set().union(*map(options_of, entries()))
    assert not unknown, f"{page_name(page)} names {', '.join(unknown)}"


# The reader of formats.md

@pytest.fixture(scope="module")
def reader():
    """The functions of the page's code block, which must not need this project or PyTorch."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/formats.md").read_text(), re.S)[1]
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.M)) == {
        "json", "zlib", "numpy", "safetensors"}
    module = types.ModuleType("reader")
    exec(code, module.__dict__)
    return module


@pytest.mark.parametrize(("name", "top_k"), [("fp16", None), ("fp32", None), ("int8", None),
                                             ("topk", 3)])
def test_the_reader_reads_labels(reader, tmp_path, name, top_k):
    options, number_format = PlanOptions(images=7, size=32, batch_size=4), label_format(
        name, 12, top_k)
    plan = draw_plan(options, epoch=2)
    logits = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "epoch_002.safetensors"
    save_epoch(path, 2, plan, number_format.encode(logits), number_format, recipe="abc")

    arrays, content = reader.read(path)
    assert content == {"epoch": 2, "batch_size": 4, "format": name, "classes": 12, "top_k": top_k,
                       "recipe": "abc"}
    ours = EpochLabels(path, options, number_format).logits(slice(0, 7))
    assert np.array_equal(reader.soft_labels(arrays, content), ours.numpy())
    for tensor_name, tensor in plan.tensors().items():
        assert np.array_equal(arrays[tensor_name], tensor.numpy())


def test_the_page_gives_the_types_of_a_label_file(tmp_path):
    page = (ROOT / "docs/formats.md").read_text()
    options, number_format = PlanOptions(images=7, size=32, batch_size=4), label_format("fp32", 12)
    plan = draw_plan(options, epoch=0)
    for name, tensor in plan.tensors().items():
        assert f"| `{name}` | {str(tensor.dtype).removeprefix('torch.')} [" in page
    path = tmp_path / "epoch_000.safetensors"
    save_epoch(path, 0, plan, number_format.encode(torch.zeros(7, 12)), number_format, "abc")
    assert set(load_tensors(path)[0]) == {*plan.tensors(), "logits"}


def test_the_reader_reads_weights(reader, tmp_path):
    from models.networks import build, save_network

    network = build("shufflenet_v2_x0_5", 4, seed=("docs",))
    save_network(tmp_path / "net.safetensors", network, {"top1": 50.0})
    arrays, content = reader.read(tmp_path / "net.safetensors")
    assert set(content["network"]) == set(network.spec())
    assert content["about"] == {"top1": 50.0}
    for name, tensor in network.net.state_dict().items():
        assert np.array_equal(arrays[name], tensor.numpy())


def test_the_reader_notices_damage(reader, tmp_path):
    options, number_format = PlanOptions(images=7, size=32, batch_size=4), label_format("fp32", 12)
    path = tmp_path / "epoch_000.safetensors"
    save_epoch(path, 0, draw_plan(options, 0), number_format.encode(torch.zeros(7, 12)),
               number_format, "abc")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="checksum"):
        reader.read(path)
