"""The page: everything in one file, nothing in it that runs or is fetched."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import soundfile

from khala.evals import report


class Tags(HTMLParser):
    """Counts tags, and knows which were never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_holds_everything_and_nothing_runs(tmp_path: Path) -> None:
    """A title from a stranger's file must stay a title."""
    evil = '<script>alert("1")</script>'
    wave_CN = np.random.default_rng(0).normal(0, 0.4, (2, 44_100)).astype(np.float32)
    picture = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
    )
    (tmp_path / "songs.png").write_bytes(picture)
    table = report.table("T", ["song", "fine", "x"], [[evil, True, 0.5], ["b", False, None]])
    report.finish(
        "songs",
        {"tables": [table], "notes": [evil]},
        arguments={"folder": Path(evil)},
        out=tmp_path,
        sounds={evil: wave_CN},
    )
    page = (tmp_path / "songs.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    names = [name for name, _ in tags.seen]
    assert "script" not in names
    assert page.count("&lt;script&gt;") == 3
    sources = [value for _, given in tags.seen for key, value in given.items() if key == "src"]
    assert len(sources) == 2
    assert all(str(source).startswith("data:") for source in sources)
    assert "http://" not in page
    assert "https://" not in page
    assert re.search(r'class="yes">yes<.*class="no">no<', page, re.DOTALL)
    kind, _, data = str(sources[1]).partition(",")
    assert kind == "data:audio/mpeg;base64"
    (tmp_path / "sound.mp3").write_bytes(base64.b64decode(data))
    assert abs(soundfile.info(tmp_path / "sound.mp3").duration - 1.0) < 0.1
