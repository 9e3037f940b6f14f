"""An object store behind S3's own protocol: a real server on this machine (moto)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from test_prepare import FakeCodec, content, tune

from khala.audio import write_audio
from khala.corpus import Processes, SongLimits, find_items, open_codes, prepare
from khala.errors import CorpusError

SHORT = SongLimits(min_s=0.3)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Give the URL of an empty bucket; the environment says where and who, as for any provider."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT", f"http://{host}:{port}")
        patch.setenv("AWS_ALLOW_HTTP", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="music")
        yield "s3://music"
    server.stop()


def put(folder: Path, bucket: str) -> str:
    """Write three songs into a folder, and into a bucket as they are there."""
    import obstore
    from obstore.store import from_url

    folder.mkdir()
    for index in range(3):
        write_audio(folder / f"song {index}.wav", tune(index), sample_rate_hz=44_100)
        (folder / f"song {index}.txt").write_text(f"[Verse]\nsong number {index}")
    (folder / "song 3.wav").write_bytes(b"RIFF, but no sound")
    store = from_url(bucket)
    for path in folder.iterdir():
        obstore.put(store, f"mine/{path.name}", path.read_bytes())
    return f"{bucket}/mine"


def test_songs_from_a_bucket_to_a_bucket(bucket: str, tmp_path: Path) -> None:
    """What a cluster reads is what a laptop reads: the same shards, bit by bit."""
    source = put(tmp_path / "songs", bucket)
    far, near = f"{bucket}/codes", tmp_path / "codes"
    report = prepare(
        find_items(source), far, FakeCodec, limits=SHORT, songs_per_shard=2, engine=Processes(2)
    )
    prepare(find_items(tmp_path / "songs"), near, FakeCodec, limits=SHORT, songs_per_shard=2)
    assert report.num_songs == 3
    assert [(one.id, one.why) for one in report.refused] == [("song 3.wav", "audio")]
    ours, theirs = open_codes(far), open_codes(near)
    assert ours.digest == theirs.digest
    for one, other in zip(ours, theirs, strict=True):
        assert (one.id, one.lyrics) == (other.id, other.lyrics)
        np.testing.assert_array_equal(one.codes_QT, other.codes_QT)
    again = FakeCodec()
    prepare(find_items(source), far, lambda: again, limits=SHORT, songs_per_shard=2)
    assert again.num_calls == 0, "finished shards are done again"
    assert len([name for name in content(near) if name.endswith(".parquet")]) == 5


def test_what_is_not_there_is_named(bucket: str, tmp_path: Path) -> None:
    """A wrong bucket must not look like an empty one."""
    with pytest.raises(CorpusError, match="nobody-s"):
        list(find_items("s3://nobody-s/songs"))
    with pytest.raises(CorpusError, match="nothing-here"):
        open_codes(f"{bucket}/nothing-here")
    assert not any(tmp_path.iterdir())
