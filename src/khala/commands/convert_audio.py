"""``khala encode`` and ``khala decode``: between audio files and codes."""

from __future__ import annotations

import argparse
from pathlib import Path

from khala.audio import audio_format, check_output
from khala.commands.models import add_compat_option
from khala.commands.terminal import Stages, Terminal, add_output_options, stopping
from khala.errors import AudioError, RequestError
from khala.song import Song

__all__ = ["add_decode", "add_encode", "run_decode", "run_encode"]


def add_encode(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n"
        "  khala encode in.wav out.khala               all 64 levels, 13.8 kbit/s\n"
        "  khala encode in.mp3 out.khala --levels 8    1.7 kbit/s\n"
        "  khala decode out.khala again.wav"
    )
    parser.add_argument("audio", metavar="IN", help="WAV, FLAC, MP3, Ogg; mono or stereo")
    parser.add_argument("song", metavar="OUT.khala", help="what to write")
    parser.add_argument("--levels", type=int, metavar="K", help="2 to 64 (default: all)")
    parser.add_argument("--model", default="nano", metavar="NAME", help="'nano' or a model folder")
    add_compat_option(parser, default="none")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    add_output_options(parser)


def run_encode(args: argparse.Namespace) -> int:
    """Encode one file."""
    terminal = Terminal.of(args)
    out = Path(args.song)
    if out.suffix != ".khala":
        raise AudioError(f"cannot write {args.song!r}: the name of a song file ends in .khala")
    check_output(out, num_bytes=100_000)
    from khala import checkpoint
    from khala.codec import Codec
    from khala.commands.models import check_device
    from khala.infer.sound import encode_file

    device = check_device(args.device)
    folder = checkpoint.resolve_part(args.model, "codec")
    codec = Codec.from_pretrained(folder, device=device)
    song = encode_file(
        codec,
        args.audio,
        model=args.model,
        digest=checkpoint.digest(folder),
        levels=args.levels,
        compat=args.compat,
    )
    song.save(out)
    size = out.stat().st_size
    kbit_s = 8 * size / song.duration_s / 1_000
    terminal.line(
        f"{out}: {song.duration_s:.1f} s, {song.num_levels} levels, "
        f"{size} bytes ({kbit_s:.1f} kbit/s)"
    )
    terminal.document(
        {
            "song": str(out),
            "levels": song.num_levels,
            "frames": song.num_frames,
            "duration_s": round(song.duration_s, 3),
            "bytes": size,
            "digests": song.digests,
        }
    )
    return 0


def add_decode(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n"
        "  khala decode song.khala song.flac\n"
        "  khala decode song.khala sketch.wav --levels 2    what the backbone alone wrote"
    )
    parser.add_argument("song", metavar="SONG.khala", help="a saved song")
    parser.add_argument("audio", metavar="OUT", help="ends in .wav, .flac, .mp3 or .opus")
    parser.add_argument("--levels", type=int, metavar="K", help="2 to those there (default: all)")
    parser.add_argument("--model", metavar="NAME", help="default: the song's own")
    add_compat_option(parser, default=None)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    add_output_options(parser)


def run_decode(args: argparse.Namespace) -> int:
    """Decode one song."""
    terminal = Terminal.of(args)
    bytes_per_s = audio_format(args.audio).bytes_per_s
    song = Song.load(args.song)
    if args.levels is not None and not 2 <= args.levels <= song.num_levels:
        raise RequestError(
            f"--levels is {args.levels}: this song can be decoded with 2 to {song.num_levels}"
        )
    check_output(args.audio, num_bytes=int(song.duration_s * bytes_per_s))
    from khala.commands.models import check_device
    from khala.infer.sound import decode_song, load_codec, write_song

    with stopping(terminal) as stop, Stages(terminal=terminal) as stages:
        codec = load_codec(song, args.model, check_device(args.device))
        wave_CN = decode_song(
            codec,
            song,
            levels=args.levels,
            compat=args.compat,
            on_event=stages,
            should_stop=stop,
        )
        write_song(args.audio, song, wave_CN)
    levels = args.levels or song.num_levels
    terminal.line(f"{args.audio}: {song.duration_s:.1f} s, {levels} levels")
    terminal.document(
        {
            "audio": args.audio,
            "levels": levels,
            "duration_s": round(song.duration_s, 3),
            "notices": stages.notices[0],
        }
    )
    return 0
