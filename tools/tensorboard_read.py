#!/usr/bin/env python3
"""Prints what TensorBoard's own reader makes of a folder with event files, as CSV: tag, step, value.

    python3 tools/tensorboard_read.py FOLDER
    python3 tools/tensorboard_read.py --check FOLDER    # compares with FOLDER/scalars.csv; exit code 1 when it differs

TensorBoard comes from PyPI, at a fixed version, into a virtual environment below target/; the first call needs the network.
"""

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

PACKAGE = "tensorboard==2.21.0"
ENVIRONMENT = Path(__file__).resolve().parent.parent / "target" / "tensorboard-venv"


def enter_environment():
    """Runs this script again with the environment's Python, which is made if need be."""
    if Path(sys.prefix).resolve() == ENVIRONMENT:
        return
    python, ready = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "ready"
    if not ready.exists() or ready.read_text() != PACKAGE:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE], check=True, stdout=sys.stderr)
        ready.write_text(PACKAGE)
    os.execv(python, [str(python), *sys.argv])


def read(folder):
    """The CSV's lines."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    # 0: all points, not a sample of them.
    accumulator = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    accumulator.Reload()
    yield "tag,step,value"
    for tag in sorted(accumulator.Tags()["scalars"]):
        for event in accumulator.Scalars(tag):
            yield f"{tag},{event.step},{event.value!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with events.out.tfevents.* files")
    parser.add_argument("--check", action="store_true", help="compare with the folder's scalars.csv")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder}: no such folder")
    enter_environment()
    lines = list(read(options.folder))
    if not options.check:
        print("\n".join(lines))
        return 0
    expected = (options.folder / "scalars.csv").read_text().splitlines()
    for number in range(max(len(lines), len(expected))):
        seen, wanted = (rows[number] if number < len(rows) else "(no line)" for rows in (lines, expected))
        if seen != wanted:
            print(f"{options.folder}/scalars.csv: line {number + 1}: expected {wanted}, TensorBoard reads {seen}", file=sys.stderr)
            return 1
    print(f"{options.folder}: {len(lines) - 1} points as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
