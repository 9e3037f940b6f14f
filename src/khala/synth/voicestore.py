"""Where the voice banks lie, and building those that are missing."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from khala.errors import CorpusError
from khala.processes import obey_parent
from khala.synth.voicebank import BANK_FORMAT, build_bank
from khala.synth.voices import VOICES, Voice


def default_folder() -> Path:
    """The user's cache of voice banks."""
    return Path.home() / ".cache" / "khala" / "voices"


def bank_path(folder: Path, voice: Voice) -> Path:
    """The bank file of a voice; another speaking pitch is another file."""
    return folder / f"{voice.base}-{voice.speech_pitch}-v{BANK_FORMAT}.safetensors"


def ensure_banks(
    folder: Path, *, workers: int, progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Build the banks that ``folder`` lacks, each in a process of its own.

    espeak-ng keeps its state in globals: a fresh process for each voice makes a bank
    independent of the others. Raises ``CorpusError`` when espeak-ng or WORLD is missing.
    """
    missing = [v for v in VOICES if not bank_path(folder, v).is_file()]
    if not missing:
        return
    if progress is not None:
        progress("voices", 0, len(missing))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        max_workers=min(workers, len(missing)),
        mp_context=context,
        max_tasks_per_child=1,
        initializer=obey_parent,
    ) as pool:
        jobs = [
            pool.submit(build_bank, v.base, v.speech_pitch, bank_path(folder, v)) for v in missing
        ]
        try:
            for done, job in enumerate(as_completed(jobs)):
                job.result()
                if progress is not None:
                    progress("voices", done + 1, len(missing))
        except BrokenProcessPool as error:
            raise CorpusError("a worker died while building a voice bank; run it again") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
