"""Data sets: splits, layouts, statistics, and every way in which an .npz file can be wrong."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.search.data import Dataset, load_data, resize
from hwnas.search.study_schema import DataSpec
from hwnas.spaces.errors import DataError

DIGITS = DataSpec(use="digits")
NPZ = DataSpec(use="npz", path="set.npz")


def images(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


def labels(n: int, classes: int = 3) -> np.ndarray:
    return np.arange(n) % classes


def load(folder: Path, spec: DataSpec = NPZ, seed: int = 0, **arrays: Any) -> Dataset:
    np.savez(folder / "set.npz", **arrays)
    return load_data(spec, folder, seed)


def refused(folder: Path, **arrays: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, **arrays)
    assert caught.value.exit_code == 65
    line = str(caught.value)
    assert "\n" not in line and str(folder / "set.npz") in line
    return line


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    bunch, data = load_digits(), load_data(DIGITS, Path())
    x_test, y_test = data.open_test()
    x = torch.cat([data.x_train, data.x_val, x_test]) * data.std[0] + data.mean[0]
    y = torch.cat([data.y_train, data.y_val, y_test])
    found = sorted(map(tuple, torch.cat([x.round().flatten(1).long(), y[:, None]], dim=1).tolist()))
    assert found == sorted(map(tuple, np.c_[bunch.data.astype(int), bunch.target].tolist()))


def test_digits_are_split_by_class_and_standardised() -> None:
    data = load_data(DIGITS, Path())
    x_test, y_test = data.open_test()
    assert (data.name, data.num_classes, data.input_shape) == ("digits", 10, (1, 8, 8))
    assert (len(data.x_train), len(data.x_val), len(x_test)) == (1079, 359, 359)
    for x, y in ((data.x_train, data.y_train), (data.x_val, data.y_val), (x_test, y_test)):
        assert x.dtype == torch.float32 and x.is_contiguous() and x.shape[1:] == (1, 8, 8)
        assert y.dtype == torch.int64 and len(y) == len(x)
        shares = y.bincount() / len(y)
        assert shares.min() > 0.09 and shares.max() < 0.11
    assert abs(float(data.x_train.mean())) < 1e-5 and abs(float(data.x_train.std()) - 1) < 1e-3
    assert abs(float(data.x_val.mean())) > 1e-5, "the statistics are those of the train part alone"


def test_split_depends_on_the_seed_alone() -> None:
    first, again, other = (load_data(DIGITS, Path(), seed) for seed in (0, 0, 1))
    assert torch.equal(first.x_train, again.x_train) and torch.equal(first.open_test()[0], again.open_test()[0])
    assert not torch.equal(first.y_train, other.y_train)
    assert first.digest == again.digest == other.digest


def test_test_part_is_behind_one_door() -> None:
    data = load_data(DIGITS, Path())
    public = [name for name in vars(data) if not name.startswith("_")]
    assert not [name for name in public if "test" in name]
    assert "_test" not in repr(data)


def test_another_array_has_another_digest(tmp_path: Path) -> None:
    digest = load(tmp_path, x=images(30, 4, 4), y=labels(30)).digest
    assert load(tmp_path, x=images(30, 4, 4), y=labels(30)).digest == digest
    assert load(tmp_path, x=images(30, 4, 4, seed=1), y=labels(30)).digest != digest


# --- npz --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 6), (1, 8, 6)),
        ((8, 6, 3), (3, 8, 6)),
        ((3, 8, 6), (3, 8, 6)),
        ((8, 6, 1), (1, 8, 6)),
        ((1, 8, 6), (1, 8, 6)),
        ((16, 9, 7), (16, 9, 7)),
        ((4, 4, 3), (3, 4, 4)),
        ((1, 4, 4), (1, 4, 4)),
        ((3, 4, 4), (3, 4, 4)),
    ],
)
def test_layouts(shape: tuple[int, ...], expected: tuple[int, int, int], tmp_path: Path) -> None:
    data = load(tmp_path, x=images(30, *shape), y=labels(30))
    assert data.input_shape == expected == tuple(data.x_train.shape[1:])
    assert data.x_train.is_contiguous()


def test_layouts_agree(tmp_path: Path) -> None:
    x = images(30, 3, 8, 6)
    first = load(tmp_path, x=x, y=labels(30))
    last = load(tmp_path, x=x.transpose(0, 2, 3, 1), y=labels(30))
    assert torch.equal(first.x_train, last.x_train)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", ">f4", "int32"])
def test_types_agree(dtype: str, tmp_path: Path) -> None:
    x = images(30, 4, 4)
    expected = load(tmp_path, x=x, y=labels(30)).x_train
    found = load(tmp_path, x=x.astype(dtype), y=labels(30).astype("uint8")[:, None])
    torch.testing.assert_close(found.x_train, expected)
    assert found.x_train.dtype == torch.float32 and found.y_train.dtype == torch.int64


def test_own_parts_are_kept(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        f"{kind}_{part}": make
        for part in ("train", "val", "test")
        for kind, make in (("x", images(30, 4, 4, seed=len(part))), ("y", labels(30)))
    }
    np.savez(tmp_path / "set.npz", **parts)
    data = load_data(NPZ, tmp_path)
    x_test, _ = data.open_test()
    raw = (x_test * data.std[0] + data.mean[0]).round().to(torch.uint8).numpy()[:, 0]
    assert (raw == parts["x_test"]).all()
    assert len(data.x_train) == len(data.x_val) == 30


def test_missing_parts_are_cut_from_train(tmp_path: Path) -> None:
    data = load(
        tmp_path, x_train=images(100, 4, 4), y_train=labels(100, 2), x_test=images(7, 4, 4), y_test=labels(7, 2)
    )
    assert (len(data.x_train), len(data.x_val), len(data.open_test()[0])) == (80, 20, 7)


def test_channel_that_never_changes_becomes_zero(tmp_path: Path) -> None:
    x = images(30, 2, 8, 8)
    x[:, 1] = 7
    data = load(tmp_path, x=x, y=labels(30))
    assert bool((data.x_train[:, 1] == 0).all()) and bool(data.x_train[:, 0].std() > 0.9)


def test_path_is_relative_to_the_study(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    load(tmp_path / "sub", x=images(30, 4, 4), y=labels(30))
    assert load_data(DataSpec(use="npz", path="sub/set.npz"), tmp_path).name == "set.npz"


NAN = images(30, 4, 4).astype("float32")
NAN[3, 2, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": images(30, 4, 4)}, "array 'y' is missing"),
        ({"y": labels(30)}, "array 'x' is missing"),
        ({}, "array 'x_train' is missing"),
        ({"x_train": images(30, 4, 4), "y_train": labels(30), "x_val": images(9, 4, 4)}, "array 'y_val' is missing"),
        ({"x_val": images(9, 4, 4), "y_val": labels(9)}, "array 'x_train' is missing"),
        ({"x": images(30, 4, 4), "y": labels(30), "x_test": images(9, 4, 4), "y_test": labels(9)}, "found both"),
        ({"x": images(30, 4, 4), "labels": labels(30)}, "unknown array 'labels'"),
        ({"x_tarin": images(30, 4, 4), "y_train": labels(30)}, "did you mean 'x_train'?"),
        ({"x": images(30, 16), "y": labels(30)}, "x: expected shape (N, H, W)"),
        ({"x": images(0, 4, 4), "y": labels(0)}, "x: is empty"),
        (
            {"x": images(30, 4, 4).astype("complex64"), "y": labels(30)},
            "x: expected uint8 or float values, found complex64",
        ),
        ({"x": images(30, 4, 4).astype("U3"), "y": labels(30)}, "x: expected uint8 or float values, found <U3"),
        ({"x": NAN, "y": labels(30)}, "x: expected finite values, found nan at [3, 2, 1]"),
        ({"x": np.where(np.isnan(NAN), np.inf, NAN), "y": labels(30)}, "found inf at [3, 2, 1]"),
        ({"x": images(30, 4, 4) * 1e300, "y": labels(30)}, "x: expected values below 1e30"),
        ({"x": np.full((30, 4, 4), 5, "uint8"), "y": labels(30)}, "all values of the train part are 5"),
        ({"x": images(30, 4, 4), "y": labels(29)}, "y: expected 30 labels, as many as x has samples, found 29"),
        ({"x": images(30, 4, 4), "y": labels(30).astype("float32")}, "y: expected whole class numbers, found float32"),
        ({"x": images(30, 4, 4), "y": np.eye(3)[labels(30)]}, "y: expected one class number per sample, shape (30,)"),
        ({"x": images(30, 4, 4), "y": labels(30) - 1}, "y: expected classes from 0"),
        ({"x": images(30, 4, 4), "y": labels(30) + 10**9}, "y: expected classes from 0"),
        ({"x": images(30, 4, 4), "y": labels(30) + 1}, "y: expected classes 0 to 3, each with samples; 0 has none"),
        ({"x": images(30, 4, 4), "y": labels(30) * 2}, "1 has none"),
        ({"x": images(30, 4, 4), "y": np.zeros(30, "int64")}, "y: expected at least 2 classes, found 1"),
        ({"x": images(5, 4, 4), "y": labels(5, 2)}, "class 1 has 2 samples: at least 3 are needed"),
        (
            {"x_train": images(30, 4, 4), "y_train": labels(30), "x_val": images(9, 4, 5), "y_val": labels(9)},
            "x_val: expected images of shape (4, 4) as in x_train, found (4, 5)",
        ),
        (
            {"x_train": images(30, 4, 4), "y_train": labels(30), "x_test": images(9, 4, 4), "y_test": labels(9, 4)},
            "y_test: class 3 does not occur in y_train",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arrays(arrays: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    assert says in refused(tmp_path, **arrays)


class Canary:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    x = np.array([Canary(tmp_path / "canary")] * 3, dtype=object)
    assert "holds Python objects" in refused(tmp_path, x=x, y=labels(3))
    assert not (tmp_path / "canary").exists()


def _archive(folder: Path, members: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(folder / "set.npz", "w") as archive:
        for name, content in members:
            archive.writestr(name, content)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


X, Y = _npy(images(30, 4, 4)), _npy(labels(30))


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("x.npy", X[:-5]), ("y.npy", Y)], "x: broken: "),
        ([("x.npy", X + b"more"), ("y.npy", Y)], "x: broken: "),
        ([("x.npy", X.replace(b"(30, 4, 4)", b"(99999999999, 999, 999)")), ("y.npy", Y)], "x: "),
        ([("x.npy", b"hello"), ("y.npy", Y)], "x: not an array of numpy"),
        ([("x.npy", b""), ("y.npy", Y)], "x: not an array of numpy"),
        ([("x.npy", X.replace(b"'|u1'", b"'|V1'")), ("y.npy", Y)], "x: expected uint8 or float values"),
        ([("../../x.npy", X), ("y.npy", Y)], "unknown array '../../x'"),
        ([("x\n.npy", X), ("y.npy", Y)], "unknown array 'x\\n'"),
    ],
)
def test_broken_members(members: list[tuple[str, bytes]], says: str, tmp_path: Path) -> None:
    _archive(tmp_path, members)
    with pytest.raises(DataError) as caught:
        load_data(NPZ, tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_array_that_is_there_twice(tmp_path: Path) -> None:
    _archive(tmp_path, [("x.npy", X), ("y.npy", Y), ("x.npy", X)])
    with pytest.raises(DataError, match="'x' is there twice"):
        load_data(NPZ, tmp_path)


def test_declared_size_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.search.npz.MAX_BYTES", 100)
    assert "at most" in refused(tmp_path, x=images(30, 4, 4), y=labels(30))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.npz: no such file"):
        load_data(NPZ, tmp_path)
    (tmp_path / "set.npz").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"set\.npz: not an \.npz file, or broken"):
        load_data(NPZ, tmp_path)
    with pytest.raises(DataError, match="found a folder"):
        load_data(DataSpec(use="npz", path="."), tmp_path)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match=r"expected an \.npz file"):
        load_data(DataSpec(use="npz", path="pipe.npz"), tmp_path)


@given(st.integers(0, 10**6), st.sampled_from(["cut", "flip", "zero"]))
@settings(deadline=None, max_examples=120)
def test_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, place: int, kind: str) -> None:
    """A damaged file is refused, or (where the damage hits unused bytes of the archive) gives the same arrays."""
    folder = tmp_path_factory.mktemp("damage")
    digest = load(folder, x=images(30, 4, 4), y=labels(30)).digest
    raw = bytearray((folder / "set.npz").read_bytes())
    place %= len(raw)
    if kind == "cut":
        del raw[place:]
    else:
        raw[place] = raw[place] ^ 0xFF if kind == "flip" else 0
    (folder / "set.npz").write_bytes(raw)
    try:
        assert load_data(NPZ, folder).digest == digest
    except DataError as error:
        assert "\n" not in str(error)


@given(
    st.lists(st.integers(3, 40), min_size=2, max_size=5),
    st.floats(0.01, 0.45),
    st.floats(0.01, 0.45),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_split_properties(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], validation: float, test: float, seed: int
) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.arange(len(y), dtype="float32")[:, None, None] * np.ones((1, 2, 2), "float32")
    spec = DataSpec(use="npz", path="set.npz", validation=validation, test=test)
    data = load(tmp_path_factory.mktemp("split"), spec, seed, x=x, y=y)
    parts = [(data.x_train, data.y_train), (data.x_val, data.y_val), data.open_test()]
    found = torch.cat([part[:, 0, 0, 0] for part, _ in parts]) * data.std[0] + data.mean[0]
    assert sorted(found.round().int().tolist()) == list(range(len(y))), "each sample is in exactly one part"
    for part, found_y in parts:
        numbers = (part[:, 0, 0, 0] * data.std[0] + data.mean[0]).round().int().numpy()
        assert (y[numbers] == found_y.numpy()).all()
        assert set(found_y.tolist()) == set(range(len(counts))), "each class is in each part"


# --- resize -----------------------------------------------------------------------------------------------------------


def test_resize() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert resize(x, (8, 8)) is x
    for size in ((16, 12), (4, 4), (1, 1)):
        found = resize(x, size)
        assert found.shape == (2, 3, *size) and found.is_contiguous()
    assert torch.allclose(resize(torch.full((1, 1, 8, 8), 3.0), (5, 11)), torch.tensor(3.0))
