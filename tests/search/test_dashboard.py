"""optuna-dashboard on a real study, driven through its HTTP interface."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwnas.search.run_data import RunData
from hwnas.search.storage import open_readable

pytest.importorskip("optuna_dashboard")

Get = Callable[[str], Any]


@pytest.fixture(scope="module")
def get(finished: Path) -> Get:
    """Sends a GET to the dashboard of the finished run, in this process; returns the decoded JSON."""
    from optuna_dashboard import wsgi

    app = wsgi(open_readable(finished / "study.db"))

    def call(path: str) -> Any:
        told: list[str] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        body = b"".join(app(environ, lambda status, headers, error=None: told.append(status)))
        assert told[0].startswith("200"), told
        return json.loads(body)

    return call


def test_the_study_is_listed(get: Get) -> None:
    [study] = get("/api/studies")["study_summaries"]
    assert study["study_name"] == "tiny"
    assert study["directions"] == ["maximize", "minimize"]


def test_best_trials_are_the_front_and_infeasible_ones_are_not_among_them(get: Get, finished: Path) -> None:
    [study] = get("/api/studies")["study_summaries"]
    detail = get(f"/api/studies/{study['study_id']}")
    rows = {row.number: row for row in RunData.load(finished).rows}
    trials = {trial["number"]: trial for trial in detail["trials"]}
    best = {trial["number"] for trial in detail["best_trials"]}
    assert trials.keys() == rows.keys()
    assert best == {number for number, row in rows.items() if row.on_front}
    infeasible = {number for number, trial in trials.items() if any(value > 0 for value in trial["constraints"])}
    assert infeasible == {number for number, row in rows.items() if not row.feasible}
    assert infeasible and not infeasible & best, "the study of this test has both kinds"
    assert detail["objective_names"] == ["top1", "latency_ms@cpu"]


def test_reasons_and_architectures_can_be_read(get: Get) -> None:
    [study] = get("/api/studies")["study_summaries"]
    for trial in get(f"/api/studies/{study['study_id']}")["trials"]:
        attributes = {attribute["key"]: attribute["value"] for attribute in trial["user_attrs"]}
        assert "arch_id" in attributes
        assert (trial["state"] == "Complete") == ("reason" not in attributes)


def test_the_verb_serves_it_until_it_is_stopped(finished: Path) -> None:
    command = [sys.executable, "-m", "hwnas", "dashboard", str(finished), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), process.stderr
        with urllib.request.urlopen(f"{address}api/studies", timeout=30) as answer:
            assert json.load(answer)["study_summaries"][0]["study_name"] == "tiny"
        with urllib.request.urlopen(f"{address}dashboard/", timeout=30) as answer:
            assert b"<html" in answer.read().lower()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "Traceback" not in said
