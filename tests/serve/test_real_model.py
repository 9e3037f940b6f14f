"""The service with the bundled model: what is heard is what the command line makes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from running import Running

from khala import Khala, Song, SongRequest
from khala.serve.provenance import verify


@pytest.mark.timeout(200)
def test_the_bundled_model_makes_the_same_song_in_the_service(tmp_path: Path) -> None:
    """A song that differs by where it was made cannot be made again; and a kill changes nothing."""
    service = Running(data=tmp_path / "data", fake=False)
    service.start()
    try:
        service.wait_worker()
        client = service.client
        wanted = {"prompt": "pop, piano", "lyrics": "[Verse]\nGood morning sun", "seed": 5}
        (song,) = client.create(**wanted, duration=6.0)
        first = next(one for one in client.events(song.id, after=0) if one.type == "piece")
        assert first.data["start_s"] == 0.0, "it is heard while it is written"
        until_s = time.monotonic() + 60.0
        while client.get(song.id).levels < 16:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        for worker in service.workers():
            os.kill(worker, signal.SIGKILL)
        done = client.wait(song.id, timeout_s=120.0)
        assert (done.state, done.levels, done.heard) == ("done", 64, (2, 8, 32, 64))
        made = Song.from_bytes(client.file(song.id))
        found = verify(client.audio(song.id), ".flac")
        assert found.is_intact
        assert found.digests == made.digests
        assert client._fetch("GET", f"/v1/songs/{song.id}/plot").startswith(b"\x89PNG")
    finally:
        service.stop()
    model = Khala.from_pretrained("nano")
    alone = model.generate(SongRequest(**wanted, duration_s=6.0))
    assert np.array_equal(made.codes_QT, alone.codes_QT)
    assert made.digests == alone.digests
