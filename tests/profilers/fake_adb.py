"""A stand-in for `adb` with one phone: SERIAL1. What it does is in `$FAKE_ADB/mode`; what it was asked, in `calls`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

STATE = Path(os.environ["FAKE_ADB"])
ERRORS = {
    "offline": "error: device offline",
    "unauthorized": "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set",
    "closed": "error: closed",
}
PERF = "/data/local/tmp/onnxruntime_perf_test"
LITERT = "/data/local/tmp/benchmark_model"


def fail(text: str, status: int = 1) -> None:
    sys.stderr.write(text + "\n")
    sys.exit(status)


def mode() -> str:
    """The mode of this call; `a,b` is a for the first call and b from then on."""
    path = STATE / "mode"
    first, comma, rest = (path.read_text().strip() if path.exists() else "").partition(",")
    if comma:
        path.write_text(rest)
    return first


def there(path: str) -> Path:
    return STATE / "phone" / path.lstrip("/")


def perf_test(words: list[str], how: str) -> None:
    model, out = words[-2:]
    assert there(model).is_file() and model.endswith(".onnx")
    runs = int(words[words.index("-r") + 1])
    if how == "crash":
        fail("Segmentation fault", 139)
    if how == "usage":
        fail("perf_test [options...] model_path [result_file]", 255)
    value = {"nan": "nan", "negative": "-1", "text": "fast", "zero": "0", "huge": "1e999"}.get(how, "0.0015")
    lines = [f"{model},{value if how != '' else 0.0015 + run * 1e-6},1048576,90,{run}" for run in range(runs)]
    there(out).write_text("" if how == "silent" else "\n".join([*lines, ""]))


def benchmark_model(words: list[str], how: str) -> None:
    model = next(word for word in words if word.startswith("--graph=")).removeprefix("--graph=")
    assert there(model).is_file() and model.endswith(".tflite")
    if how == "crash":
        fail("Aborted", 134)
    print("INFO: Loaded model")
    print("INFO: count=5 first=2000 curr=1600 min=1500 max=2000 avg=1650 std=10 p5=1500 median=1600 p95=2000\n")
    if how == "old":
        print("count=50 first=1700 curr=1500 min=1400 max=1700 avg=1.5e+03 std=10\n")
    elif how != "silent":
        print("INFO: count=50 first=1700 curr=1500 min=1400 max=1700 avg=1550 std=10 p5=1400 median=1500 p95=1700\n")
    print("INFO: Inference timings in us: Init: 1000, First inference: 2000, Warmup (avg): 1650, Inference (avg): 1550")


def shell(words: list[str], how: str) -> None:
    if words[:3] == ["timeout", "-s", "9"]:
        assert int(words[3]) > 0
        words = words[4:]
        if how == "hang there":
            time.sleep(60)
    if words[0] == "echo":
        print(*words[1:])
    elif words[0] == "getprop":
        print({"ro.product.model": "Pixel 8", "ro.soc.model": "Tensor G3", "ro.build.version.release": "15"}[words[1]])
    elif words[0] == "ls":
        sys.exit(0 if words[1] in (PERF, LITERT) else 1)
    elif words[0] == "sha256sum":
        print("0123456789abcdef" * 4, words[1])
    elif words[0] == "mkdir":
        there(words[1]).mkdir(parents=True)
    elif words[0] == "cat":
        print(there(words[1]).read_text(), end="")
    elif words[:2] == ["rm", "-r"]:
        shutil.rmtree(there(words[2]))
    elif words[0] == "dumpsys":
        runs = (STATE / "calls").read_text().count('"timeout"')
        hot = (how == "hot before" and not runs) or (how == "hot after" and runs)
        print(f"IsStatusOverride: false\nThermal Status: {2 if hot else 1}")
    elif words[0] == PERF:
        perf_test(words, how)
    elif words[0] == LITERT:
        benchmark_model(words, how)
    else:
        fail(f"/system/bin/sh: {words[0]}: inaccessible or not found", 127)


def main() -> None:
    words = sys.argv[1:]
    (STATE / "pid").write_text(str(os.getpid()))
    with (STATE / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    how = mode()
    assert words[0] == "-s"
    if words[1] != "SERIAL1" or how == "gone":
        fail(f"error: device '{words[1]}' not found")
    if how in ERRORS:
        fail(ERRORS[how])
    if how == "hang":
        time.sleep(60)
    if how == "endless":
        while True:
            sys.stdout.write("y\n" * 10_000)
    if words[2] == "push":
        shutil.copyfile(words[3], there(words[4]))
    else:
        shell(words[3:], how)


main()
