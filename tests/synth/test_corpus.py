"""Writing a corpus: whole songs, each once, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from khala.errors import ConfigError, CorpusError
from khala.processes import alone_in
from khala.synth import num_songs, write_corpus
from khala.synth.espeak import INSTALL_COMMAND
from khala.synth.mix import loudness_lufs, true_peak_dbtp
from khala.synth.phonemes import PHONEMES, SILENCE

HOURS = 0.006


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus with stems, written without interruption by one worker."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, hours=HOURS, seed=1, workers=1, stems=True, tiny=True)
    return folder


def test_a_corpus_is_laid_out_as_its_reader_expects(corpus: Path) -> None:
    """`khala prepare` finds songs by these names."""
    about = json.loads((corpus / "corpus.json").read_text())
    folders = sorted((corpus / "songs").iterdir())
    assert about["num_songs"] == len(folders) == num_songs(HOURS, 1, tiny=True)
    assert about["sample_rate_hz"] == 44100
    for folder in folders:
        assert {f.name for f in folder.iterdir()} == {
            "mix.flac", "vocals.flac", "band.flac", "song.json",
        }  # fmt: skip


def test_sound_and_truth_agree(corpus: Path) -> None:
    """Stereo at 44.1 kHz, as long as the truth says, at the promised level."""
    for folder in sorted((corpus / "songs").iterdir()):
        truth = json.loads((folder / "song.json").read_text())
        wave, rate = soundfile.read(folder / "mix.flac", dtype="float32", always_2d=True)
        band, _ = soundfile.read(folder / "band.flac", dtype="float32", always_2d=True)
        vocals, _ = soundfile.read(folder / "vocals.flac", dtype="float32", always_2d=True)
        assert rate == 44100
        assert wave.shape[1] == 2
        assert len(wave) / rate == pytest.approx(truth["duration_s"], abs=1e-4)
        assert loudness_lufs(wave.T) == pytest.approx(-14.0, abs=0.5)
        assert true_peak_dbtp(wave.T) <= -1.0
        np.testing.assert_allclose(vocals + band, wave, atol=2e-4)


def test_the_truth_is_complete_and_ordered(corpus: Path) -> None:
    """Evaluations read these fields; a word outside its song would be scored as a miss."""
    for path in sorted(corpus.glob("songs/*/song.json")):
        truth = json.loads(path.read_text())
        assert path.parent.name == truth["id"] == f"{truth['index']:06d}"
        assert truth["split"] in ("train", "test", "test_voice", "test_words")
        assert truth["tags"]
        assert truth["description"].endswith(".")
        assert truth["time_signature"] in ("3/4", "4/4")
        assert truth["key"].split()[1] in ("major", "minor")
        duration_s = truth["duration_s"]
        for kind in ("sections", "chords", "words", "phonemes"):
            starts = [item["start_s"] for item in truth[kind]]
            assert starts == sorted(starts)
            assert all(0 <= i["start_s"] < i["end_s"] <= duration_s + 0.5 for i in truth[kind])
        assert truth["beats"] == sorted(truth["beats"])
        assert truth["instrumental"] == (truth["voice"] is None) == (not truth["words"])
        assert {p["phoneme"] for p in truth["phonemes"]} <= set(PHONEMES) - {SILENCE}
        vocal_notes = [n for n in truth["notes"] if n["part"] == "vocals"]
        assert {n["word"] for n in vocal_notes} == set(range(len(truth["words"])))


def test_the_voice_sounds_when_the_truth_says_so(corpus: Path) -> None:
    """Alignments learnt from wrong times are worse than none."""
    for folder in sorted((corpus / "songs").iterdir()):
        truth = json.loads((folder / "song.json").read_text())
        if truth["instrumental"]:
            continue
        vocals, rate = soundfile.read(folder / "vocals.flac", dtype="float32")
        sung = np.zeros(len(vocals), dtype=bool)
        for word in truth["words"]:
            sung[int(word["start_s"] * rate) : int(word["end_s"] * rate)] = True
        assert np.sum(vocals[sung] ** 2) > 0.97 * np.sum(vocals**2)


def test_a_killed_run_goes_on_to_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    """Power cuts must cost at most the song in work: no broken songs, none twice, none missing."""
    code = (
        "from pathlib import Path; import sys; from khala.synth import write_corpus\n"
        f"write_corpus(Path(sys.argv[1]), hours={HOURS}, seed=1, workers=1, stems=True, tiny=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(tmp_path.glob("songs/*/song.json"))) >= 2:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # What a kill in the middle of a song leaves: sound without truth, half a temporary file.
    last = sorted(tmp_path.glob("songs/*/song.json"))[-1]
    last.unlink()
    (last.parent / ".mix.flac.99.tmp").write_bytes(b"half")
    write_corpus(tmp_path, hours=HOURS, seed=1, workers=1, stems=True, tiny=True)
    assert _digests(tmp_path) == _digests(corpus)


def test_two_workers_write_what_one_writes(corpus: Path, tmp_path: Path) -> None:
    """A song must not depend on which process made it, or after which other song."""
    steps: list[tuple[str, int, int]] = []
    write_corpus(
        tmp_path, hours=HOURS, seed=1, workers=2, stems=True, tiny=True,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert _digests(tmp_path) == _digests(corpus)
    total = num_songs(HOURS, 1, tiny=True)
    assert steps == [("songs", done, total) for done in range(total + 1)]


def test_more_hours_only_add_songs(corpus: Path, tmp_path: Path) -> None:
    """Growing a corpus must not throw away what was rendered."""
    write_corpus(tmp_path, hours=HOURS / 3, seed=1, workers=1, stems=True, tiny=True)
    before = _digests(tmp_path / "songs")
    whole = _digests(corpus / "songs")
    assert before
    assert before.items() <= whole.items()


def test_two_corpora_do_not_mix(corpus: Path) -> None:
    """Another seed in the same folder would put the same index there twice."""
    with pytest.raises(CorpusError, match="seed 1, not 2"):
        write_corpus(corpus, hours=HOURS, seed=2, workers=1, stems=True, tiny=True)


def test_missing_system_parts_are_named_before_anything_is_written(tmp_path: Path) -> None:
    """An hour of voices built, and then no band: say it in the first second, with the cure."""
    with pytest.raises(CorpusError) as caught:
        write_corpus(tmp_path / "out", hours=1.0, seed=1, soundfont=tmp_path / "none.sf2")
    assert INSTALL_COMMAND in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_damaged_corpus_file_is_named(tmp_path: Path) -> None:
    """The user must know which file to look at."""
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(CorpusError, match=r"corpus\.json"):
        write_corpus(tmp_path, hours=HOURS, seed=1, workers=1, tiny=True)


@pytest.mark.parametrize(
    ("hours", "seed", "workers"),
    [(0.0, 1, 1), (float("nan"), 1, 1), (1.0, -1, 1), (1.0, 1, 0), (1e9, 1, 1)],
)
def test_nonsense_is_refused_before_anything_is_written(
    tmp_path: Path, hours: float, seed: int, workers: int
) -> None:
    """A typing mistake must not fill a disk."""
    with pytest.raises(ConfigError):
        write_corpus(tmp_path / "out", hours=hours, seed=seed, workers=workers, tiny=True)
    assert not (tmp_path / "out").exists()


def test_two_writers_do_not_share_a_folder(tmp_path: Path) -> None:
    """Two runs at once would each write every song, or tear one another's."""
    pytest.importorskip("fcntl")
    write_corpus(tmp_path, hours=0.001, seed=1, workers=1, stems=False, tiny=True)
    with alone_in(tmp_path, lambda: None), pytest.raises(CorpusError, match="another process"):
        write_corpus(tmp_path, hours=0.002, seed=1, workers=1, stems=False, tiny=True)
    write_corpus(tmp_path, hours=0.002, seed=1, workers=1, stems=False, tiny=True)
