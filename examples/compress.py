# ruff: noqa: T201
"""Turn any recording into codes, and hear what each number of levels keeps.

python examples/compress.py IN.wav [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

from khala import Khala

source = Path(sys.argv[1])
model = Khala.from_pretrained(sys.argv[2] if len(sys.argv) > 2 else "nano")
folder = Path(sys.argv[3] if len(sys.argv) > 3 else ".")

song = model.encode(source)
path = song.save(folder / f"{source.stem}.khala")
kbit_s = 8 * path.stat().st_size / song.duration_s / 1000
print(f"{path}: {song.duration_s:.1f} s, {kbit_s:.1f} kbit/s")
for levels in (2, 4, 8, 16, 32, 64):
    if levels <= song.num_levels:
        model.write(song, folder / f"{source.stem}-{levels}.wav", levels=levels)
