"""Every sound file says that it was made by a model, and a reader that is not ours agrees."""

from __future__ import annotations

import dataclasses
import getpass
import http.server
import io
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
import soundfile
from credentials_by_hand import ByHand, Tagged, find_store, read_by_hand
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from khala import __version__
from khala.audio import encode_audio
from khala.errors import AudioError, KhalaError, RequestError, StageError
from khala.serve.provenance import EMBEDDED, Made, Signer, Verified, verify
from khala.song import Song, SongRequest

PARTS = {"codec": "c0" * 32, "backbone": "ba" * 32, "superres": "5e" * 32}
MADE = Made(
    song_id="0123456789abcdef" * 2,
    model="nano",
    digests=PARTS,
    made_at=datetime(2026, 8, 2, 12, 30, 15, tzinfo=UTC),
    levels=64,
    seed=2**63 - 1,
    title="Morning sun",
)
PURPOSE = ExtendedKeyUsageOID.EMAIL_PROTECTION
DOCUMENTS, CLAIMS = map(x509.ObjectIdentifier, ("1.3.6.1.5.5.7.3.36", "1.3.6.1.4.1.62558.2.1"))
each_ending = pytest.mark.parametrize("ending", EMBEDDED)


def sound(ending: str, *, seconds: float = 1.0, made: Made = MADE) -> bytes:
    """A file of a tone in noise, with its plain tags."""
    times = np.arange(round(44_100 * seconds)) / 44_100
    noise_CN = np.random.default_rng(0).uniform(-0.05, 0.05, (2, times.size))
    wave_CN = (0.4 * np.sin(2 * np.pi * 220 * times) + noise_CN).astype(np.float32)
    return encode_audio(f"a{ending}", wave_CN, sample_rate_hz=44_100, metadata=made.tags())


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a server made its key; not to be written to."""
    folder = tmp_path_factory.mktemp("server") / "keys"
    Signer.load_or_make(folder)
    return folder


@pytest.fixture(scope="module")
def signer(keys: Path) -> Signer:
    """A server that made its own key."""
    return Signer.load_or_make(keys)


@pytest.fixture(scope="module")
def files(signer: Signer) -> dict[str, bytes]:
    """A signed file of each format that holds its credentials."""
    return {ending: signer.sign(sound(ending), ending, MADE) for ending in EMBEDDED}


def text_of(store: bytes) -> str:
    """Everything in a manifest store that somebody could read."""
    return store.decode("latin-1") + store.decode("utf-16-le", "ignore")


# ------------------------------------------------------------------------------- what is signed


def held(found: ByHand, root: x509.Certificate) -> None:
    """Hold what the other reader found against what was meant, to the last field."""
    assert found.chain == [found.signer], "the root is left out, as C2PA recommends"
    found.signer.verify_directly_issued_by(root)
    agent = {"name": "Khala", "version": __version__}
    binding = found.assertions["c2pa.hash.data"]
    assert found.assertions == {
        "c2pa.actions.v2": {
            "actions": [
                {
                    "action": "c2pa.created",
                    "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/"
                    "trainedAlgorithmicMedia",
                    "softwareAgent": agent,
                    "when": Tagged(0, "2026-08-02T12:30:15Z"),
                }
            ]
        },
        "c2pa.ai-disclosure": {
            "modelType": "c2pa.types.model.pytorch",
            "modelName": "nano",
            "contentProfile": {"humanOversightLevel": "prompt_guided"},
        },
        "khala.song": {"id": MADE.song_id, "digests": PARTS, "levels": 64, "seed": 2**63 - 1},
        "c2pa.hash.data": binding,
    }
    assert set(found.claim) == {
        *("instanceID", "claim_generator_info", "signature", "created_assertions", "dc:title"),
        "alg",
    }
    assert found.claim["dc:title"] == "Morning sun"
    assert agent.items() <= found.claim["claim_generator_info"].items()


@each_ending
def test_another_reader_agrees(files: dict[str, bytes], keys: Path, ending: str) -> None:
    """A mark that only its maker's library can read marks nothing."""
    root = x509.load_pem_x509_certificate((keys / "root.pem").read_bytes())
    held(read_by_hand(files[ending], ending), root)


def test_another_reader_agrees_on_opus(signer: Signer, keys: Path) -> None:
    """The credentials of an Opus lie beside it, and are held to the same."""
    root = x509.load_pem_x509_certificate((keys / "root.pem").read_bytes())
    opus = sound(".opus")
    sidecar = signer.sidecar(opus, MADE)
    held(read_by_hand(opus, ".opus", sidecar=sidecar), root)
    other = sound(".opus", seconds=0.5)
    with pytest.raises(AssertionError, match="changed"):
        read_by_hand(other, ".opus", sidecar=sidecar)


@each_ending
def test_c2pa_reads_it_with_its_own_settings(files: dict[str, bytes], ending: str) -> None:
    """What other people's programs say of our files, before they know our certificate."""
    mime_type = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg"}[ending]
    with c2pa.Reader(mime_type, io.BytesIO(files[ending])) as reader:
        told = json.loads(reader.json())
    assert told["validation_state"] == "Valid"
    failures = told["validation_results"]["activeManifest"]["failure"]
    assert [one["code"] for one in failures] == ["signingCredential.untrusted"]


@each_ending
def test_verify(files: dict[str, bytes], signer: Signer, ending: str) -> None:
    """Who made a song is answered from the file alone."""
    found = verify(files[ending], ending)
    number = found.signer.rpartition(" ")[2]
    assert found == Verified(
        state="valid",
        source="trainedAlgorithmicMedia",
        generator=f"Khala {__version__}",
        model="nano",
        digests=PARTS,
        song_id=MADE.song_id,
        made_at="2026-08-02T12:30:15Z",
        signer=f"Khala (self-made certificate) / Khala server {number}",
    )
    assert found.is_ai_generated
    assert found.is_intact
    assert verify(files[ending], ending, anchors=signer.root).state == "trusted"


def test_recordings_are_not_called_generated(signer: Signer) -> None:
    """Somebody's own singing, sent through the codec, must not be called a machine's song."""
    song = Song.from_recording(np.zeros((2, 8), np.int16), model="nano", digests=PARTS)
    made = Made.of_song(song, song_id=MADE.song_id, made_at=MADE.made_at)
    found = verify(signer.sign(sound(".wav", made=made), ".wav", made), ".wav")
    assert found.source == "compositeWithTrainedAlgorithmicMedia"
    assert "AI-generated" not in str(made.tags())


def test_nobodys_words_are_in_it(signer: Signer) -> None:
    """A song that is passed on must not pass on what its owner wrote, or who and where they are."""
    song = Song(
        request=SongRequest(prompt="zydeco, bagpipes", lyrics="[Verse]\nMy secret Marguerite"),
        codes_QT=np.zeros((8, 4), np.int16),
        seed=7,
        model="/home/marguerite/models/my-nano",
        digests={**PARTS, "backbone.lora": "10" * 32 + "@0.8"},
        lyrics="[verse]\nmy secret marguerite",
    )
    made = Made.of_song(song, song_id=MADE.song_id, made_at=MADE.made_at)
    plain = sound(".flac", made=made)
    found = read_by_hand(signer.sign(plain, ".flac", made), ".flac")
    assert found.assertions["c2pa.ai-disclosure"]["modelName"] == "my-nano"
    signed = signer.sign(sound(".wav", made=made), ".wav", made)
    store, place = find_store(signed, ".wav")
    tags = str(made.tags())
    words = ["zydeco", "bagpipes", "secret", "Marguerite", "marguerite", "/home", "models/"]
    for word in [*words, platform.node(), getpass.getuser() + "@", str(Path.cwd())]:
        assert word not in text_of(store), word
        assert word not in tags, word
    assert signed[: place.start][8:] == sound(".wav", made=made)[8:], "nothing elsewhere either"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("song_id", "12", "32 hexadecimal digits"),
        ("title", "la " * 100, "at most 200"),
        ("title", "one\ntwo", "several lines"),
        ("title", "a\x00b", "U+0000"),
        ("model", "/", "at most 200"),
        ("digests", {"codec": "my secret Marguerite"}, "not the digest"),
        ("digests", {"My Codec": "00"}, "not the digest"),
        ("made_at", datetime(2026, 8, 2), "time zone"),
    ],
)
def test_what_no_song_can_be(field: str, value: Any, told: str) -> None:
    """A field that takes any text is where lyrics end up some day."""
    with pytest.raises(RequestError) as error:
        dataclasses.replace(MADE, **{field: value})
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_times_are_in_utc() -> None:
    """Two servers in two zones would tell two times for one moment."""
    tokyo = timezone(timedelta(hours=9))
    made = dataclasses.replace(MADE, made_at=datetime(2026, 8, 2, 21, 30, 15, 9, tzinfo=tokyo))
    assert made == MADE


# ------------------------------------------------------------------------------ what is changed


@each_ending
def test_every_changed_byte_is_noticed(files: dict[str, bytes], ending: str) -> None:
    """Sound exchanged under a valid signature would be signed by us in the eyes of everybody."""
    signed = files[ending]
    _, place = find_store(signed, ending)
    outside = [at for at in range(len(signed)) if at not in place]
    for at in [outside[0], outside[-1], *np.random.default_rng(1).choice(outside, 20)]:
        changed = bytearray(signed)
        changed[at] ^= 1
        assert not verify(bytes(changed), ending).is_intact, at
        with pytest.raises(Exception):  # noqa: B017, PT011 - by whatever it notices
            read_by_hand(bytes(changed), ending)
    middle = bytearray(signed)
    middle[outside[len(outside) // 2]] ^= 1
    found = verify(bytes(middle), ending)
    assert (found.state, found.is_ai_generated) == ("invalid", True)
    assert "assertion.dataHash.mismatch" in found.problems[0]


@each_ending
def test_a_changed_claim_is_noticed(files: dict[str, bytes], ending: str) -> None:
    """ "Human" written over "AI-generated" would be a forged certificate of handwork."""
    for word, other in [
        (b"trainedAlgorithmicMedia", b"digitalCaptureXXXXXXXXX"),
        (b"nano", b"nino"),
    ]:
        store, place = find_store(files[ending], ending)
        assert word in store
        changed = files[ending][place.start : place.stop].replace(word, other)
        forged = files[ending][: place.start] + changed + files[ending][place.stop :]
        assert verify(forged, ending).state == "invalid"
        with pytest.raises(AssertionError):
            read_by_hand(forged, ending)


@each_ending
def test_sound_and_tags_stay(files: dict[str, bytes], ending: str) -> None:
    """A signature that costs quality, or the title, would be switched off."""
    plain, signed = (
        soundfile.SoundFile(io.BytesIO(data)) for data in (sound(ending), files[ending])
    )
    assert np.array_equal(plain.read(), signed.read())
    for tag, value in MADE.tags().items():
        assert getattr(signed, tag) == value or tag == "date"
    assert signed.comment.startswith(f"AI-generated with Khala {__version__}, model nano (")
    assert signed.date.startswith("2026")


@pytest.mark.parametrize("seconds", [0.05, 1.0])
@each_ending
def test_size(signer: Signer, ending: str, seconds: float) -> None:
    """A sketch of some seconds must not weigh more for its label than for its sound."""
    plain = sound(ending, seconds=seconds)
    assert 2_500 < len(signer.sign(plain, ending, MADE)) - len(plain) < 4_096


@each_ending
def test_time(signer: Signer, ending: str) -> None:
    """Signing is on the way of every song; half a minute of sound has 50 ms."""
    plain = sound(ending, seconds=30.0)
    took_s = []
    for _ in range(20):
        start = time.perf_counter()
        signer.sign(plain, ending, MADE)
        took_s.append(time.perf_counter() - start)
        if took_s[-1] < 0.05:
            return
    pytest.fail(f"at best {min(took_s) * 1e3:.0f} ms")


@each_ending
def test_nothing_is_signed_twice(files: dict[str, bytes], signer: Signer, ending: str) -> None:
    """A second signature would silently take the place of the first, and of its time."""
    with pytest.raises(AudioError, match="it has credentials already"):
        signer.sign(files[ending], ending, MADE)
    changed = files[ending].replace(b"nano", b"nino")
    with pytest.raises(AudioError, match="cannot sign this"):
        signer.sign(changed, ending, MADE)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"ID3", b"fLaC", b"no sound at all" * 99])
@pytest.mark.parametrize("ending", [*EMBEDDED, ".opus"])
def test_what_is_no_sound(signer: Signer, ending: str, data: bytes) -> None:
    """A broken file must be an error of one line, and never a signed broken file."""
    embedded = ending in EMBEDDED
    with pytest.raises(KhalaError) as error:
        signer.sign(data, ending, MADE) if embedded else signer.sidecar(data, MADE)
    assert "\n" not in str(error.value)
    assert not verify(data, ending).is_intact


@each_ending
def test_cut_files(files: dict[str, bytes], ending: str) -> None:
    """Half a download is told from a whole one, and never crashes the one who looks."""
    for num_bytes in np.linspace(1, len(files[ending]) - 1, 25).astype(int):
        assert not verify(files[ending][:num_bytes], ending).is_intact


@each_ending
def test_what_editing_leaves(files: dict[str, bytes], ending: str) -> None:
    """What the label does not survive is told as it is: absent, or invalid, never still there."""
    samples_NC, rate_hz = soundfile.read(io.BytesIO(files[ending]), dtype="float32")
    for other in (*EMBEDDED, ".opus"):
        again = encode_audio(f"b{other}", samples_NC.T * 0.9, sample_rate_hz=rate_hz)
        assert verify(again, other) == Verified(state="absent")
    store, place = find_store(files[ending], ending)
    quieter = encode_audio(f"b{ending}", samples_NC.T * 0.5, sample_rate_hz=rate_hz)
    label = files[ending][place.start : place.stop]
    if ending == ".wav":
        moved = quieter[:4] + (len(quieter) - 8 + len(label)).to_bytes(4, "little")
        moved += quieter[8:] + label
    else:
        moved = files[ending][: place.stop] + quieter
    assert find_store(moved, ending)[0] == store
    assert verify(moved, ending).state == "invalid", "a label moved to another sound"


def test_opus_has_a_sidecar(signer: Signer) -> None:
    """Nobody may believe that an Opus marks itself: without its sidecar it says nothing."""
    opus = sound(".opus")
    with pytest.raises(AudioError, match=r"'\.opus': allowed are \.wav, \.flac, \.mp3; Opus has a"):
        signer.sign(opus, ".opus", MADE)
    sidecar = signer.sidecar(opus, MADE)
    assert len(sidecar) < 4_096
    assert verify(opus, ".opus").state == "absent"
    found = verify(opus, ".opus", sidecar=sidecar, anchors=signer.root)
    assert (found.state, found.song_id) == ("trusted", MADE.song_id)
    changed = opus[:-1] + bytes([opus[-1] ^ 1])
    assert verify(changed, ".opus", sidecar=sidecar).state == "invalid"
    assert verify(opus, ".opus", sidecar=sidecar[:-9]).state == "invalid"
    assert MADE.tags()["comment"] == soundfile.SoundFile(io.BytesIO(opus)).comment


def test_endings_without_credentials(signer: Signer) -> None:
    """A format that cannot be marked is refused, not let through."""
    with pytest.raises(AudioError, match=r"allowed are \.wav, \.flac, \.mp3, \.opus"):
        verify(b"", ".ogg")
    with pytest.raises(AudioError, match=r"allowed are \.wav, \.flac, \.mp3"):
        signer.sign(b"", ".m4a", MADE)
    assert verify(sound(".wav"), ".wav") == Verified(state="absent")


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The URL of credentials on a server, and which requests it got."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/song.c2pa", asked
    server.shutdown()
    thread.join()
    server.server_close()


@each_ending
def test_nobody_is_asked(signer: Signer, elsewhere: tuple[str, list[str]], ending: str) -> None:
    """A file that is looked at must not make the server call an address written in it."""
    url, asked = elsewhere
    mime_type = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg"}[ending]
    info = c2pa.C2paSignerInfo(
        alg=c2pa.C2paSigningAlg.ES256,
        sign_cert=signer.credential.chain.encode(),
        private_key=signer.credential.key.encode(),
        ta_url=None,
    )
    out = io.BytesIO()
    with c2pa.Signer.from_info(info) as stranger, c2pa.Builder(MADE.manifest(mime_type)) as builder:
        builder.set_no_embed()
        builder.set_remote_url(url)
        builder.sign(stranger, mime_type, io.BytesIO(sound(ending)), out)
    assert not verify(out.getvalue(), ending).is_intact
    with pytest.raises(AudioError):
        signer.sign(out.getvalue(), ending, MADE)
    assert asked == []


def test_many_threads(signer: Signer) -> None:
    """A server signs for several people at once."""
    plain = {ending: sound(ending, seconds=0.2) for ending in EMBEDDED}

    def one(number: int) -> Verified:
        ending = EMBEDDED[number % 3]
        made = dataclasses.replace(MADE, seed=number, song_id=f"{number:032x}")
        return verify(signer.sign(plain[ending], ending, made), ending)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(48)))
    assert [int(one.song_id, 16) for one in found] == list(range(48))
    assert {one.state for one in found} == {"valid"}


def test_importing_is_cheap() -> None:
    """A server that never signs needs neither library, and the command line starts at once."""
    code = (
        "import sys, khala.serve.provenance; "
        "print([name for name in ('c2pa', 'cryptography', 'torch', 'soundfile') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_certificate_that_expires_meanwhile(signer: Signer) -> None:
    """A server that runs for a year must stop, not sign what no reader accepts."""
    over = dataclasses.replace(signer.credential, ends_at=datetime.now(UTC) - timedelta(minutes=1))
    with pytest.raises(StageError, match="holds from") as error:
        Signer(credential=over).sign(sound(".wav"), ".wav", MADE)
    assert error.value.stage == "provenance"


def test_nothing_leaves_unverified(signer: Signer, tmp_path: Path) -> None:
    """A wrong signature must be an error here, not a surprise in somebody's player."""
    other = Signer.load_or_make(tmp_path).credential
    mixed = dataclasses.replace(signer.credential, key=other.key)
    for ending in EMBEDDED:
        with pytest.raises(StageError) as error:
            Signer(credential=mixed).sign(sound(ending), ending, MADE)
        assert error.value.stage == "provenance"
    with pytest.raises(StageError):
        Signer(credential=mixed).sidecar(sound(".opus"), MADE)
