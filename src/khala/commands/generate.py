"""``khala generate``: from words to songs."""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from khala.commands.models import (
    MODEL_HELP,
    add_compat_option,
    add_device_options,
    add_fetch_options,
    add_lora_option,
)
from khala.commands.outputs import SongFiles, check_files, describe, name_files
from khala.commands.terminal import Stages, Terminal, add_output_options, stopping
from khala.errors import KhalaError, RequestError, StageError
from khala.song import Song, SongRequest
from khala.song.request import MAX_DURATION_S

if TYPE_CHECKING:
    from khala.infer import Khala
    from khala.infer.many import Made

__all__ = ["add_generate", "finish_song", "run_generate"]

MAX_SONGS = 100
MAX_LYRICS_FILE_BYTES = 100_000

EPILOG = """\
examples:
  khala generate --lyrics-file examples/song.txt --prompt "female vocal, pop, piano, 100 bpm" \\
                 --duration 30 --seed 7 --out song.wav
  khala generate --instrumental --prompt "ambient, pad, slow" --out calm.opus
  khala generate --lyrics "[Verse]\\nGood morning sun" --levels 8 --out sketch.mp3    a quick sketch
  khala refine sketch.khala --levels 64 --out song.wav                               finish it later
  khala generate --lyrics-file song.txt --lora runs/mine/adapter:0.8 --out mine.wav  in a style
  khala generate --lyrics-file song.txt --n 3 --seed 7 --out take.flac     take-1, take-2, take-3

Lyrics have section tags on their own lines: [Verse 1], [Chorus], [Bridge], [Outro], ...
The same seed, request and model give the same bytes, alone or with --n: take-2 above is what
--seed 8 makes alone. Ctrl-C stops and saves what is finished as a playable file.
"""


def add_generate(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    words = parser.add_argument_group("what to make")
    lyrics = words.add_mutually_exclusive_group()
    lyrics.add_argument("--lyrics", metavar="TEXT", help="the words; \\n begins a line")
    lyrics.add_argument("--lyrics-file", metavar="FILE", help="a UTF-8 text file with the words")
    lyrics.add_argument("--instrumental", action="store_true", help="no voice, no words")
    words.add_argument(
        "--prompt", "--tags", dest="prompt", default="", metavar="TEXT", help="style tags"
    )
    words.add_argument(
        "--duration", type=float, default=30.0, metavar="S", help="seconds, +-5 %% (default: 30)"
    )
    words.add_argument(
        "--language",
        default="en",
        metavar="CODE",
        help="of the words, kept with the song; not read by the models (default: en)",
    )
    how = parser.add_argument_group("how to make it")
    how.add_argument("--seed", type=int, metavar="N", help="of the first song (default: random)")
    how.add_argument("--n", type=int, default=1, metavar="N", help="songs, seeds counting up")
    how.add_argument(
        "--levels", type=int, default=64, metavar="K", help="2 (sketch) to 64 (master, default)"
    )
    how.add_argument("--temperature", type=float, default=1.0, metavar="T", help="default: 1.0")
    how.add_argument("--top-k", type=int, default=80, metavar="K", help="default: 80")
    how.add_argument(
        "--guidance-scale",
        type=float,
        metavar="W",
        help="how strictly to follow prompt and words, 1 to 10 (default: the model's own)",
    )
    how.add_argument("--model", default="nano", metavar="NAME", help=MODEL_HELP)
    add_fetch_options(how)
    add_lora_option(how)
    add_device_options(how)
    add_compat_option(how, default="none")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out",
        default="song.wav",
        metavar="FILE",
        help="ends in .wav, .flac, .mp3 or .opus (default: song.wav); FILE.khala is put beside it",
    )
    files.add_argument("--plot", action="store_true", help="also draw waveform, mel and sections")
    add_output_options(parser)


def run_generate(args: argparse.Namespace) -> int:
    """Check everything, make the songs beside each other, say what came out."""
    terminal = Terminal.of(args)
    requests = build_requests(args)
    files = name_files(args.out, num_songs=len(requests), plot=args.plot)
    # Nothing but the model ends a song of the published program.
    longest_s = requests[0].duration_s if args.compat == "none" else MAX_DURATION_S
    check_files(files, duration_s=longest_s)
    from khala.commands.models import load_khala
    from khala.infer.many import generate_each

    started_s = time.monotonic()
    with stopping(terminal) as stop:
        with Stages(terminal=terminal) as stages:
            model = load_khala(
                args.model,
                args.device,
                args.lora,
                dtype=args.dtype,
                revision=args.revision,
                tokenizer=args.tokenizer,
                on_event=stages,
                should_stop=stop,
            )
        if args.plot:
            from khala.infer.plot import check_plot

            check_plot()
        done: dict[int, dict[str, Any]] = {}
        try:
            with Stages(terminal=terminal, num_songs=len(requests)) as stages:
                made = generate_each(
                    model, requests, compat=args.compat, on_event=stages, should_stop=stop
                )
                save_all(model, made, files, terminal, stages, done)
        finally:
            elapsed_s = round(time.monotonic() - started_s, 2)
            songs = [done[place] for place in sorted(done)]
            terminal.document({"songs": songs, "stopped": stop.asked, "elapsed_s": elapsed_s})
    return 0


def build_requests(args: argparse.Namespace) -> list[SongRequest]:
    """One request per song; RequestError before anything slow happens."""
    if not 1 <= args.n <= MAX_SONGS:
        raise RequestError(f"--n is {args.n}: 1 to {MAX_SONGS} songs")
    lyrics = read_lyrics(args)
    first = secrets.randbelow(2**31) if args.seed is None else args.seed
    return [
        SongRequest(
            prompt=args.prompt,
            lyrics=lyrics,
            duration_s=args.duration,
            instrumental=args.instrumental,
            language=args.language,
            seed=first + index,
            levels=args.levels,
            temperature=args.temperature,
            top_k=args.top_k,
            guidance_scale=args.guidance_scale,
        )
        for index in range(args.n)
    ]


def read_lyrics(args: argparse.Namespace) -> str:
    """The words from wherever they were given."""
    if args.lyrics is not None:
        return str(args.lyrics).replace("\\n", "\n")
    if args.lyrics_file is None:
        if not args.instrumental:
            raise RequestError("give --lyrics TEXT, --lyrics-file FILE or --instrumental")
        return ""
    path = Path(args.lyrics_file)
    if not path.is_file():
        raise RequestError(f"--lyrics-file {args.lyrics_file!r}: there is no such file")
    with path.open("rb") as file:
        data = file.read(MAX_LYRICS_FILE_BYTES + 1)
    if len(data) > MAX_LYRICS_FILE_BYTES:
        raise RequestError(
            f"--lyrics-file {args.lyrics_file!r} has {path.stat().st_size} bytes; "
            f"allowed: lyrics of up to 5000 characters"
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"--lyrics-file {args.lyrics_file!r} is not UTF-8 text (byte {error.start})"
        ) from error


def save_all(
    model: Khala,
    made: Iterable[tuple[int, Made]],
    files: Sequence[SongFiles],
    terminal: Terminal,
    stages: Stages,
    done: dict[int, dict[str, Any]],
) -> None:
    """Save songs as they come, note them in ``done``, and raise the first error when all are saved.

    What a Ctrl-C or a failure leaves of a song is saved too, and a song that cannot be saved, as
    where a disk is full, keeps no other from being made: its codes are a few kilobytes.
    """
    errors: list[KhalaError] = []
    for place, outcome in made:
        try:
            if isinstance(outcome, Song):
                done[place] = finish_song(model, outcome, files[place], terminal, stages, place)
            else:
                errors.append(save_part(model, outcome, files[place], terminal, stages, place))
        except KhalaError as error:
            errors.append(error)
    if errors:
        others = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise type_of(errors[0], f"{errors[0]}{others}")


def save_part(
    model: Khala,
    error: KhalaError,
    files: SongFiles,
    terminal: Terminal,
    stages: Stages,
    place: int,
) -> KhalaError:
    """Save what an error has left of a song; return the error, saying what that is."""
    part = getattr(error, "finished", None)
    if not isinstance(part, Song):
        return type_of(error, f"{error}: nothing yet that could be played")
    finish_song(model, part, files, terminal, stages, place)
    kept = f"{part.duration_s:.1f} s with {part.num_levels} levels as {files.audio}"
    return type_of(error, f"{error}; saved {kept}")


def type_of(error: KhalaError, message: str) -> KhalaError:
    """Return an error of the same kind that says more."""
    if isinstance(error, StageError):
        more: KhalaError = StageError(message, stage=error.stage)
    else:
        more = type(error)(message)
    more.__cause__ = error
    return more


def finish_song(
    model: Khala, song: Song, files: SongFiles, terminal: Terminal, stages: Stages, place: int = 0
) -> dict[str, Any]:
    """Save the codes first, then the sound: a failure at the end costs no minutes of work."""
    from khala.infer.sound import write_song

    song.save(files.song)
    wave_CN = model.decode(song, on_event=stages.of(place))
    write_song(files.audio, song, wave_CN)
    if files.plot is not None:
        from khala.infer.plot import plot_song

        plot_song(files.plot, song, wave_CN)
    beside = ", ".join(str(path) for path in (files.song, files.plot) if path is not None)
    terminal.line(
        f"{files.audio}: {song.duration_s:.1f} s, seed {song.request.seed}, "
        f"{song.num_levels} levels, ended by {song.ended.replace('_', ' ')}; beside it {beside}"
    )
    return {
        **describe(files, song, wave_CN),
        "timings_s": dict(stages.timings_s[place]),
        "notices": list(stages.notices[place]),
    }
