# Sourced by quickstart.sh and test.sh, from the project's root. use_environment FILE sets PYTHON to an interpreter that
# satisfies the requirements in FILE: the current one if it does, else .venv's, which is made or completed first.

satisfies() {  # interpreter, requirements file
    "$1" - "$2" <<'PY' 2>/dev/null
import re, sys
from importlib.metadata import version

def numbers(text):
    return [int(n) for n in re.findall(r"\d+", text.split("+")[0])]

def check(file):
    for line in open(file):
        if line.startswith("-r "):
            check(line[3:].strip())
        elif line.strip():
            name, _, least = line.strip().partition(">=")
            if numbers(version(name)) < numbers(least):
                sys.exit(1)

check(sys.argv[1])
PY
}

use_environment() {
    PYTHON=${PYTHON:-python3}
    if ! command -v "$PYTHON" >/dev/null 2>&1; then
        echo "error: $PYTHON was not found. Install Python 3.10 or newer, or set PYTHON to one." >&2; exit 2
    fi
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: $("$PYTHON" --version) is too old, expected 3.10 or newer. Set PYTHON to a newer one." >&2; exit 2
    fi
    if satisfies "$PYTHON" "$1"; then return; fi
    if [ -x .venv/bin/python ] && satisfies .venv/bin/python "$1"; then PYTHON=.venv/bin/python; return; fi

    if ! [ -x .venv/bin/pip ]; then
        if ! "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
            echo "error: this Python has no venv module. Install it (Debian, Ubuntu: apt install python3-venv) and run this again." >&2
            exit 2
        fi
        echo "Making .venv ..."
        "$PYTHON" -m venv .venv
        # An installed torch that is new enough is used as it is: .venv sees the packages beside it.
        torch_home=$("$PYTHON" -c 'import importlib.metadata as m; print(m.distribution("torch").locate_file(""))' 2>/dev/null || true)
        grep '^torch>' requirements.txt > .venv/torch_requirement.txt
        if [ -n "$torch_home" ] && satisfies "$PYTHON" .venv/torch_requirement.txt; then
            echo "$torch_home" > "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/installed_torch.pth"
        fi
    fi
    echo "Installing what $1 lists into .venv (with PyTorch about 6 GB; some minutes, once) ..."
    torch_version=$(.venv/bin/python -c 'import importlib.metadata as m; print(m.version("torch").split("+")[0])' 2>/dev/null || true)
    if [ -n "$torch_version" ]; then echo "torch==$torch_version" > .venv/constraints.txt; else : > .venv/constraints.txt; fi
    if ! .venv/bin/python -m pip install --disable-pip-version-check -r "$1" -c .venv/constraints.txt; then
        echo "error: pip could not install what $1 lists; its message stands above. Mend that and run this again." >&2; exit 2
    fi
    PYTHON=.venv/bin/python
}
