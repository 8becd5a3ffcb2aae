"""The model card of a network that is shipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_text
from .quantities import format_reading

if TYPE_CHECKING:
    from .evaluation import Bench
    from .frames import Row
    from .metrics import Reading
    from .verification import Verified

__all__ = ["write_card"]


def write_card(
    bench: Bench, row: Row, member: Verified, tests: Mapping[str, Reading], known: Mapping[str, Any]
) -> None:
    """Writes `card.md` beside the files of a front member."""
    readings = {**member.readings, **tests}
    table = [
        f"| {name} | {format_reading(name, reading, interval=True)} | {reading.source} |"
        for name, reading in readings.items()
    ]
    channels, height, width = known["input"]
    data = known["data"]
    seeds = ", ".join(f"{share:.4f}" for share in member.seeds.values())
    shipped = next(iter(bench.devices.values()))
    lines = [
        f"# {bench.spec.name}: {row.arch_id}",
        "",
        "| metric | value (90 % interval) | source |",
        "|---|---|---|",
        *table,
        "",
        f"`top1` is the mean over {len(member.seeds)} trainings with different seeds on the validation part ({seeds});",
        f"`top1_test` is `{shipped.file(Path('model.onnx'))}`, the best of them, run once on the test part.",
        *(
            f"Torch and `{device.file(Path('model.onnx'))}` on `{device.name}` ({device.precision}) differ by at most "
            f"{member.parity[device.name]:.1e} of the largest output."
            for device in bench.devices.values()
            if device.name in member.parity
        ),
        "",
        "## Input",
        "",
        f"One sample a call, float32, shape (1, {channels}, {height}, {width}) before any resize by the architecture,",
        f"each channel as (value - mean) / std with mean {data['mean']} and std {data['std']}.",
        "",
        "## Architecture",
        "",
        "```json",
        json.dumps(json.loads(row.arch), indent=1),
        "```",
        "",
        f"Data: {data['name']} (sha256 {data['digest'][:16]}…). Trial {row.number} of study `{bench.spec.name}`.",
    ]
    write_text(bench.artifacts(row.arch_id) / "card.md", "\n".join(lines) + "\n")
