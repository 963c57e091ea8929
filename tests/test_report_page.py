import html
import json
import re
import shutil
import subprocess

import pytest
import tiny

from report import page
from utils.errors import UserError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
               None)
CLASSES = ("<b>bold", "a" * 60, "c")
# A page of the test's own, which measures the page in a frame and writes what it found.
FRAME = """<!DOCTYPE html><body><pre id="found">nothing</pre>
<iframe src="page.html" style="border:0; width:{width}px; height:800px"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach(fold => fold.open = true);
  const wide = [...page.querySelectorAll("body *")].filter(e => !e.closest(".table *")
    && e.getBoundingClientRect().right > {width} + 0.5).map(e => e.tagName + " " + e.className);
  document.getElementById("found").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth, wide: wide,
    scripts: page.scripts.length, images: page.images.length,
    broken: [...page.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt),
    unnamed: [...page.images].filter(i => !i.alt).length}});
}};
</script>"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The page of a run and of a folder of another tool, with long and hostile names."""
    out = tmp_path_factory.mktemp("page")
    tiny.image_folder(out / "train", CLASSES, 3)
    tiny.teacher_folder(out / "teachers", ["resnet18"], CLASSES)
    run = tiny.distilled_folder(out / "prism", out / "train", CLASSES, 3)
    tiny.finished_student(run, "soft_seed0", labels={"options": {}})
    tiny.image_folder(out / "plain", CLASSES, 3, (32, 32))
    page.main([str(word) for word in (
        out / "prism", "a_rather_long_name_of_a_set=" + str(out / "plain"), "--output",
        out / "page.html", "--network", "resnet18", "--teacher-weights", out / "teachers",
        "--device", "cpu")])
    return out


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, none on PATH")
@pytest.mark.parametrize("width", [390, 1400])
def test_in_a_browser_all_images_load_and_nothing_overflows(out, tmp_path, width):
    (out / "frame.html").write_text(FRAME.format(width=width))
    run = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path}",
         "--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1600,1000",
         "--dump-dom", f"file://{out / 'frame.html'}"],
        capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(html.unescape(re.search(r'id="found">(.*?)</pre>', run.stdout)[1]))
    assert found["width"] == width
    assert found["wide"] == []
    assert found["broken"] == []
    assert found["images"] == 3 * 2 + 1 + 1 + 2  # strips, a curve, cosines, a map per set
    assert (found["scripts"], found["unnamed"]) == (0, 0)
    assert "CONSOLE" not in run.stderr, run.stderr


@pytest.mark.parametrize(("argv", "message"), [
    (["no_such"], "no_such: no such folder"),
    (["a", "--output", "page.txt"], "page.txt: expected a name that ends in .html."),
    ([], "the following arguments are required: FOLDER"),
    (["a=", "--network", "none"], "found 'a=', expected NAME=FOLDER")])
def test_what_cannot_be_meant(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        page.main(argv)
    assert list(tmp_path.iterdir()) == []
