"""Recordings that strangers upload: decoded behind walls, or refused in one line."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from khala.audio import read_audio
from khala.errors import AudioError, CapacityError, ConfigError, KhalaError, StageError
from khala.serve import uploads
from khala.serve.decoder import Verdict
from khala.serve.sandbox import ALLOWED_CALLS, filter_program
from khala.serve.uploads import DecodeLimits, decode_upload, sandbox_report

REPOSITORY = Path(__file__).parents[2]
WALLS = {"ends with the service", "resource limits", "no new privileges", "no network",
         "landlock", "seccomp"}  # fmt: skip


def sound(rate_hz: int, channels: int, *, duration_s: float = 0.3) -> Any:
    generator = np.random.default_rng(rate_hz)
    wave_NC = 0.2 * generator.standard_normal((int(duration_s * rate_hz), channels))
    return np.clip(wave_NC, -1.0, 1.0).astype(np.float32)


def write(path: Path, rate_hz: int, channels: int, container: str, subtype: str) -> Path:
    import soundfile

    soundfile.write(path, sound(rate_hz, channels), rate_hz, format=container, subtype=subtype)
    return path


def wav(content: bytes, *, claim: int | None = None, tag: int = 1, bits: int = 16) -> bytes:
    size = len(content) if claim is None else claim
    head = struct.pack("<IHHIIHH", 16, tag, 1, 8_000, 8_000 * bits // 8, bits // 8, bits)
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + head + b"data" + struct.pack("<I", size) + content


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good", 44_100, 2, "WAV", "PCM_16")


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts any program in the decoder's place."""

    def put(code: str) -> None:
        monkeypatch.setattr(uploads, "DECODER", ("-I", "-c", code))

    return put


# -------------------------------------------------------------------------------------- good files


@pytest.mark.parametrize(
    ("container", "subtype", "rate_hz", "channels"),
    [
        ("WAV", "PCM_16", 44_100, 2),
        ("WAV", "PCM_U8", 8_000, 1),
        ("WAV", "DOUBLE", 384_000, 2),
        ("WAVEX", "PCM_24", 48_000, 2),
        ("FLAC", "PCM_24", 96_000, 1),
        ("FLAC", "PCM_16", 44_100, 2),
        ("MP3", "MPEG_LAYER_III", 44_100, 2),
        ("MP3", "MPEG_LAYER_III", 22_050, 1),
        ("OGG", "VORBIS", 44_100, 2),
        ("OGG", "VORBIS", 8_000, 1),
        ("OGG", "OPUS", 48_000, 2),
    ],
)
def test_an_upload_sounds_as_if_it_were_read_here(
    container: str, subtype: str, rate_hz: int, channels: int, tmp_path: Path, workdir: Path
) -> None:
    """A recording sent to the service becomes other sound than the same file on the command line:
    a cover or a continuation would differ for no reason. Samples are equal bit for bit."""
    path = write(tmp_path / "upload", rate_hz, channels, container, subtype)
    wave_CN = decode_upload(path, workdir=workdir)
    assert wave_CN.dtype == np.float32
    assert np.array_equal(wave_CN, read_audio(path))
    assert list(workdir.iterdir()) == []


def test_a_long_recording_is_read_whole(tmp_path: Path, workdir: Path) -> None:
    """What comes in several blocks would click, or miss a piece, where blocks meet."""
    import soundfile

    path = tmp_path / "upload"
    soundfile.write(path, sound(48_000, 2, duration_s=8.0), 48_000, format="FLAC")
    assert np.array_equal(decode_upload(path, workdir=workdir), read_audio(path))


def test_a_tag_before_mp3_is_no_obstacle(tmp_path: Path, workdir: Path) -> None:
    """Nearly every MP3 in the world begins with its title."""
    path = write(tmp_path / "upload", 44_100, 2, "MP3", "MPEG_LAYER_III")
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + path.read_bytes())
    assert np.array_equal(decode_upload(path, workdir=workdir), read_audio(path))


def test_this_process_never_loads_a_decoder(good: Path, workdir: Path) -> None:
    """A bug in a codec would be a bug in the service, with its keys and its files."""
    code = (
        "import sys; from pathlib import Path; from khala.serve.uploads import decode_upload\n"
        "decode_upload(Path(sys.argv[1]), workdir=Path(sys.argv[2]))\n"
        "bad = {'soundfile', 'soxr', 'torch', 'av'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code, good, workdir], check=True)


def test_a_decoder_starts_lightly() -> None:
    """Every upload would wait for libraries that it does not need."""
    code = (
        "import sys, khala.serve.decoder, soundfile, soxr\n"
        "bad = {'torch', 'scipy', 'pyloudnorm', 'numba', 'rich', 'starlette'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


# ------------------------------------------------------------------------------------ refused files


def disguises() -> dict[str, bytes]:
    """What must not reach the decoder, however it is dressed."""
    adpcm = wav(bytes(64), tag=0x11, bits=4)
    plain_inside = b"JUNK" + struct.pack("<I", 12) + b"fmt \x10\0\0\0\x01\0\x01\0"
    guid = struct.pack("<HHI", 16, 0, 0) + bytes.fromhex("0200000000001000800000aa00389b71")
    long_name = struct.pack("<IHHIIHHH", 40, 0xFFFE, 1, 8_000, 16_000, 2, 16, 22) + guid
    return {
        "nothing": b"",
        "one byte": b"\xff",
        "concat": b"concat:/etc/passwd|http://127.0.0.1/a.wav",
        "HLS": b"#EXTM3U\n#EXTINF:10.0,\nfile:///etc/passwd\n",
        "AIFF": b"FORM\x00\x00\x00\x40AIFFCOMM" + bytes(64),
        "AIFF behind a tag": b"ID3\x04\x00\x00\x00\x00\x00\x00FORM\x00\x00\x00\x40AIFF",
        "RF64": b"RF64" + wav(bytes(64))[4:],
        "ADPCM": adpcm,
        "ADPCM behind a plain format": adpcm[:12] + plain_inside + adpcm[12:],
        "ADPCM by its long name": b"RIFF\xff\xff\xff\xffWAVEfmt " + long_name + bytes(64),
        "WAV behind a tag": b"ID3\x04\x00\x00\x00\x00\x00\x00" + wav(bytes(64)),
        "RIFF in RIFF": b"RIFF\xff\xff\xff\xffWAVE" * 1_000,
        "LIST without end": b"RIFF\xff\xff\xff\xffWAVE" + b"LIST\x04\x00\x00\x00INFO" * 1_000,
        "tags without end": b"ID3\x04\x00\x00\x00\x00\x00\x00" * 1_000,
        "ADTS": b"\xff\xf1\x50\x80" + bytes(64),
    }


@pytest.mark.parametrize("name", disguises())
def test_other_containers_start_nothing(
    name: str, tmp_path: Path, workdir: Path, decoder: Any
) -> None:
    """Rare containers and encodings are where decoders have their holes; text would make others
    fetch what it names. A name that ends in .wav opens no door."""
    decoder("raise SystemExit('it was started')")
    path = tmp_path / "song.wav"
    path.write_bytes(disguises()[name])
    with pytest.raises(AudioError, match="allowed: WAV, FLAC, MP3, Ogg") as info:
        decode_upload(path, workdir=workdir)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (wav(b""), "holds no sound"),
        (wav(struct.pack("<2f", 0.0, np.nan), tag=3, bits=32), "not finite"),
        (wav(struct.pack("<2f", 0.0, np.inf), tag=3, bits=32), "not finite"),
        (wav(np.full(800, 3e38, "<f4").tobytes(), tag=3, bits=32), "not finite"),
        (wav(bytes(64), bits=64), "damaged"),
        (b"OggS" + bytes(100), "damaged"),
        (b"fLaC" + bytes(100), "damaged"),
        (b"\xff\xfb\x90\x64" * 100, "damaged"),
    ],
    ids=["empty", "NaN", "infinite", "huge", "64 bits", "Ogg", "FLAC", "MP3"],
)
def test_damaged_files_are_refused_in_one_line(
    content: bytes, words: str, tmp_path: Path, workdir: Path
) -> None:
    """A user must learn what is wrong with a recording, and never hear noise at full level."""
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=words) as info:
        decode_upload(path, workdir=workdir)
    assert "\n" not in str(info.value)
    assert str(tmp_path) not in str(info.value)
    assert list(workdir.iterdir()) == []


def test_layouts_that_no_song_has(tmp_path: Path, workdir: Path) -> None:
    """Surround sound folded in silence, or a rate that is a mistake, would sound wrong."""
    path = write(tmp_path / "upload", 44_100, 3, "WAV", "PCM_16")
    with pytest.raises(AudioError, match="1 or 2"):
        decode_upload(path, workdir=workdir)
    path = write(tmp_path / "upload", 2_000, 1, "WAV", "PCM_16")
    with pytest.raises(AudioError, match="4 to 384 kHz"):
        decode_upload(path, workdir=workdir)


def test_a_header_that_claims_gigabytes(tmp_path: Path, workdir: Path) -> None:
    """A file of some bytes would fill the memory; what is there is read, or nothing."""
    path = tmp_path / "upload"
    path.write_bytes(wav(bytes(16_000), claim=2**32 - 1))
    assert decode_upload(path, workdir=workdir).shape == (2, 44_100)
    path.write_bytes(wav(bytes(16_000)))
    with pytest.raises(AudioError, match=r"longer than 0\.5 s"):
        decode_upload(path, workdir=workdir, limits=DecodeLimits(max_duration_s=0.5))


def test_a_file_cut_short(tmp_path: Path, workdir: Path) -> None:
    """An upload that broke off must not stop anybody: it is refused, or is what arrived."""
    path = write(tmp_path / "upload", 44_100, 2, "FLAC", "PCM_16")
    whole = path.read_bytes()
    for size in (4, 41, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with suppress(AudioError):
            assert decode_upload(path, workdir=workdir).shape[1] <= 0.3 * 44_100


def test_only_plain_files_of_allowed_size(good: Path, tmp_path: Path, workdir: Path) -> None:
    """A link would let a stranger read another file; a pipe would hold a thread for ever."""
    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "work", "missing"):
        with pytest.raises(AudioError, match="uploaded file"):
            decode_upload(tmp_path / name, workdir=workdir)
    with pytest.raises(AudioError, match="bytes; allowed: 100"):
        decode_upload(good, workdir=workdir, limits=DecodeLimits(max_bytes=100))
    with pytest.raises(ConfigError, match="cpu_s"):
        DecodeLimits(cpu_s=0)


def test_a_machine_at_its_end_says_later(
    good: Path, tmp_path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or too many processes are no fault of the file: a user who is told that it is
    damaged would throw it away."""
    with pytest.raises(CapacityError, match="cannot be decoded now: no such file"):
        decode_upload(good, workdir=tmp_path / "missing")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(CapacityError, match="cannot be decoded now: no such file"):
        decode_upload(good, workdir=workdir)
    assert list(workdir.iterdir()) == []


# ------------------------------------------------------------------------------- a hostile decoder


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("import os; os.write(2, b'{}'); os.kill(os.getpid(), 11)", AudioError, "gave up"),
        ("import os; os.write(2, b'{}'); os.abort()", AudioError, "gave up"),
        ("import os; os.write(2, b'{}'); os._exit(1)", AudioError, "gave up"),
        ("import os; os.write(2, b'{}'); os._exit(200)", AudioError, "gave up"),
        ("import os; os.write(2, b'{}')", AudioError, "gave up"),
        ("import os; os.write(1, bytes(7))", AudioError, "gave up"),
        ("import os; os.write(1, bytes.fromhex('0000c07f') * 2)", AudioError, "gave up"),
        ("import os; os.ftruncate(1, 2**40)", AudioError, "gave up"),
        (f"import os; os._exit({Verdict.MEMORY})", CapacityError, "1024 MiB"),
        (f"import os; os._exit({Verdict.DISK})", CapacityError, "disk"),
        ("import os; os.kill(os.getpid(), 9)", CapacityError, "memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", CapacityError, "too long"),
        ("import no_such_module", StageError, "no_such_module"),
    ],
)
def test_whatever_becomes_of_the_decoder_is_one_error(
    code: str, error: type[KhalaError], words: str, good: Path, workdir: Path, decoder: Any
) -> None:
    """A codec that was taken over can say and write anything: nobody may hear or read it."""
    decoder(code)
    with pytest.raises(error, match=words):
        decode_upload(good, workdir=workdir)
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(60)",
        "import os\nwhile True: os.write(2, bytes(4096))",
        "import os, time; os.close(2) if os.fork() else time.sleep(60); time.sleep(60)",
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)",
    ],
)
def test_time_is_up_for_all_of_them(code: str, good: Path, workdir: Path, decoder: Any) -> None:
    """One upload that hangs would hold its place for ever, and then the next one's."""
    decoder(code)
    begun = time.monotonic()
    with pytest.raises(CapacityError, match=r"too long to decode; allowed: 20 s .* 0\.5 s"):
        decode_upload(good, workdir=workdir, limits=DecodeLimits(wall_s=0.5))
    assert time.monotonic() - begun < 10
    assert list(workdir.iterdir()) == []


def test_children_of_a_decoder_end_with_it(good: Path, workdir: Path, decoder: Any) -> None:
    """What a decoder starts where the kernel lets it would live on and read the next uploads."""
    decoder(
        "import os, time\n"
        "child = os.fork()\n"
        "if not child: os.close(2); time.sleep(60)\n"
        "os.write(1, bytes(8 * child)); os._exit(0)"
    )
    wave_CN = decode_upload(good, workdir=workdir)  # as many samples as the number of the child
    for _ in range(200):
        state = Path(f"/proc/{wave_CN.shape[1]}/stat")
        if not state.exists() or ") Z " in state.read_text():
            break
        time.sleep(0.02)
    else:
        raise AssertionError("it lives")


def test_nothing_stays_open(good: Path, tmp_path: Path, workdir: Path, decoder: Any) -> None:
    """A service that loses a handle with every upload stops after a thousand."""
    bad = tmp_path / "bad"
    bad.write_bytes(b"fLaC" + bytes(100))
    decode_upload(good, workdir=workdir)
    before = sorted(os.listdir("/dev/fd"))  # noqa: PTH208 (a folder that is its own reading)
    for _ in range(10):
        decode_upload(good, workdir=workdir)
        with pytest.raises(AudioError):
            decode_upload(bad, workdir=workdir)
    decoder("import time; time.sleep(60)")
    with pytest.raises(CapacityError):
        decode_upload(good, workdir=workdir, limits=DecodeLimits(wall_s=0.2))
    assert sorted(os.listdir("/dev/fd")) == before  # noqa: PTH208
    assert list(workdir.iterdir()) == []


# ------------------------------------------------------------------------------------------- walls

BEHIND = """
import ctypes, errno, json, mmap, os, signal, socket, sys
import numpy as np
import khala.serve.sandbox as sandbox
library = ctypes.CDLL(None, use_errno=True)

def mapped():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)

def traced():
    if library.ptrace(0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")

def connected():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))

tries = {
    "connect": connected,
    "socket": lambda: socket.socket(),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os.fork() or os._exit(0),
    "read": lambda: open("/etc/passwd").read(),
    "write": lambda: open(sys.argv[1], "w"),
    "remove": lambda: os.unlink(sys.argv[2]),
    "list": lambda: os.listdir("/"),
    "signal": lambda: os.kill(os.getppid(), 0),
    "code": mapped,
    "trace": traced,
}
WALL
found = {}
for name, attempt in tries.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
os.write(1, json.dumps([walls, found]).encode())
os._exit(0)
"""
LIMITS = "memory_bytes=1 << 30, cpu_s=5, file_bytes=1 << 20"
DENIED = {
    "confine": {"connect", "socket", "unix", "exec", "fork", "read", "write", "remove", "list",
                "signal", "code", "trace"},
    "_filtered": {"connect", "socket", "unix", "exec", "fork", "read", "write", "remove", "list",
                  "signal", "code", "trace"},
    "_landlocked": {"read", "write", "remove", "list"},
    "_asked": {"connect"},
}  # fmt: skip


def behind(setup: str, *arguments: Path) -> Any:
    """Try everything behind walls; give the walls, and what became of each try."""
    code = BEHIND.replace("WALL", setup)
    words = [sys.executable, "-I", "-c", code, *arguments]
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(words, check=True, capture_output=True, env=environment)
    return json.loads(done.stdout)


@pytest.mark.parametrize("wall", DENIED)
def test_each_wall_alone_denies_what_it_is_for(wall: str, tmp_path: Path) -> None:
    """A decoder that was taken over would reach the network, start programs or change files. Each
    wall is tried by itself: one that another hides could be a hole for years."""
    kept = tmp_path / "kept"
    kept.write_bytes(b"x")
    nnp = "sandbox._asked('prctl', 38, 1, 0, 0, 0); "
    setup = {
        "confine": f"walls = sandbox.confine({LIMITS})",
        "_filtered": nnp + "walls = {'seccomp': sandbox._filtered()}",
        "_landlocked": nnp + "walls = {'landlock': sandbox._landlocked()}",
        "_asked": "walls = {'no network': sandbox._asked('unshare', 0x50000000)}",
    }[wall]
    if wall not in ("confine", "_filtered"):  # done, these would end the tries
        setup += "\nfor name in ('exec', 'fork'): del tries[name]"
    if wall == "_asked":
        setup += "\ndel tries['remove']"
    walls, found = behind(setup, tmp_path / "new", kept)
    assert all(
        state == "on" or state.startswith(("off: ", "on, without")) for state in walls.values()
    )
    if all(state == "on" for state in walls.values()):
        denied = {name for name, outcome in found.items() if outcome != "done"}
        assert denied >= DENIED[wall], found  # newer kernels deny more
        assert {found[name] for name in denied} <= {"EPERM", "EACCES", "ENETUNREACH"}
    if "read" in DENIED[wall] and "on" in walls.values():
        assert not (tmp_path / "new").exists()
        assert kept.exists()


def test_limits_hold(tmp_path: Path) -> None:
    """One upload that allocates or computes without end would take the machine from all others."""
    setup = (
        f"walls = sandbox.confine({LIMITS.replace('cpu_s=5', 'cpu_s=1')})\n"
        "tries = {}\n"
        "try: np.ones(2 << 30, np.uint8)\n"
        "except MemoryError: os.write(1, b'no memory ')\n"
        "try: os.write(int(sys.argv[1]), bytes(2 << 20)) == 1 << 20 or os._exit(3)\n"
        "except OSError: pass\n"
        "try: os.write(int(sys.argv[1]), bytes(1))\n"
        "except OSError as error: os.write(1, errno.errorcode[error.errno].encode())\n"
        "while True: pass"
    )
    with (tmp_path / "out").open("wb") as file:
        words = [sys.executable, "-I", "-c", BEHIND.replace("WALL", setup), str(file.fileno())]
        done = subprocess.run(words, stdout=subprocess.PIPE, pass_fds=[file.fileno()])
    assert done.stdout == b"no memory EFBIG"
    assert done.returncode == -signal.SIGXCPU
    assert (tmp_path / "out").stat().st_size == 1 << 20


def test_a_system_without_walls_keeps_its_limits(tmp_path: Path) -> None:
    """On a Mac or an old kernel uploads must still be bounded, and the report must say what is
    missing, not that all is well."""
    setup = f"sys.platform = 'plan9'\nwalls = sandbox.confine({LIMITS})\ntries = {{}}"
    walls, _ = behind(setup, tmp_path / "new", tmp_path / "kept")
    assert walls.pop("resource limits") == "on"
    assert set(walls.values()) == {"off: plan9 has no such thing"}


def test_the_report_tells_every_wall(tmp_path: Path) -> None:
    """An operator who trusts walls that do not stand exposes more than they know."""
    report = sandbox_report(tmp_path)
    assert report.pop("decoder") == "on"
    assert report.keys() == WALLS
    assert report["resource limits"] == "on"
    assert list(tmp_path.iterdir()) == []


def test_a_report_where_nothing_runs(tmp_path: Path, decoder: Any) -> None:
    """`khala doctor` must say that uploads fail here, and why, before a user finds out."""
    decoder("raise ImportError('no soundfile')")
    report = sandbox_report(tmp_path)
    assert report == {"decoder": "off: the decoder does not start: ImportError: no soundfile"}


def test_a_decoder_ends_with_the_service() -> None:
    """A service that is killed would leave decoders behind, and after some restarts no memory."""
    child = (
        "import sys, time; from khala.serve.sandbox import die_with\n"
        "print(die_with(int(sys.argv[1])), flush=True); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys, time\n"
        "words = [sys.executable, '-I', '-c', sys.argv[1], str(os.getpid())]\n"
        "one = subprocess.Popen(words, stdout=subprocess.PIPE)\n"
        "print(one.stdout.readline().decode().strip(), one.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-I", "-c", parent, child], stdout=-1) as process:
        assert process.stdout is not None
        state, number = process.stdout.readline().decode().rsplit(maxsplit=1)
        process.kill()
    for _ in range(200):
        stat = Path(f"/proc/{number}/stat")
        if state != "on" or not stat.exists() or ") Z " in stat.read_text():
            break
        time.sleep(0.02)
    else:
        raise AssertionError("it lives")
    if state == "on":  # and if the parent went before it was asked
        words = [sys.executable, "-I", "-c", child, "1"]
        gone = subprocess.run(words, stdout=subprocess.DEVNULL, timeout=30)
        assert gone.returncode == 1


def verdict(program: bytes, audit: int, number: int, third: int = 0) -> int:
    """Run a filter as the kernel does: a slow interpreter of the few steps that it uses."""
    words = struct.pack("<IIQ6Q", number, audit, 0, 0, 0, third, 0, 0, 0)
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at, value = 0, 0
    while True:
        code, jump_true, jump_false, k = steps[at]
        at += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            value = struct.unpack_from("<I", words, k)[0]
        else:
            is_true = {0x15: value == k, 0x45: bool(value & k)}[code]
            at += jump_true if is_true else jump_false


@pytest.mark.parametrize(
    ("machine", "column", "audit", "named"),
    [
        ("x86_64", 0, 0xC000003E, {"execve": 59, "socket": 41, "open": 2, "openat": 257,
                                   "clone": 56, "fork": 57, "ptrace": 101, "clone3": 435}),
        ("aarch64", 1, 0xC00000B7, {"execve": 221, "socket": 198, "openat": 56, "clone": 220,
                                    "ptrace": 117, "clone3": 435, "kill": 129}),
    ],
)  # fmt: skip
def test_the_filter_lets_through_what_it_names(
    machine: str, column: int, audit: int, named: dict[str, int]
) -> None:
    """On a processor that no test runs on, the wall would stand open, or no file be decoded."""
    program = filter_program(machine)
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    allowed = {numbers[column] for numbers in ALLOWED_CALLS.values()}
    assert len(allowed) == len(ALLOWED_CALLS)
    for number in [*range(600), *(0x40000000 | one for one in range(600)), 2**32 - 1]:
        assert verdict(program, audit, number) == (allow if number in allowed else refuse), number
    for name, number in named.items():
        assert verdict(program, audit, number) == refuse, name
    for name in ("mmap", "mprotect"):
        number = ALLOWED_CALLS[name][column]
        assert [verdict(program, audit, number, third) for third in (1, 3, 4, 7)] == (
            [allow, allow, refuse, refuse]
        )
    assert verdict(program, 0x40000003, ALLOWED_CALLS["read"][column]) == kill  # 32 bits


# --------------------------------------------------------------------------------------- many files


def test_uploads_side_by_side(good: Path, tmp_path: Path, workdir: Path) -> None:
    """Two users who upload at once would hear each other's recording, or one would wait in vain."""
    mono = write(tmp_path / "mono", 22_050, 1, "OGG", "VORBIS")
    bad = tmp_path / "bad"
    bad.write_bytes(b"OggS" + bytes(100))
    found: dict[int, Any] = {}

    def run(number: int, path: Path) -> None:
        try:
            found[number] = decode_upload(path, workdir=workdir)
        except AudioError as error:
            found[number] = error

    paths = [good, mono, bad] * 2
    threads = [threading.Thread(target=run, args=one) for one in enumerate(paths)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {good: read_audio(good), mono: read_audio(mono)}
    for number, path in enumerate(paths):
        if path == bad:
            assert isinstance(found[number], AudioError)
        else:
            assert np.array_equal(found[number], wanted[path])


@pytest.mark.parametrize(
    ("script", "options", "result"),
    [
        ("fuzz_audio.py", ["--cases", "32", "--bombs", "10"], "fuzz-audio.json"),
        ("fuzz_songs.py", ["--cases", "300"], "fuzz-songs.json"),
    ],
)
def test_some_hostile_files_do_no_harm(
    script: str, options: list[str], result: str, tmp_path: Path
) -> None:
    """One file among thousands that stops the service is enough: the benchmark tries thousands,
    this a few, so that the command and what it asserts stay true."""
    words = [sys.executable, REPOSITORY / "benchmarks" / script, *options, "--out", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / result).read_text())
    outcomes = [document] if "outcomes" in document else list(document["kinds"].values())
    assert all(one["outcomes"]["harm"] == 0 for one in outcomes)
