"""A codec from outside: run as it is written, aligned, and every failure in one line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from khala.errors import ConfigError
from khala.evals.command_peer import CommandPeer

COPY = "import shutil, sys; shutil.copy(*sys.argv[1:])"
LATE = (
    "import sys, numpy, soundfile; wave, rate = soundfile.read(sys.argv[1], dtype='float32'); "
    "soundfile.write(sys.argv[2], numpy.concatenate([numpy.zeros((100, 2)), 0.5 * wave]), rate)"
)


def python(code: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def test_a_pair_of_commands_is_a_peer(tmp_path: Path) -> None:
    """A codec heard a hundred samples late would lose against anything."""
    peer = CommandPeer.parse(
        f"half: {python(COPY)} {{wav}} {{coded}} | {python(LATE)} {{coded}} {{decoded}}"
    )
    wave_CN = np.random.default_rng(0).normal(0, 0.1, (2, 44_100)).astype(np.float32)
    wave_CN[0, 5] = 1.5
    found = peer.run(wave_CN)
    assert peer.name == "half"
    assert found.delay_samples == 100
    np.testing.assert_allclose(found.wave_CN[:, :40_000], 0.5 * wave_CN[:, :40_000], atol=1e-3)
    assert found.wave_CN.shape == wave_CN.shape
    assert found.kbit_s == pytest.approx(2 * 16 * 44.1, rel=0.01)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lame {wav} {coded}", "NAME: ENCODE"),
        ("x: a {wav} {coded}", "NAME: ENCODE"),
        ("x: a {wav} | b {coded} {decoded}", "lacks {coded}"),
        ("x: a {wav} {coded} | b", "lacks {coded} and {decoded}"),
        ("x: a 'b {wav} {coded} | c {coded} {decoded}", "quotation"),
    ],
)
def test_what_is_not_a_pair_is_refused(text: str, message: str) -> None:
    """Half a peer must not be found out after an hour."""
    with pytest.raises(ConfigError, match=message):
        CommandPeer.parse(text)


def test_a_command_that_fails_is_named() -> None:
    """Silence instead of the peer's output would make us look good."""
    wave_CN = np.zeros((2, 4_410), np.float32)
    for encode, message in (
        ("no-such-codec {wav} {coded}", "cannot run 'no-such-codec'"),
        (f"{python('import sys; sys.exit(3)')} {{wav}} {{coded}}", "status 3"),
        (f"{python('pass')} {{wav}} {{coded}}", "no {coded} file"),
    ):
        peer = CommandPeer.parse(f"x: {encode} | {python(COPY)} {{coded}} {{decoded}}")
        with pytest.raises(ConfigError, match=message):
            peer.run(wave_CN)
