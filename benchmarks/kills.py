"""Does a study survive `kill -9`? It is run to its end, then again in another folder with its driver killed many times.

    python benchmarks/kills.py --kills 20 --seed 0

Two studies are tried: one whose readings repeat exactly, so that a sampler that learns must make the same trials, and
one with measured latency and random search. The driver alone is killed (SIGKILL), at random moments of its start, of
the search and of the verification; the same command then resumes. Nothing of it may be left running, and in the end
there must be the same trials as without a kill. Exit code 1 when that does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SPACE = {"use": "mobile", "params": {"width": [0.25, 0.5], "stage*.kernel": 3, "stage*.expand": [2, 3]}}
STUDIES: dict[str, dict[str, Any]] = {
    "tpe, top1 and macs": {
        "objectives": [{"metric": "top1"}, {"metric": "macs"}],
        "search": {"sampler": "tpe"},
    },
    "random, measured latency": {
        "objectives": [{"metric": "macs"}, {"metric": "latency_ms@cpu"}],
        "limits": ["latency_ms@cpu <= 100"],
        "search": {"sampler": "random"},
    },
}
PATIENCE_S = 300.0
"""Longest time a run may take to its next event."""


@dataclass
class Row:
    """What one study came to.

    Attributes:
        study: which.
        kills: drivers that were killed before they ended.
        trials: trials in the end, of `wanted`.
        lost: trials that are missing, or were told of in the log and are not ended in the database.
        doubled: architectures or numbers that were evaluated to their end twice.
        running: trials that are still running.
        identical: the trials are those of the study that was not killed.
        orphans: processes that outlived their driver by 5 s.
        seconds: all of it.
    """

    study: str
    kills: int
    trials: int
    wanted: int
    lost: int
    doubled: int
    running: int
    identical: bool
    orphans: int
    seconds: float

    @property
    def sound(self) -> bool:
        broken = self.lost or self.doubled or self.running or self.orphans
        return not broken and self.identical and self.trials == self.wanted


class Run:
    """One driver in a process of its own."""

    def __init__(self, study: Path, folder: Path, trials: int, seed: int, mark: str) -> None:
        self.folder = folder
        self._log = (folder.parent / f"{folder.name}.log").open("ab")
        command = [sys.executable, "-m", "hwnas", "run", str(study), f"search.trials={trials}", f"search.seed={seed}"]
        self.process = subprocess.Popen(
            [*command, "--out", str(folder)],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "HWNAS_KILLS": mark},
            start_new_session=True,
        )

    def wait_for(self, reached: Callable[[], bool]) -> bool:
        """Waits until something has happened; returns False when the run ended before."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if reached():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.01)
        self.kill()
        raise SystemExit(f"{self.folder}: nothing happened for {PATIENCE_S:.0f} s")

    def kill(self) -> bool:
        """Kills the driver, and nothing else; returns False when it had ended by itself."""
        alive = self.process.poll() is None
        self.process.send_signal(signal.SIGKILL)
        self.finish()
        return alive

    def finish(self) -> int:
        code = self.process.wait()
        self._log.close()
        return code


def events(folder: Path) -> list[dict[str, Any]]:
    """Reads the log of events; a torn last line is left out."""
    found = []
    with contextlib.suppress(OSError):
        for line in (folder / "events.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def count(folder: Path, kind: str) -> int:
    return sum(event["event"] == kind for event in events(folder))


def marked(mark: str) -> list[int]:
    """Returns the processes that descend from a run."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if f"HWNAS_KILLS={mark}".encode() in Path("/proc", entry, "environ").read_bytes():
                    found.append(int(entry))
    return found


def orphans(mark: str) -> int:
    """Returns how many descendants are left 5 s after the kill, or none as soon as there is none; ends them."""
    end = time.monotonic() + 5
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def trials_of(folder: Path) -> list[Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    [study] = storage.get_all_studies()
    return list(storage.get_all_trials(study._study_id))


def essence(trial: Any, exact: bool) -> tuple[Any, ...]:
    """What must be the same as without a kill; measured values never are."""
    fixed = (trial.number, trial.state, trial.user_attrs["arch_id"], trial.params)
    return (*fixed, trial.values) if exact else fixed


def torture(name: str, study: Path, folder: Path, options: argparse.Namespace, exact: bool) -> Row:
    """Runs a study once in peace and once under fire."""
    start, rng, mark = time.monotonic(), random.Random(f"{options.seed}/{name}"), uuid.uuid4().hex
    whole = Run(study, folder / "whole", options.trials, options.seed, mark)
    whole.wait_for(lambda: count(folder / "whole", "told") > 0)
    first_s = time.monotonic() - start
    if whole.finish() != 0:
        raise SystemExit(f"{name}: the run without a kill failed; see {folder / 'whole.log'}")
    target, left, kills = folder / "killed", 0, 0
    moments = phases(options.kills, rng)
    while kills < options.kills:
        phase = moments.pop(0) if moments else "start"  # of a study that has ended, should one end too early
        run = Run(study, target, options.trials, options.seed, mark)
        if phase == "start":
            time.sleep(rng.uniform(0.1, first_s))
        elif phase == "search":
            told = min(count(target, "told") + rng.randint(0, 1), options.trials - 1)
            run.wait_for(lambda told=told: count(target, "told") > told)  # type: ignore[misc]  # a default is bound now
            time.sleep(rng.uniform(0.0, 0.4))
        else:
            run.wait_for(lambda: count(target, "told") >= options.trials)
            time.sleep(rng.uniform(0.0, 1.5))
        kills += run.kill()
        left += orphans(mark)
        print(f"{name}: {kills} kills, {count(target, 'told')} trials told", file=sys.stderr)
    code = Run(study, target, options.trials, options.seed, mark).finish()
    if code != 0:
        print(f"{name}: the last resume ended with {code}; see {target}.log", file=sys.stderr)
    row = judge(name, folder, options.trials, exact)
    row.kills, row.orphans, row.seconds = kills, left + orphans(mark), round(time.monotonic() - start, 1)
    return row


def phases(kills: int, rng: random.Random) -> list[str]:
    """Returns the part of a run in which each kill falls: four in ten in its start, the last tenth in verification."""
    late = max(1, kills // 10) if kills > 2 else 0
    early = 2 * kills // 5
    mixed = ["start"] * early + ["search"] * (kills - early - late)
    rng.shuffle(mixed)
    return mixed + ["verify"] * late


def judge(name: str, folder: Path, wanted: int, exact: bool) -> Row:
    """Compares the study that was killed with the one that was not."""
    whole, killed = trials_of(folder / "whole"), trials_of(folder / "killed")
    ended = {trial.number for trial in killed if trial.state.is_finished()}
    told = Counter(event["number"] for event in events(folder / "killed") if event["event"] == "told")
    ids = Counter(trial.user_attrs["arch_id"] for trial in killed)
    return Row(
        study=name,
        kills=0,
        trials=len(killed),
        wanted=wanted,
        lost=len(set(range(wanted)) - ended) + len(set(told) - ended),
        doubled=sum(n - 1 for n in ids.values()) + sum(n - 1 for n in told.values()),
        running=sum(not trial.state.is_finished() for trial in killed),
        identical=[essence(t, exact) for t in whole] == [essence(t, exact) for t in killed],
        orphans=0,
        seconds=0.0,
    )


def write_study(folder: Path, sections: dict[str, Any]) -> Path:
    study: dict[str, Any] = {
        "version": 1,
        "name": "kills",
        "space": SPACE,
        "data": {"use": "digits"},
        "quality": {"rungs": [{"epochs": 1}], "seeds": 1},
        "devices": {"cpu": {"runtime": "onnxruntime"}},
        "verify": {"finalists": 2},
        **sections,
    }
    folder.mkdir(parents=True)
    path = folder / "study.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in study.items()))  # JSON is YAML
    return path


def print_table(rows: list[Row]) -> None:
    print(f"{'study':26}{'kills':>6}{'trials':>8}{'lost':>6}{'doubled':>9}{'running':>9}  identical  orphans      s")
    for row in rows:
        same = "yes" if row.identical else "NO"
        print(
            f"{row.study:26}{row.kills:6}{row.trials:5}/{row.wanted:<3}{row.lost:5}{row.doubled:9}{row.running:9}"
            f"  {same:9}{row.orphans:9}{row.seconds:8.1f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="drivers to kill, of each study [20]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of the studies [0]")
    parser.add_argument("--trials", type=int, default=30, help="trials of each study [30]")
    parser.add_argument("--study", type=Path, help="a study file of your own instead of the two")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="hwnas-kills-") as root:
        if options.study is not None:
            exact = "latency_ms" not in options.study.read_text()
            rows.append(torture(options.study.stem, options.study.resolve(), Path(root), options, exact))
        else:
            with ThreadPoolExecutor() as pool:  # side by side: a kill does not care how busy the machine is
                jobs = []
                for number, (name, sections) in enumerate(STUDIES.items()):
                    folder = Path(root) / str(number)
                    study = write_study(folder, sections)
                    jobs.append(pool.submit(torture, name, study, folder, options, "latency" not in name))
                rows += [job.result() for job in jobs]
    print_table(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0 if all(row.sound for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
