"""Python packages for the checks: a virtual environment under target/, made on the first run."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def installed(name, *packages):
    """The python of the environment `name`, in which `packages` are installed from the ordinary registry."""
    folder = ROOT / "target/bench-python" / name
    python, done = folder / "bin/python", folder / "installed"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {', '.join(packages)} in {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        done.write_text(wanted)
    return python


def enter(name, *packages):
    """Goes on in the environment `name`: starts the running script again with its python."""
    python = installed(name, *packages)
    if Path(sys.prefix).resolve() != python.parents[1].resolve():
        os.execv(python, [python, *sys.argv])
