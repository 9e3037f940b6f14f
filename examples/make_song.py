# ruff: noqa: T201
"""Make a song in Python, listen to how far it is, and keep it twice: as codes and as sound.

python examples/make_song.py [MODEL] [OUT.wav]
"""

import sys
from pathlib import Path

from khala import Khala, SongRequest
from khala.infer import Progress

MODEL = sys.argv[1] if len(sys.argv) > 1 else "nano"
OUT = Path(sys.argv[2] if len(sys.argv) > 2 else "song.wav")


def show(event):
    if isinstance(event, Progress) and event.done == event.total:
        print(f"{event.stage}: {event.total} in {event.elapsed_s:.1f} s")


model = Khala.from_pretrained(MODEL)
request = SongRequest(
    prompt="female vocal, pop, piano, 100 bpm",
    lyrics="[Verse]\nGood morning sun, I see your light",
    duration_s=8,
    seed=7,
    levels=min(64, model.superres.config.layout.num_levels),
)
song = model.generate(request, on_event=show)
song.save(OUT.with_suffix(".khala"))
model.write(song, OUT)
print(f"{OUT}: {song.duration_s:.1f} s")
