"""From a hub id to a song, against a hub on this computer."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import soundfile
from hub_server import Hub, Repository, serve
from published_folders import as_copied, as_published, llama_tokenizer

from khala import checkpoint, hub
from khala.backbone import Backbone
from khala.cli import main
from khala.convert import conversion, fetch
from khala.convert import download as downloading
from khala.convert.published import look
from khala.errors import Cancelled, CapacityError, CheckpointError, ConfigError, RequestError
from khala.infer import Khala
from khala.infer.events import Event, Notice, Progress
from khala.song import SongRequest

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

NAME = "liujiafeng/Khala-MusicGeneration-v1.0"
COPY = "Vinpolar/Khala-MusicGeneration-v1.0-MPS"
LLAMA = "meta-llama/Llama-3.1-8B"
FIRST, SECOND = "1" * 40, "2" * 40
SHARD = "backbone/iter_0036000/__0_0.distcp"
LIST = f"list {NAME}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub holds, read only."""
    root = tmp_path_factory.mktemp("hub")
    as_published(root / "first", few=True)
    (root / "first" / "tokenizer.json").unlink()
    (root / "first" / "modeling.py").write_text("raise SystemExit('this was run')\n")
    (root / "first" / "README.md").write_text("\n")
    shutil.copytree(root / "first", root / "second")
    as_copied(root / "copied")
    (root / "part").mkdir()
    shutil.copyfile(root / "copied" / "decoder_weights.pt", root / "part" / "decoder_weights.pt")
    (root / "llama").mkdir()
    llama_tokenizer(root / "llama" / "tokenizer.json")
    return root


@pytest.fixture
def server(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with both downloads, and caches of one's own."""
    repositories = {
        NAME: Repository({FIRST: folders / "first", SECOND: folders / "second"}, {"main": FIRST}),
        COPY: Repository({FIRST: folders / "copied"}, {"main": FIRST}),
        LLAMA: Repository({FIRST: folders / "llama"}, {"main": FIRST}),
        "some/part": Repository({FIRST: folders / "part"}, {"main": FIRST}),
        "some/thing": Repository({FIRST: folders / "llama"}, {"main": FIRST}),
    }
    with serve(repositories) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("KHALA_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield running


@pytest.fixture
def tokenizer(folders: Path) -> Path:
    return folders / "llama"


def kept(tmp_path: Path, commit: str = FIRST, name: str = NAME) -> Path:
    return tmp_path / "cache" / "hub" / name.replace("/", "--") / commit


def test_first_a_download_then_songs_without_a_network(
    server: Hub, tokenizer: Path, tmp_path: Path
) -> None:
    """The whole way of a user: one name, a song; and tomorrow the same without a network."""
    heard: list[Event] = []
    model = Khala.from_pretrained(NAME, tokenizer=tokenizer, on_event=heard.append)
    request = SongRequest(prompt="pop", instrumental=True, duration_s=5, levels=3, seed=1)
    song = model.generate(request)
    assert song.codes_QT.shape[0] == 3
    assert song.model == NAME
    notices = [event.message for event in heard if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "may not be used commercially (CC BY-NC 4.0)" in notices[0]
    stages = {event.stage for event in heard if isinstance(event, Progress)}
    ends = {event.stage: event for event in heard if isinstance(event, Progress)}
    assert all(event.done == event.total for event in ends.values())
    assert stages == {"download (MB)", "codec (MB)", "backbone (MB)", "superres (MB)"}
    sent = server.sent()
    assert len(set(sent)) == len(sent)
    assert {Path(name).suffix for name in sent} == {".distcp", ".pt", ".txt", ".ckpt", ""}

    report = json.loads((kept(tmp_path) / "model" / "conversion.json").read_text())
    assert (report["download"]["repo"], report["download"]["commit"]) == (NAME, FIRST)
    for name, said in report["download"]["files"].items():
        path = server.repositories[NAME].commits[FIRST] / name
        assert said == {"bytes": path.stat().st_size, "sha256": checkpoint.sha256_file(path)}
    assert set(report["download"]["files"]) == set(sent)

    server.asked.clear()
    shutil.rmtree(tmp_path / "hf")
    heard.clear()
    again = Khala.from_pretrained(NAME, on_event=heard.append)
    assert server.asked == []
    assert heard == []
    assert again.digests == model.digests
    path = tmp_path / "song.khala"
    song.save(path)
    assert type(song).load(path).waveform().shape[0] == 2, "its codec is found by the hub id"


def test_a_branch_that_moved_stays_where_it_was(
    server: Hub, tokenizer: Path, tmp_path: Path
) -> None:
    """A model that changes under its name would make other songs from the same seeds."""
    first = fetch.fetch_model(NAME, tokenizer=tokenizer)
    server.repositories[NAME].branches["main"] = SECOND
    assert fetch.fetch_model(NAME) == first == kept(tmp_path) / "model"
    second = fetch.fetch_model(NAME, revision=SECOND, tokenizer=tokenizer)
    assert second == kept(tmp_path, SECOND) / "model"
    asked = len(server.asked)
    assert fetch.fetch_model(NAME, revision=SECOND) == second
    assert fetch.fetch_model(NAME, revision=FIRST) == first
    assert len(server.asked) == asked


def test_pinned_before_the_download_ends(server: Hub, tokenizer: Path, tmp_path: Path) -> None:
    """Two halves of two versions would be a third one that nobody made."""

    def stop(_: str, done: int, __: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.fetch_model(NAME, tokenizer=tokenizer, on_progress=stop)
    server.repositories[NAME].branches["main"] = SECOND
    before = server.sent()
    assert fetch.fetch_model(NAME, tokenizer=tokenizer) == kept(tmp_path) / "model"
    assert sum(line.startswith(LIST) for line in server.asked) == 1
    assert len(server.sent()) - len(before) < len(set(server.sent())), "some were there already"


KILLED = """
import os, signal, sys
from khala.convert import fetch

def kill(label, done, total):
    if label.startswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

fetch.fetch_model(sys.argv[2], tokenizer=sys.argv[3], on_progress=kill)
"""


def test_killed_after_the_download_it_goes_on(server: Hub, tokenizer: Path, tmp_path: Path) -> None:
    """A power cut after an hour of downloading must not cost the hour."""
    words = [sys.executable, "-c", KILLED, "codec", NAME, str(tokenizer)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert not (kept(tmp_path) / "model").exists()
    assert hub.kept_model(NAME) is None
    server.asked.clear()
    assert fetch.fetch_model(NAME, tokenizer=tokenizer) == kept(tmp_path) / "model"
    assert server.asked == []
    assert {path.name for path in kept(tmp_path).iterdir()} == {"download.json", "model"}


@pytest.mark.parametrize("name", [SHARD, "backbone/latest_checkpointed_iteration.txt"])
def test_a_byte_that_is_wrong_on_the_way(
    server: Hub, tokenizer: Path, tmp_path: Path, name: str
) -> None:
    """A flipped bit in a weight is a song that is a little wrong, and nobody knows why."""
    server.on_get = lambda one, data: bytes([data[0] ^ 1]) + data[1:] if one == name else data
    with pytest.raises(CheckpointError, match=f"damaged download: {name} of {NAME} does not have"):
        fetch.fetch_model(NAME, tokenizer=tokenizer)
    assert hub.kept_model(NAME) is None
    assert not list((tmp_path / "hf").rglob(Path(name).name)), "it would be taken for the file"
    server.on_get = lambda _, data: data
    assert fetch.fetch_model(NAME, tokenizer=tokenizer).is_dir()


def test_a_file_that_ends_too_soon(
    server: Hub, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that is cut short is never taken for one."""
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
    server.on_get = lambda name, data: data[: len(data) // 2] if name == SHARD else data
    with pytest.raises(CheckpointError, match=f"cannot fetch {NAME}.*{SHARD}"):
        fetch.fetch_model(NAME, tokenizer=tokenizer)
    assert not list((tmp_path / "hf").rglob(Path(SHARD).name))
    assert hub.kept_model(NAME) is None


def test_something_that_answers_and_is_no_hub(
    server: Hub, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page on which a train asks for one's name is no list of files."""
    monkeypatch.setenv("HF_ENDPOINT", f"{server.address}/portal")
    with pytest.raises(CheckpointError, match=f"cannot fetch {NAME} from {server.address}/portal"):
        fetch.fetch_model(NAME, tokenizer=tokenizer)


@pytest.mark.usefixtures("server")
def test_a_file_damaged_in_the_cache(tokenizer: Path) -> None:
    """What was right when it came may not be right when it is used."""
    listing = fetch._pinned(NAME, None)
    folder = downloading.download(listing, fetch.WEIGHTS)
    with (folder / SHARD).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match=f"damaged download: {SHARD} .* has 100 bytes"):
        fetch.fetch_model(NAME, tokenizer=tokenizer)
    assert fetch.fetch_model(NAME, tokenizer=tokenizer).is_dir()


def test_no_network(
    server: Hub, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is offline reads what is missing, where it goes, and the commands for it."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError) as first:
        fetch.fetch_model(NAME, tokenizer=tokenizer)
    for part in (
        f"cannot fetch {NAME} from http://127.0.0.1:9 (",
        "backbone/, superresolution/ and a .ckpt file",
        f"`hf download {NAME} --local-dir DIR`",
        "`khala convert --from DIR --to MODEL --tokenizer TOKENIZER`",
    ):
        assert part in str(first.value)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    folder = downloading.download(fetch._pinned(NAME, None), fetch.WEIGHTS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (SHARD, "dac_rvq_2490000.ckpt"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError) as second:
        fetch.fetch_model(NAME, tokenizer=tokenizer)
    assert (
        f"(HF_HUB_OFFLINE is set); not on this computer: {SHARD}, dac_rvq_2490000.ckpt. Where"
        in str(second.value)
    )
    assert f"--revision {FIRST}" in str(second.value)
    assert not (kept(tmp_path) / "model").exists()


def test_a_whole_download_needs_no_network(
    server: Hub, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloaded yesterday, converted on the train."""
    downloading.download(fetch._pinned(NAME, None), fetch.WEIGHTS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server.asked.clear()
    assert fetch.fetch_model(NAME, tokenizer=tokenizer).is_dir()
    assert server.asked == []


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (NAME, "v9", f"{NAME} has no revision 'v9'"),
        (NAME, "3" * 40, f"{NAME} has no revision '3333"),
        ("no/body", None, "no model 'no/body': there is no such folder, and no repository"),
        ("some/thing", None, "has no published weights: expected backbone/"),
        ("some/part", None, "some/part is no whole model: no backbone, superres"),
    ],
)
@pytest.mark.usefixtures("server")
def test_names_that_are_not_there(
    tokenizer: Path, name: str, revision: str | None, message: str
) -> None:
    """Each is one line that names what was asked for, and leaves nothing to be found."""
    with pytest.raises(CheckpointError, match=message) as error:
        fetch.fetch_model(name, revision=revision, tokenizer=tokenizer)
    assert "\n" not in str(error.value)
    assert hub.kept_model(name, revision) is None


def test_a_hub_that_names_a_strange_commit(server: Hub, folders: Path, tokenizer: Path) -> None:
    """The commit becomes a folder's name: it must not lead out of the cache."""
    server.repositories[NAME] = Repository({"../../x": folders / "first"}, {"main": "../../x"})
    with pytest.raises(CheckpointError, match=r"names no commit but '\.\./\.\./x'"):
        fetch.fetch_model(NAME, tokenizer=tokenizer)


def test_weights_behind_terms(server: Hub) -> None:
    """The gate of the tokenizer's authors is said with the door's address."""
    server.repositories[LLAMA].gated = True
    with pytest.raises(CheckpointError, match=f"accept its terms: do that at .*{LLAMA}.*hf auth"):
        fetch.find_tokenizer(LLAMA)
    server.repositories[LLAMA].gated = False
    assert fetch.find_tokenizer(LLAMA).name == "tokenizer.json"


def test_tokenizers(server: Hub, tokenizer: Path, tmp_path: Path) -> None:
    """Without the right tokenizer the words of every song are wrong; it is said before 19 GB."""
    with pytest.raises(CheckpointError, match=r"no tokenizer comes with.*--tokenizer.*Llama"):
        fetch.fetch_model(NAME)
    nano = checkpoint.resolve_model("nano")
    for given, message in (
        (nano, "special tokens begin at"),
        (tmp_path, "no tokenizer '.*': give a folder with tokenizer.json"),
        ("no/body", "no repository"),
        (COPY, r"does not have tokenizer\.json"),
    ):
        with pytest.raises(CheckpointError, match=message):
            fetch.fetch_model(NAME, tokenizer=given)
    assert server.sent() == []
    model = fetch.fetch_model(NAME, tokenizer=LLAMA)
    assert (model / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()
    assert fetch.fetch_model(NAME, tokenizer=tokenizer / "tokenizer.json") == model
    other = tmp_path / "other.json"
    shutil.copyfile(tokenizer / "tokenizer.json", other)
    other.write_bytes(other.read_bytes().replace(b"<filler 300>", b"<changed300>"))
    with pytest.raises(CheckpointError, match="is there and differs from"):
        fetch.fetch_model(NAME, tokenizer=other)


def test_the_converted_copy_sings_and_cannot_encode(
    server: Hub, tokenizer: Path, tmp_path: Path
) -> None:
    """The smaller download makes the same songs; what its codec cannot do is said."""
    model = Khala.from_pretrained(COPY, tokenizer=tokenizer, on_event=lambda _: None)
    request = SongRequest(prompt="pop", instrumental=True, duration_s=5, levels=2, seed=1)
    assert model.decode(model.generate(request)).shape[0] == 2
    assert "decoder_config.yaml" not in server.sent()
    soundfile.write(tmp_path / "in.wav", np.zeros((44_100, 2)), 44_100)
    with pytest.raises(CheckpointError, match="this codec has no encoder"):
        model.encode(tmp_path / "in.wav")


def test_a_disk_without_room_is_known_before(
    server: Hub, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of download that ends at a full disk could have been said at the start."""
    usage = shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CapacityError, match=r"downloading .* GB are free \(HF_HUB_CACHE names"):
        fetch.fetch_model(NAME, tokenizer=tokenizer)
    assert server.sent() == []
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage._replace(free=10**12))
    monkeypatch.setattr(conversion, "SPARE_BYTES", 10**13)
    with pytest.raises(CapacityError, match=r"converting into .* \(KHALA_CACHE names another"):
        fetch.fetch_model(NAME, tokenizer=tokenizer)
    assert not (kept(tmp_path) / "model").exists()


def test_two_processes_at_once(server: Hub, tokenizer: Path) -> None:
    """Two songs begun at the same time both get the model, made once."""
    found: list[Path] = []
    notes: list[str] = []

    def get() -> None:
        found.append(fetch.fetch_model(NAME, tokenizer=tokenizer, on_note=notes.append))

    threads = [threading.Thread(target=get) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(set(server.sent())) == len(server.sent())
    assert any(note.startswith("waiting for another process") for note in notes)


def test_a_library_that_is_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said, not where the import failed."""
    monkeypatch.setattr(huggingface_hub, "__version__", "0.36.2")
    with pytest.raises(ConfigError, match=r"1\.2 or newer, and 0\.36\.2 .*'khala\[hub\]'"):
        downloading.ask(NAME, None, fetch.WEIGHTS)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'khala\[hub\]'"):
        downloading.ask(NAME, None, fetch.WEIGHTS)


def test_only_what_conversion_reads_is_wanted(folders: Path) -> None:
    """No program of a stranger is fetched, and nothing outside the folder is written."""
    for folder in ("first", "copied", "llama"):
        for path in (folders / folder).rglob("*"):
            name = path.relative_to(folders / folder).as_posix()
            unread = (".py", ".md", ".yaml")
            assert fetch.WEIGHTS.has(name) == (path.is_file() and path.suffix not in unread), name
    for name in ("../x.ckpt", "a/b.ckpt", "backbone/iter_1/../x.distcp", "backbone/iter_1/a/b.pt"):
        assert not fetch.WEIGHTS.has(name)


def test_where_models_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read when asked, so that a notebook may set it after the import."""
    monkeypatch.delenv("KHALA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / ".cache" / "khala"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert hub.cache_folder() == tmp_path / "shared" / "khala"
    monkeypatch.setenv("KHALA_CACHE", str(tmp_path / "own"))
    assert hub.cache_folder() == tmp_path / "own"


def test_what_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own is never looked for elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert hub.is_hub_id(NAME)
    for name in ("runs/mine", "nano", "a/b/c", "/a", "a/", "../b", "a/..", "./b", Path("a/b")):
        assert not hub.is_hub_id(name), name


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    out, error = capsys.readouterr()
    return status, out, error


def test_the_command_line(
    server: Hub, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the issue promises, typed: convert a hub id, and make a song from one."""
    out = tmp_path / "model"
    status, said, noted = run(
        capsys, "convert", "--from", NAME, "--revision", SECOND, "--tokenizer", LLAMA, "--to", out
    )
    assert status == 0, noted
    assert "a whole model; try khala generate" in said
    assert noted.count("CC BY-NC 4.0") == 1
    assert "download (MB): " in noted
    report = json.loads((out / "conversion.json").read_text())
    assert report["download"]["commit"] == SECOND

    words = ("generate", "--instrumental", "--duration", 5, "--levels", 2, "--seed", 1)
    words += ("--model", NAME, "--out", tmp_path / "song.wav")
    status, _, error = run(capsys, *words)
    assert (status, error.count("\n")) == (2, 1)
    assert "no tokenizer comes with these weights" in error
    status, _, error = run(capsys, *words, "--tokenizer", tokenizer)
    assert status == 0, error
    assert error.count("CC BY-NC 4.0") == 1
    server.asked.clear()
    status, _, error = run(capsys, "verify", tmp_path / "song.khala")
    assert status == 0, error
    assert run(capsys, "decode", tmp_path / "song.khala", tmp_path / "again.wav")[0] == 0
    assert server.asked == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "no/body"], "no model 'no/body': there is no such folder"),
        (["--from", NAME, "--revision", "v9"], "has no revision 'v9'"),
        (["--from", NAME, "--tokenizer", "nowhere"], "no tokenizer 'nowhere'"),
        (["--from", ".", "--revision", "v9"], "--revision is for a hub id, and --from '.' is none"),
    ],
)
@pytest.mark.usefixtures("server")
def test_mistakes_of_the_command_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, status 2, and nothing under the final name."""
    status, _, error = run(capsys, "convert", *words, "--to", tmp_path / "model")
    assert (status, error.count("\n")) == (2, 1)
    assert message in error
    assert not (tmp_path / "model").exists()


def test_other_ways_to_name_a_model(
    server: Hub, folders: Path, tokenizer: Path, tmp_path: Path
) -> None:
    """A folder is not asked of the hub; a raw download says what makes a model of it."""
    for raw in ("first", "copied"):
        with pytest.raises(CheckpointError, match=rf"{raw} is a download.*khala convert --from"):
            Khala.from_pretrained(folders / raw)
    with pytest.raises(RequestError, match="revision 'x' is for a hub id, and 'nano' is none"):
        Khala.from_pretrained("nano", revision="x")
    with pytest.raises(CheckpointError, match="khala convert --from` fetches a hub id"):
        Backbone.from_pretrained(NAME)
    out = tmp_path / "model"
    conversion.convert(look(folders / "copied"), out)
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, as its weights came"):
        Khala.from_pretrained(out)
    assert Khala.from_pretrained(out, tokenizer=tokenizer).tokenizer.first_control_id == 128_000
    assert server.asked == []


def test_stopping_a_download(server: Hub, tokenizer: Path) -> None:
    """Ctrl-C in an hour-long download ends it, and says that nothing is lost."""
    heard: list[Event] = []
    with pytest.raises(Cancelled, match="stopped while weights were fetched"):
        Khala.from_pretrained(
            NAME, tokenizer=tokenizer, on_event=heard.append, should_stop=lambda: len(heard) > 3
        )
    assert server.sent()
    assert hub.kept_model(NAME) is None


def test_the_bundled_model_needs_no_foreign_code() -> None:
    """A song of nano waits for no reader of other programs' checkpoints, nor for a hub."""
    code = (
        "import sys, khala\n"
        "khala.Khala.from_pretrained('nano')\n"
        "bad = {'khala.convert', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
