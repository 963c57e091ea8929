# Sourced by quickstart.sh and test.sh, from the project's root. use_environment FILE sets PYTHON to
# an interpreter that satisfies the requirements in FILE: the current one if it does, else that of
# .venv, which is made or completed first. LOCKED=1: with exactly the versions in constraints.txt.

satisfies() {  # interpreter, requirements file
    "$1" - "$2" "${LOCKED:-0}" <<'PY' 2>/dev/null
import re
import sys
from importlib.metadata import version


def numbers(text):
    return [int(n) for n in re.findall(r"\d+", text.split("+")[0])]


def requirements(file):
    for line in map(str.strip, open(file)):
        if line.startswith("-r "):
            yield from requirements(line[3:].strip())
        elif line and not line.startswith("#"):
            yield re.fullmatch(r"([\w.-]+)(?:[>=]=(.*))?", line).groups()


required, locked = dict(requirements(sys.argv[1])), {}
if sys.argv[2] == "1":
    locked = dict(requirements("constraints.txt"))
for name, least in required.items():
    installed = numbers(version(name))
    if installed < numbers(least or ""):
        sys.exit(1)
    if name in locked and installed != numbers(locked[name]):
        sys.exit(1)
PY
}

check_python() {
    if ! command -v "$PYTHON" >/dev/null 2>&1; then
        echo "error: $PYTHON was not found. Install Python 3.10 or newer, or set PYTHON to one." >&2
        exit 2
    fi
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: $("$PYTHON" --version) is too old, expected 3.10 or newer." \
             "Set PYTHON to a newer one." >&2
        exit 2
    fi
}

make_venv() {
    if ! "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "error: this Python has no venv module. Install it (Debian, Ubuntu:" \
             "apt install python3-venv) and run this again." >&2
        exit 2
    fi
    echo "Making .venv ..."
    "$PYTHON" -m venv .venv

    # A PyTorch that is installed already is used as it is: .venv sees the packages beside it.
    grep '^torch>' requirements.txt > .venv/torch.txt
    if satisfies "$PYTHON" .venv/torch.txt; then
        packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        "$PYTHON" -c 'from importlib.metadata import distribution
print(distribution("torch").locate_file(""))' > "$packages/installed_torch.pth"
    fi
}

constraints() {  # what pip must not change: the tested versions, or a PyTorch that is there
    if [ "${LOCKED:-0}" = 1 ]; then
        cat constraints.txt
    else
        .venv/bin/python -c 'import importlib.metadata as m
print("torch==" + m.version("torch").split("+")[0])' 2>/dev/null || true
    fi
}

use_environment() {  # requirements file
    PYTHON=${PYTHON:-python3}
    check_python
    if satisfies "$PYTHON" "$1"; then return; fi
    if [ -x .venv/bin/python ] && satisfies .venv/bin/python "$1"; then
        PYTHON=.venv/bin/python
        return
    fi

    [ -x .venv/bin/pip ] || make_venv
    PYTHON=.venv/bin/python
    echo "Installing what $1 lists into .venv (with PyTorch about 6 GB; some minutes, once) ..."
    constraints > .venv/constraints.txt
    if ! "$PYTHON" -m pip install --disable-pip-version-check -r "$1" -c .venv/constraints.txt; then
        echo "error: pip could not install what $1 lists; its message is above." \
             "Resolve that and run this again." >&2
        exit 2
    fi
}
