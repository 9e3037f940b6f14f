# ruff: noqa: T201
"""Make three quick sketches, choose one, and finish only that one.

python examples/sketch_then_finish.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

from khala import Khala, SongRequest

MODEL = sys.argv[1] if len(sys.argv) > 1 else "nano"
FOLDER = Path(sys.argv[2] if len(sys.argv) > 2 else ".")

model = Khala.from_pretrained(MODEL)
sketches = []
for seed in (1, 2, 3):
    request = SongRequest(
        prompt="piano, slow", instrumental=True, duration_s=6, seed=seed, levels=2
    )
    sketches.append(model.generate(request))
    model.write(sketches[-1], FOLDER / f"sketch-{seed}.wav")

chosen = sketches[1]  # listen first; here the second one
whole = model.refine(chosen, levels=model.superres.config.layout.num_levels)
other = model.refine(whole, levels=whole.num_levels, keep_levels=2, seed=99)
model.write(whole, FOLDER / "finished.wav")
model.write(other, FOLDER / "other-details.wav")
print(f"finished {whole.duration_s:.1f} s with {whole.num_levels} levels")
