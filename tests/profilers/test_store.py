"""What is kept is found again, by nobody else, whatever happens to the file."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.profilers import Energy, Graph, Measurement, MeasurementStore, Profiler, Stored, digest_of

DEVICE = {"cpu": "one", "threads": 1, "protocol": 2}


def measured(value: float, **conditions: object) -> Measurement:
    return Measurement(((value,) * 3,) * 20, conditions=conditions, fingerprint=DEVICE, process=7, warmup=3)


class Counting(Profiler):
    deadline_s = 1.0

    def __init__(self) -> None:
        self.calls, self.old = 0, False

    def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
        self.calls += 1
        return measured(float(self.calls), **({"others": 1.0} if path.name == "noisy" else {}))

    def graph(self, path: Path) -> Graph:
        return Graph((), (), "counting")

    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        return path, x

    def fingerprint(self) -> dict[str, Any]:
        return DEVICE

    def outdated(self, measurement: Measurement) -> bool:
        return self.old


@pytest.fixture
def store(tmp_path: Path) -> MeasurementStore:
    return MeasurementStore(tmp_path / "cache" / "measurements.db")


def test_every_sample_is_found_again(store: MeasurementStore) -> None:
    assert store.find("a", DEVICE) is None
    store.add("a", DEVICE, measured(1.5))
    assert store.find("a", DEVICE) == measured(1.5)
    assert MeasurementStore(store.path).find("a", dict(reversed(DEVICE.items()))) == measured(1.5)


@pytest.mark.parametrize(("model", "device"), [("b", DEVICE), ("a", {**DEVICE, "threads": 2}), ("a", {})])
def test_nothing_is_found_for_another(store: MeasurementStore, model: str, device: dict[str, Any]) -> None:
    store.add("a", DEVICE, measured(1.5))
    assert store.find(model, device) is None


def test_the_last_that_is_not_noisy_counts(store: MeasurementStore) -> None:
    for value in (1.0, 2.0):
        store.add("a", DEVICE, measured(value))
    store.add("a", DEVICE, measured(3.0, slowdown=2.0))
    found = store.find("a", DEVICE)
    assert found is not None and found.latency_ms == 2.0


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_does_not_change_which_is_last(
    store: MeasurementStore, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    store.add("a", DEVICE, measured(1.0))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump_s)
    store.add("a", DEVICE, measured(2.0))
    found = store.find("a", DEVICE)
    assert found is not None and found.latency_ms == 2.0


def test_a_profiler_with_a_store(store: MeasurementStore, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"same")
    (tmp_path / "copy").write_bytes(b"same")
    (tmp_path / "noisy").write_bytes(b"other")
    inner = Counting()
    profiler = Stored(inner, store)
    assert [profiler.measure(tmp_path / name).latency_ms for name in ("model", "copy", "model")] == [1, 1, 1]
    assert (inner.calls, profiler.reused) == (1, 2)
    for _ in range(2):
        profiler.measure(tmp_path / "noisy")
    assert inner.calls == 3, "a noisy measurement is taken again"
    assert profiler.measure_again(tmp_path / "model").latency_ms == 4
    assert profiler.measure(tmp_path / "model").latency_ms == 4, "and kept"
    inner.old = True
    assert profiler.measure(tmp_path / "model").latency_ms == 5, "the machine was slow then"


@pytest.mark.parametrize(("kept", "again"), [(None, True), ("missing", True), ("measured", False)])
def test_where_energy_is_asked_for_it_has_to_be_there(
    store: MeasurementStore, tmp_path: Path, kept: str | None, again: bool
) -> None:
    (tmp_path / "model").write_bytes(b"same")
    value: dict[str, dict[str, Any]] = {
        "measured": {"energy_mj": 1.0, "low_mj": 0.9, "high_mj": 1.1},
        "missing": {"reason": "silent"},
    }
    told = None if kept is None else Energy.from_json({"source": kept, "meter": "rapl", **value[kept]})
    store.add(digest_of(tmp_path / "model"), DEVICE, replace(measured(9.0), energy=told))
    inner = Counting()
    inner.tells_energy = True
    assert (Stored(inner, store).measure(tmp_path / "model").latency_ms == 1.0) == again
    inner.tells_energy = False
    plain = Stored(inner, store).measure(tmp_path / "model")
    assert isinstance(plain, Measurement) and plain.energy is None, "which nobody asked for"


def test_a_file_of_a_later_version_is_left_alone(store: MeasurementStore) -> None:
    store.add("a", DEVICE, measured(1.0))
    opened = sqlite3.connect(store.path)
    opened.execute("PRAGMA user_version = 2")
    opened.close()
    store.add("a", DEVICE, measured(2.0))
    assert store.find("a", DEVICE) is None and store.damaged == 0
    opened = sqlite3.connect(store.path)
    assert opened.execute("SELECT COUNT(*) FROM measurements").fetchone() == (1,)
    opened.close()


@pytest.mark.parametrize("damage", ["body", "header", "cut", "empty", "text", "sum"])
def test_damage_is_ignored_counted_and_measured_again(store: MeasurementStore, damage: str) -> None:
    for name in ("a", "b"):
        store.add(name, DEVICE, measured(1.5))
    data = store.path.read_bytes()
    if damage in ("body", "sum"):
        column, value = ("body", b"rubbish") if damage == "body" else ("check_sum", "x")
        opened = sqlite3.connect(store.path)
        opened.execute(f"UPDATE measurements SET {column} = ? WHERE model = 'a'", (value,))
        opened.commit()
        opened.close()
    else:
        for extra in ("-wal", "-shm"):
            store.path.with_name(store.path.name + extra).unlink(missing_ok=True)
        spoiled = {"header": b"garbage" + data[7:], "cut": data[:5000], "empty": b"", "text": b"no database" * 99}
        store.path.write_bytes(spoiled[damage])
    again = MeasurementStore(store.path)
    assert again.find("a", DEVICE) is None
    assert again.damaged == (damage != "empty")
    again.add("a", DEVICE, measured(2.5))
    found = MeasurementStore(store.path).find("a", DEVICE)
    assert found is not None and found.latency_ms == 2.5
    assert damage not in ("body", "sum") or again.find("b", DEVICE) == measured(1.5)


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = MeasurementStore(tmp_path / "file" / "measurements.db")
    store.add("a", DEVICE, measured(1.0))
    assert store.find("a", DEVICE) is None


def _write(path: Path, who: int, count: int) -> None:
    store = MeasurementStore(path)
    for number in range(count):
        store.add(f"{who}-{number}", DEVICE, measured(1.0 + number))


def test_several_processes_write_at_once(store: MeasurementStore) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(store.path, who, 20)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = [store.find(f"{who}-{number}", DEVICE) for who in range(3) for number in range(20)]
    assert all(found) and store.damaged == 0


def test_a_killed_writer_leaves_a_sound_file(store: MeasurementStore) -> None:
    store.add("a", DEVICE, measured(1.0))
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(store.path, 0, 100_000))
    writer.start()
    while store.find("0-3", DEVICE) is None:
        assert writer.is_alive()
    writer.kill()
    writer.join()
    assert store.find("a", DEVICE) and store.find("0-0", DEVICE) and store.damaged == 0
    store.add("b", DEVICE, measured(2.0))
    assert store.find("b", DEVICE)
