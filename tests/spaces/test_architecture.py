from __future__ import annotations

import dataclasses
import hashlib
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.spaces import Architecture, Value
from hwnas.spaces.errors import DataError, SpaceError

VALUES = st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
DECISIONS = st.dictionaries(st.text(), VALUES, max_size=6)


def make(decisions: dict[str, Value]) -> Architecture:
    return Architecture("s", tuple(decisions.items()))


@given(decisions=DECISIONS)
@settings(deadline=None)
def test_json_gives_it_back(decisions: dict[str, Value]) -> None:
    architecture = make(decisions)
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert list(map(type, again.as_dict().values())) == list(map(type, decisions.values()))
    assert again.decisions == architecture.decisions
    assert pickle.loads(pickle.dumps(architecture)) == architecture


@given(decisions=DECISIONS)
@settings(deadline=None)
def test_order_does_not_matter(decisions: dict[str, Value]) -> None:
    one, other = make(decisions), make(dict(reversed(decisions.items())))
    assert one == other and hash(one) == hash(other) and one.id == other.id


def test_kinds_of_number_are_distinct() -> None:
    kinds: list[Value] = [1, 1.0, True, "1"]
    assert len({make({"a": value}) for value in kinds}) == 4
    assert len({make({"a": value}).id for value in kinds}) == 4


def test_id_is_the_same_in_every_process() -> None:
    architecture = make({"b": 0.1, "a": "é"})
    text = rb'{"decisions":{"a":"\u00e9","b":0.1},"space":"s"}'
    assert architecture.id == hashlib.sha256(text).hexdigest()[:16] == "96f793ef21045d5a"
    code = "from hwnas.spaces import Architecture as A; print(A('s', (('a', 'é'), ('b', 0.1))).id)"
    for seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == architecture.id


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make({}).space = "t"  # type: ignore[misc]  # the point of the test
    plain = make({"a": 1})
    plain.as_dict()["a"] = 2
    assert plain.as_dict() == {"a": 1}


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), [1], (1,), b"a", 1j])
def test_only_plain_values(value: object) -> None:
    with pytest.raises(SpaceError, match="expected a plain"):
        Architecture("s", (("a", value),))  # type: ignore[arg-type]  # the point of the test


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(SpaceError, match="twice"):
        Architecture("s", (("a", 1), ("a", 2)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "1",
        '"a"',
        '{"space": "s"}',
        '{"space": 1, "decisions": {}}',
        '{"space": "s", "decisions": []}',
        '{"space": "s", "decisions": {}, "more": 1}',
        '{"space": "s", "decisions": {"a": null}}',
        '{"space": "s", "decisions": {"a": [1]}}',
        '{"space": "s", "decisions": {"a": NaN}}',
        '{"space": "s", "decisions": {"a": 1e999}}',
        '{"space": "s", "decisions": {"a": 1, "a": 2}}',
        '{"space": "s", "decisions": {"a": ' + "9" * 5000 + "}}",
        '{"space": "s", "decisions": ' + "[" * 100_000,
    ],
)
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="not an architecture") as caught:
        Architecture.from_json(text)
    assert "\n" not in str(caught.value)
