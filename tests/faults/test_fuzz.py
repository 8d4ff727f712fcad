"""Mutated files are refused with the documented error or read as what they say; no code runs."""

import functools
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import slim
from sweeps import cli
from sweeps.cli import read_values
from sweeps.errors import InputError
from tests.slim import damage
from tests.slim.architectures import uneven
from tests.slim.families import checkpoint, spec_of

KINDS = 9  # of files that are mutated
EXAMPLES = -(-int(os.environ.get("FUZZ", "90")) // KINDS)
YAML = b"""trials: 3
data: digits
space: {tokens_min: 0.5, uniform: [0.75, 0.5]}
search:
  epochs: 2
  penalty: {tokens: 0.1, mhsa: 0.2, mlp: 0.3}
"""
PAYLOADS = [
    b"!!python/object/apply:pathlib.Path.touch [pwned]",
    b"cposix\nsystem\n(S'touch pwned'\ntR.",
    b"&a [*a, *a]",
    b"\x80\x04\x95",
    b"[" * 5_000,
    b'{"a": 1e999}',
    b"NaN",
    b"-1",
    b"9" * 400,
    b"\xff\xfe\x00",
    b"",
]

# Where, as a share of the file; how many bytes go; what comes in their place.
Edit = tuple[float, int, bytes]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 64),
        st.one_of(st.sampled_from(PAYLOADS), st.binary(max_size=16)),
    ),
    min_size=1,
    max_size=3,
)
FUZZED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def mutated(content: bytes, edits: list[Edit]) -> bytes:
    for place, length, piece in edits:
        at = int(place * len(content))
        content = content[:at] + piece + content[at + length :]
    return content


def say(what: str, refused: int, longest: float) -> None:
    print(f"{what}: {EXAMPLES} mutations, {refused} refused, longest {longest:.2f} s")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes, bytes]]:
    """Name of the weights, weights and header of each kind of folder."""
    root = tmp_path_factory.mktemp("originals")
    searched = checkpoint("vit")
    slim.save(slim.extract(searched, uneven(spec_of("vit"))), root / "model")
    searched.save(root / "search")
    return {
        name: (
            damage.weights_of(root / name).name,
            damage.weights_of(root / name).read_bytes(),
            damage.header_of(root / name).read_bytes(),
        )
        for name in ("model", "search")
    }


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("part", ["weights", "header"])
@pytest.mark.parametrize("kind", ["model", "search"])
def test_a_mutated_folder_is_refused_or_read(
    kind: str, part: str, stamped: bool, originals: dict[str, tuple[str, bytes, bytes]]
) -> None:
    weights_name, weights, header = originals[kind]
    header_name = "config.json" if kind == "model" else "checkpoint.json"
    load = slim.load if kind == "model" else slim.MaskCheckpoint.load
    folder, seconds, refused = Path("given"), [0.0], [""]
    folder.mkdir()

    @FUZZED
    @given(EDITS)
    def fuzz(edits: list[Edit]) -> None:
        (folder / weights_name).write_bytes(
            mutated(weights, edits) if part == "weights" else weights
        )
        (folder / header_name).write_bytes(mutated(header, edits) if part == "header" else header)
        if stamped and part == "weights":
            damage.stamp(folder)
        began = time.monotonic()
        try:
            load(folder)
        except slim.FileFormatError as error:
            refused.append(str(error))
        seconds.append(time.monotonic() - began)

    fuzz()
    assert not any("\n" in line for line in refused)
    assert not Path("pwned").exists()
    say(f"{kind}, {part}", len(refused) - 1, max(seconds))


def test_a_mutated_configuration_is_refused_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "make_parser", functools.cache(cli.make_parser))
    path, seconds, refused = Path("given.yaml"), [0.0], [""]

    @FUZZED
    @given(EDITS)
    def fuzz(edits: list[Edit]) -> None:
        path.write_bytes(mutated(YAML, edits))
        began = time.monotonic()
        try:
            read_values(path)
        except InputError as error:
            refused.append(str(error))
        seconds.append(time.monotonic() - began)

    fuzz()
    assert not any("\n" in line for line in refused)
    assert not Path("pwned").exists()
    say("YAML", len(refused) - 1, max(seconds))
