"""Runs `hwnas check` on spoiled study files and prints what a user would see.

    python benchmarks/spoiled.py [--json rows.json] [--keep FOLDER]

Each file must give exit code 2 and one line that names file, line, column and key; none may give a traceback.
The command exits with 1 when one does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from spoiled_corpus import SPOILED, Spoiled

COLUMNS = ("file", "exit", "tracebacks", "seconds", "as_expected", "line")


def run(spoiled: Spoiled, folder: Path) -> dict[str, Any]:
    """Checks one file in a process of its own.

    Returns:
        A row: what the process said on stderr, its exit code, and whether that is what it should be.
    """
    (folder / spoiled.name).write_bytes(spoiled.content)
    start = time.perf_counter()
    command = [sys.executable, "-m", "hwnas", "check", spoiled.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    seconds = time.perf_counter() - start
    lines = done.stderr.strip().splitlines()
    place = f"{spoiled.name}:{spoiled.line}:{spoiled.column}: {f'{spoiled.key}: ' if spoiled.key else ''}"
    return {
        "file": spoiled.name,
        "exit": done.returncode,
        "tracebacks": (done.stdout + done.stderr).count("Traceback"),
        "seconds": round(seconds, 2),
        "as_expected": done.returncode == 2 and len(lines) == 1 and place in lines[0] and spoiled.says in lines[0],
        "line": " ⏎ ".join(lines),
    }


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the spoiled files to FOLDER and leave them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        print("file                              exit  tracebacks  seconds  line", flush=True)
        for spoiled in SPOILED:
            row = run(spoiled, folder)
            rows.append(row)
            mark = "" if row["as_expected"] else "   <-- NOT AS EXPECTED"
            numbers = f"{row['exit']:>4}  {row['tracebacks']:>10}  {row['seconds']:>7.2f}"
            print(f"{row['file']:<32}  {numbers}  {row['line']}{mark}", flush=True)
    good = sum(row["as_expected"] for row in rows)
    slowest = max(row["seconds"] for row in rows)
    print(
        f"\n{good} of {len(rows)} files: exit code 2 and the expected line; "
        f"{sum(row['tracebacks'] for row in rows)} tracebacks; slowest {slowest:.2f} s, start of Python included"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps([{key: row[key] for key in COLUMNS} for row in rows], indent=1) + "\n")
    return 0 if good == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
