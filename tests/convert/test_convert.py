"""`khala convert`, from a download to a model that loads."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from megatron_folders import TRUNK, plain_weights, save_folder, to_megatron
from published_folders import BACKBONE_ROWS, SUPERRES_ROWS, as_copied, as_published, lightning_codec

from khala import checkpoint
from khala.backbone import Backbone, BackboneConfig
from khala.cli import main
from khala.convert import conversion
from khala.convert.published import look
from khala.convert.safetensors_file import find_tensors
from khala.errors import CapacityError, CheckpointError
from khala.infer import Khala
from khala.processes import alone_in
from khala.song import SongRequest
from khala.superres import SuperResolution
from khala.tokens import published_layout

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Result(NamedTuple):
    status: int
    out: str
    error: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> Result:
        status = main(["convert", *map(str, words)])
        out, error = capsys.readouterr()
        return Result(status, out, error)

    return call


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return as_published(tmp_path_factory.mktemp("weights") / "published", cut=True)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return as_copied(tmp_path_factory.mktemp("weights") / "copied")


def linked(source: Path, to: Path) -> Path:
    """A download of one's own, to damage it: links to the files, folders of one's own."""
    shutil.copytree(source, to, copy_function=lambda a, b: Path(b).symlink_to(Path(a).resolve()))
    return to


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_the_published_layout_becomes_a_model_that_sings(
    run: Run, published: Path, tmp_path: Path
) -> None:
    """The whole way of a user: a download, one command, a song."""
    out = tmp_path / "model"
    result = run("--from", published, "--to", out)
    assert result.status == 0, result.error
    assert "a whole model" in result.out
    assert names_in(out) == {
        *("codec", "backbone", "superres", "tokenizer.json", "conversion.json", "manifest.json")
    }
    backbone, superres = Backbone.from_pretrained(out), SuperResolution.from_pretrained(out)
    for seed, (model, rows) in enumerate(((backbone, BACKBONE_ROWS), (superres, SUPERRES_ROWS))):
        config = model.config
        assert (config.trunk, config.num_rows) == (TRUNK, rows)
        assert config.layout == published_layout()
        for name, wanted in plain_weights(rows, seed=seed).items():
            assert torch.equal(model.state_dict()[name], wanted.float()), name
    assert (backbone.config.max_positions, superres.config.max_positions) == (16_384, 8_192)
    model = Khala.from_pretrained(out)
    assert model.tokenizer.first_control_id == 128_000
    model.check(SongRequest(prompt="pop, piano", lyrics="[Verse] hello", duration_s=60))


def test_the_report_names_every_key(published: Path, tmp_path: Path) -> None:
    """Whoever doubts a conversion can see where each number came from, and what was left."""
    source = look(published)
    conversion.convert(source, tmp_path / "model")
    report = json.loads((tmp_path / "model" / "conversion.json").read_text())
    for kind, rows in (("backbone", BACKBONE_ROWS), ("superres", SUPERRES_ROWS)):
        part = report["parts"][kind]
        used = {name for tensor in part["tensors"].values() for name in tensor["from"]}
        assert used == to_megatron(plain_weights(rows)).keys()
        assert set(part["skipped"].values()) == {
            *("state of the optimiser", "state of random numbers"),
            "state of the training library's layers, no weights",
        }
        assert any("norm_epsilon is 1e-05 there; 1e-06 is used" in one for one in part["notes"])
    codec = report["parts"]["codec"]
    used = {name for tensor in codec["tensors"].values() for name in tensor["from"]}
    assert used | codec["skipped"].keys() == lightning_codec()["state_dict"].keys()
    assert not used & codec["skipped"].keys()
    assert report["missing"] == []


def test_the_converted_copy(run: Run, copied: Path, tmp_path: Path) -> None:
    """The other download people have gives the same model; what it lacks is said."""
    result = run("--from", copied, "--to", tmp_path / "model", "--json")
    assert result.status == 0, result.error
    document = json.loads(result.out)
    assert document["missing"] == ["tokenizer.json"]
    assert {part["state"] for part in document["parts"].values()} == {"written"}
    superres = SuperResolution.from_pretrained(tmp_path / "model")
    for name, wanted in plain_weights(SUPERRES_ROWS, seed=1).items():
        assert torch.equal(superres.state_dict()[name], wanted.float()), name
    assert superres.config.max_positions == 4096


@pytest.mark.parametrize("name", conversion.DTYPES)
def test_numbers_of_another_kind(name: str, copied: Path, tmp_path: Path) -> None:
    """--dtype rounds once and says nothing else; the codec stays exact."""
    dtype = conversion.DTYPES[name]
    folder = linked(copied, tmp_path / "in")
    (folder / "khala_superres.safetensors").unlink()
    conversion.convert(look(folder), tmp_path / "out", dtype=dtype)
    stored = checkpoint.load_tensors(tmp_path / "out" / "backbone")
    for key, wanted in plain_weights(BACKBONE_ROWS).items():
        assert stored[key].dtype == dtype
        assert torch.equal(stored[key], wanted.to(dtype)), key
    codec = checkpoint.load_tensors(tmp_path / "out" / "codec")
    assert {tensor.dtype for tensor in codec.values()} == {torch.float32}


def test_a_number_too_large_for_its_kind(tmp_path: Path) -> None:
    """An infinity among the weights would silence the model without a word."""
    state = to_megatron(plain_weights(BACKBONE_ROWS))
    state["decoder.layers.1.mlp.linear_fc2.bias"][3] = 1e5
    save_folder(tmp_path / "in" / "backbone", state)
    (tmp_path / "in" / "megatron_args.json").write_text(json.dumps({"num_attention_heads": 6}))
    source = look(tmp_path / "in")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj\.bias .*float16"):
        conversion.convert(source, tmp_path / "out", dtype=torch.float16)
    assert names_in(tmp_path / "out") == set()


def test_a_model_alone_is_known_by_its_rows(published: Path, tmp_path: Path) -> None:
    """Somebody points at one model's folder instead of the whole download."""
    source = look(published / "superresolution")
    assert source.parts.keys() == {"superres"}
    assert source.missing == ("codec", "backbone", "tokenizer.json")
    conversion.convert(source, tmp_path / "model")
    conversion.convert(look(published / "backbone"), tmp_path / "model")
    report = json.loads((tmp_path / "model" / "conversion.json").read_text())
    assert report["parts"].keys() == {"backbone", "superres"}
    assert report["missing"] == ["codec", "tokenizer.json"]


def test_a_second_run_does_nothing_again(
    run: Run, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes are not written twice, and another conversion is never overwritten."""
    out = tmp_path / "model"
    assert run("--from", copied, "--to", out).status == 0
    monkeypatch.setattr(conversion, "write_tensors", lambda *_, **__: pytest.fail("written again"))
    again = run("--from", copied, "--to", out)
    assert again.status == 0
    assert again.out.count("kept") == 3
    monkeypatch.undo()
    other = run("--from", copied, "--to", out, "--dtype", "float32")
    assert other.status == 2
    assert "made from other files or with another --dtype" in other.error
    weights = out / "backbone" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    damaged = run("--from", copied, "--to", out)
    assert "is not a whole conversion" in damaged.error
    assert weights.read_bytes() == data


KILLED = """
import os, signal, sys
from pathlib import Path
from khala.convert.conversion import convert
from khala.convert.published import look

def kill(label, done, total):
    if label.startswith("superres") and done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

convert(look(Path(sys.argv[1])), Path(sys.argv[2]), on_progress=kill)
"""


def test_killed_halfway_it_goes_on(copied: Path, tmp_path: Path) -> None:
    """A power cut in the last model does not cost the first two, nor leave half of one."""
    out = tmp_path / "model"
    words = [sys.executable, "-c", KILLED, str(copied), str(out)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    left = names_in(out)
    assert {"codec", "backbone"} < left
    assert "superres" not in left
    assert any(name.startswith(".superres.") for name in left)
    states = conversion.convert(look(copied), out)
    assert states == {"codec": "kept", "backbone": "kept", "superres": "written"}
    assert not any(name.startswith(".") for name in names_in(out))
    SuperResolution.from_pretrained(out)


def test_a_disk_without_room_is_known_before(
    run: Run, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of work that ends at a full disk could have been said at the start."""
    monkeypatch.setattr(
        conversion.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    )
    result = run("--from", copied, "--to", tmp_path / "deep" / "model")
    assert result.status == 2
    assert "GB are free" in result.error
    assert names_in(tmp_path / "deep") == set()
    with pytest.raises(CapacityError):
        conversion.convert(look(copied), tmp_path / "model")


FULL = """
import resource, signal, sys
from khala.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
sys.exit(main(["convert", "--from", sys.argv[1], "--to", sys.argv[2], "--quiet"]))
"""


def test_a_disk_that_fills_up_leaves_no_half_model(copied: Path, tmp_path: Path) -> None:
    """A file that is cut short under the model's name would be taken for the model."""
    out = tmp_path / "model"
    words = [sys.executable, "-c", FULL, str(copied), str(out)]
    result = subprocess.run(words, check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert names_in(out) == {"codec"}


def test_two_conversions_into_one_folder(copied: Path, tmp_path: Path) -> None:
    """Two that write the same folder would sweep each other's work away."""
    out = tmp_path / "model"
    out.mkdir()
    with alone_in(out, lambda: None), pytest.raises(CheckpointError, match="another conversion"):
        conversion.convert(look(copied), out)


def test_check_writes_nothing(run: Run, published: Path, copied: Path) -> None:
    """What only the real files can settle is listed for whoever has them."""
    before = sorted(published.rglob("*"))
    result = run("--from", published, "--check")
    assert result.status == 0, result.error
    assert sorted(published.rglob("*")) == before
    assert "as expected: rows of the vocabulary: 193920" in result.out
    assert "DIFFERS: tensors: 39, expected 291" in result.out
    assert "found: numbers on disk: bfloat16" in result.out
    assert "  layers.2.attn.k_proj.bias [8] bfloat16 <- decoder.layers.2.self_att" in result.out
    document = json.loads(run("--from", copied, "--check", "--json").out)
    sizes = [fact for fact in document["facts"] if fact["what"] == "sizes"]
    assert [fact["agrees"] for fact in sizes] == [False, False, False]
    assert document["parts"]["codec"]["tensors"]["quantizer.codebooks"]["shape"] == [64, 1024, 4]


def swap(folder: Path) -> None:
    (folder / "superresolution").rename(folder / "x")
    (folder / "backbone").rename(folder / "superresolution")
    (folder / "x").rename(folder / "backbone")


def no_iteration(folder: Path) -> None:
    (folder / "backbone" / "iter_0036000").rename(folder / "backbone" / "iter_0035000")


def two_iterations(folder: Path) -> None:
    (folder / "backbone" / "iter_0000001").mkdir()
    (folder / "backbone" / "latest_checkpointed_iteration.txt").unlink()


def bad_tracker(folder: Path) -> None:
    path = folder / "backbone" / "latest_checkpointed_iteration.txt"
    path.unlink()
    path.write_text("../../elsewhere")


def no_shard(folder: Path) -> None:
    next((folder / "superresolution").rglob("*.distcp")).unlink()


def half_shard(folder: Path) -> None:
    path = next((folder / "superresolution").rglob("*.distcp"))
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def backbone_twice(folder: Path) -> None:
    shutil.rmtree(folder / "superresolution")
    shutil.copytree(folder / "backbone", folder / "superresolution")


def two_codecs(folder: Path) -> None:
    shutil.copyfile(folder / "dac_rvq_2490000.ckpt", folder / "other.ckpt")


def other_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    nano = checkpoint.resolve_model("nano")
    shutil.copyfile(nano / "tokenizer.json", folder / "tokenizer.json")


def contradiction(folder: Path) -> None:
    path = folder / "backbone" / "megatron_args.json"
    path.write_text(json.dumps({"args": {"num_attention_heads": 6, "hidden_size": 2048}}))


def broken_arguments(folder: Path) -> None:
    (folder / "backbone" / "megatron_args.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap, r"super-resolution model \(193,920 rows.*a backbone belongs there"),
        (no_iteration, r"iter_0036000/\.metadata is missing"),
        (two_iterations, "found: iter_0000001, iter_0036000"),
        (bad_tracker, "must hold a number"),
        (no_shard, "is missing"),
        (half_shard, r"superresolution/.*\.distcp"),
        (
            backbone_twice,
            r"holds a backbone \(130,432 rows.*a super-resolution model belongs there",
        ),
        (two_codecs, "two of one kind"),
        (other_tokenizer, "special tokens begin at"),
        (contradiction, "hidden_size is 2048, and the tensors have 12"),
        (broken_arguments, "is not JSON"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_downloads_that_are_not_right(
    run: Run, published: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    """Each is one line before anything is written."""
    folder = linked(published, tmp_path / "in")
    damage(folder)
    result = run("--from", folder, "--to", tmp_path / "out")
    assert result.status == 2
    assert result.error.count("\n") == 1
    with pytest.raises(CheckpointError, match=message):
        look(folder)
    assert not (tmp_path / "out").exists()


def test_other_mistakes(run: Run, copied: Path, tmp_path: Path) -> None:
    """What was typed wrong is said, with what is allowed."""
    assert "there is no folder" in run("--from", tmp_path / "none", "--check").error
    assert "has no published weights: expected" in run("--from", tmp_path, "--check").error
    assert "give --to FOLDER, or --check" in run("--from", copied).error
    (tmp_path / "file").write_text("")
    assert "is a file" in run("--from", copied, "--to", tmp_path / "file").error
    short = linked(copied, tmp_path / "short")
    path = short / "khala_backbone.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    assert "not downloaded to its end" in run("--from", short, "--check").error
    path.write_bytes(data[:5])
    assert "no safetensors file" in run("--from", short, "--check").error


def test_without_arguments_heads_are_not_guessed(tmp_path: Path) -> None:
    """The width of a head stands in no shape; cut elsewhere, a model loads and gives noise."""
    save_folder(tmp_path / "backbone", to_megatron(plain_weights(BACKBONE_ROWS)))
    with pytest.raises(CheckpointError, match="num_attention_heads is missing; put the training"):
        look(tmp_path)


class Stranger:
    """A class of somebody's training program."""


def test_arguments_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    """Megatron keeps more than arguments beside its weights; what is strange is never run."""
    folder = tmp_path / "backbone"
    save_folder(folder, to_megatron(plain_weights(BACKBONE_ROWS)))
    torch.save({"args": Stranger()}, folder / "common.pt")
    with pytest.raises(
        CheckpointError, match=r"common\.pt are not used.*Stranger.*heads is missing"
    ):
        look(tmp_path)
    arguments = json.dumps({"num_attention_heads": 6})
    (tmp_path / "megatron_args.json").write_text(arguments)
    part = look(tmp_path).parts["backbone"]
    assert isinstance(part.config, BackboneConfig)
    assert part.config.trunk == TRUNK
    assert any("the longest stream: 16384 positions" in note for note in part.notes)
    assert any("rope_base and norm_eps" in note for note in part.notes)


MEASURED = """
import resource, sys
from pathlib import Path

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

import torch
torch_alone = peak()
from khala.convert.conversion import convert
from khala.convert.published import look
source = look(Path(sys.argv[1]))
before = peak()
convert(source, Path(sys.argv[2]))
print(peak() - before, peak() - torch_alone)
"""


SMALL_PARENT = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", *sys.argv[1:]]).returncode)
"""
"""A process begins with the peak of the one that started it, and pytest's is large."""


@pytest.mark.parametrize("layout", ["chunks", pytest.param("safetensors", marks=pytest.mark.slow)])
def test_memory_stays_small(layout: str, tmp_path: Path) -> None:
    """The largest tensors of the real weights would not fit twice on a small computer."""
    from safetensors.torch import save_file

    from khala.nn import TrunkConfig

    trunk = TrunkConfig(
        width=256, num_layers=2, num_heads=4, num_kv_heads=2, head_width=64, ffn_width=512
    )
    plain = {
        name: tensor.float() for name, tensor in plain_weights(BACKBONE_ROWS, trunk=trunk).items()
    }
    if layout == "safetensors":
        (tmp_path / "in").mkdir()
        save_file(plain, tmp_path / "in" / "khala_backbone.safetensors")
    else:
        save_folder(tmp_path / "in" / "backbone", to_megatron(plain, trunk=trunk), cut=True)
    arguments = json.dumps({"num_attention_heads": 4})
    (tmp_path / "in" / "backbone_megatron_args.json").write_text(arguments)
    largest = max(tensor.nbytes for tensor in plain.values())
    words = [sys.executable, "-c", SMALL_PARENT, MEASURED]
    words += [str(tmp_path / "in"), str(tmp_path / "out")]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    grown, beside_torch = map(int, output.split())
    assert largest == BACKBONE_ROWS * 256 * 4
    assert grown < 1e8, "two tensors of 134 MB were converted"
    assert beside_torch < 1.5 * largest + 200e6, "torch for a GPU takes 500 MB by itself"
    made = find_tensors(tmp_path / "out" / "backbone" / "model.safetensors")
    for name, wanted in plain.items():
        assert torch.equal(made[name].read(), wanted), name
