"""Any codec as a peer, given as the two commands that encode and decode a file.

    --peer-commands "mp3: lame -b 64 {wav} {coded} | lame --decode {coded} {decoded}"

The commands are run as they are written, without a shell. ``{wav}`` is 44.1 kHz 16-bit stereo.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from khala.audio import read_audio, write_audio
from khala.errors import ConfigError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.outside import run_command, split_name
from khala.evals.peers import PeerResult, find_delay, shift

__all__ = ["CommandPeer"]

FORM = '"NAME: ENCODE {wav} {coded} | DECODE {coded} {decoded}"'
MAX_S = 600.0
"""A command that runs longer for one clip is stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandPeer:
    """A codec outside of Khala."""

    name: str
    """How it is called in the tables."""

    encode: tuple[str, ...]
    """Words of the command from {wav} to {coded}."""

    decode: tuple[str, ...]
    """Words of the command from {coded} to {decoded}, a file that we can read."""

    @classmethod
    def parse(cls, text: str) -> CommandPeer:
        """Read the pair of commands.

        Raises:
            ConfigError: it is not of the form above.
        """
        name, words = split_name(text, option="--peer-commands", form=FORM)
        if words.count("|") != 1:
            raise ConfigError(f"--peer-commands is {FORM}, not {text!r}")
        middle = words.index("|")
        encode, decode = words[:middle], words[middle + 1 :]
        for command, places in ((encode, ("{wav}", "{coded}")), (decode, ("{coded}", "{decoded}"))):
            missing = [place for place in places if not any(place in word for word in command)]
            if missing:
                raise ConfigError(
                    f"--peer-commands: {' '.join(command)!r} lacks {' and '.join(missing)}"
                )
        return cls(name=name, encode=encode, decode=decode)

    def run(self, wave_CN: Wave) -> PeerResult:
        """Return what the codec makes of a clip [2, N] at 44.1 kHz, aligned and as long as it.

        Raises:
            ConfigError: a command is missing, fails, takes too long, or leaves no file.
            AudioError: what it decoded cannot be read.
        """
        with tempfile.TemporaryDirectory(prefix="khala-peer-") as folder:
            places = {
                "{wav}": Path(folder) / "clip.wav",
                "{coded}": Path(folder) / "clip.coded",
                "{decoded}": Path(folder) / "decoded.wav",
            }
            peak = max(1.0, float(np.abs(wave_CN).max(initial=0.0)))
            write_audio(places["{wav}"], wave_CN / peak, sample_rate_hz=SAMPLE_RATE_HZ)
            self._call(self.encode, places, "{coded}")
            self._call(self.decode, places, "{decoded}")
            num_bytes = places["{coded}"].stat().st_size
            decoded_CN = peak * read_audio(places["{decoded}"], sample_rate_hz=SAMPLE_RATE_HZ)
        delay = find_delay(wave_CN, decoded_CN)
        return PeerResult(
            wave_CN=shift(decoded_CN, delay, num_samples=wave_CN.shape[1]),
            kbit_s=8 * num_bytes / 1000 / (wave_CN.shape[1] / SAMPLE_RATE_HZ),
            delay_samples=delay,
        )

    def _call(self, command: tuple[str, ...], places: dict[str, Path], makes: str) -> None:
        """Run one command; it must leave its file."""
        run_command(f"peer {self.name}", command, places, timeout_s=MAX_S)
        if not places[makes].is_file():
            raise ConfigError(f"peer {self.name}: {command[0]!r} left no {makes} file")
