"""The command line: parses, calls a room, and turns its errors into one line and a status.

Status 0 is success, 2 a mistake that one line on stderr explains, 130 a stop with Ctrl-C after
which everything finished was kept. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from khala import __version__
from khala.commands.parsing import Parser, UsageError, guess, unknown_word
from khala.errors import Cancelled, KhalaError

__all__ = ["choose_waiting", "main"]

EXIT_USER = 2
EXIT_STOPPED = 130

COMMANDS = (
    ("generate", "make a song from a prompt and lyrics", "generate"),
    ("refine", "give a saved song more levels, or other fine levels", "refine"),
    ("encode", "turn an audio file into a .khala file", "convert_audio"),
    ("decode", "turn a .khala file into an audio file", "convert_audio"),
    ("verify", "make a saved song again and compare", "verify"),
    ("synth", "write a demo corpus with ground truth", "synth"),
    ("prepare", "turn a folder of songs into training data", "prepare"),
    ("redraw", "draw the fine levels of prepared songs, for a decoder to learn from", "redraw"),
    ("train", "train a codec, a backbone or a super-resolution model", "train"),
    ("assemble", "put three trained models into one model folder", "assemble"),
    ("convert", "turn published weights into a model folder", "convert"),
    ("eval", "measure quality on held-out songs, with peers", "evaluate"),
    ("bench", "measure how fast songs are made here, beside a reference", "bench"),
    ("serve", "start the service and the studio", "serve"),
    ("worker", "start more workers for a service", "serve"),
    ("doctor", "say what this computer can run", "doctor"),
)
"""Name, one line, and the module of khala.commands that has ``add_NAME`` and ``run_NAME``."""

EPILOG = """\
start here:
  khala doctor                      what this computer can run
  khala generate --prompt "female vocal, pop, piano, 100 bpm" \\
                 --lyrics-file examples/song.txt --duration 30 --seed 7 --out song.wav
  khala COMMAND --help              every option of a command, with examples

A song is saved twice: as sound, and as a small .khala file beside it, from which it can be decoded,
refined to more levels and made again bit for bit.
"""


def choose_waiting() -> None:
    """Say how torch's threads wait for each other, before torch is first loaded.

    Threads that spin make a song 14 times slower on a computer that is busy with something else;
    threads that sleep at once make the backbone's many small products three times slower on one
    that is not. So they spin for as long as a small product takes.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    choose_waiting()
    try:
        args = parse(arguments)
        status: int = args.run(args)
        sys.stdout.flush()
    except Cancelled as stop:
        return fail(str(stop), EXIT_STOPPED)
    except KhalaError as error:
        return fail(str(error), EXIT_USER)
    except KeyboardInterrupt:
        return fail("stopped", EXIT_STOPPED)
    except BrokenPipeError:
        # whoever read our output has left: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_USER
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename is not None else ""
        return fail(f"{where}{(error.strerror or str(error)).lower()}", EXIT_USER)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return fail("not enough memory for this; try something shorter or smaller", EXIT_USER)
    return status


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether Python's, torch's or CUDA's allocator gave up; torch's are RuntimeErrors."""
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def fail(message: str, status: int) -> int:
    """Say what went wrong in one printable line."""
    line = " ".join(message.split())
    visible = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    encoding = sys.stderr.encoding or "ascii"
    text = f"khala: error: {visible}\n".encode(encoding, "backslashreplace").decode(encoding)
    sys.stderr.write(text)
    return status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; UsageError names what was meant, if it can be guessed."""
    top = Parser(
        prog="khala", description="Khala makes full songs from text and lyrics.", epilog=EPILOG
    )
    top.add_argument("--version", action="version", version=f"khala {__version__}")
    subparsers = top.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", parser_class=Parser
    )
    parsers = {}
    for name, line, module in COMMANDS:
        parser = parsers[name] = subparsers.add_parser(
            name, help=line, description=line.capitalize() + "."
        )
        room = importlib.import_module(f"khala.commands.{module}")
        getattr(room, f"add_{name}")(parser)
        parser.set_defaults(run=getattr(room, f"run_{name}"))
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is not None and first not in parsers and arguments[0] == first:
        raise UsageError(f"no command {first!r}{guess(first, parsers)}")
    args, unknown = top.parse_known_args(list(arguments))
    if args.command is None and unknown:
        raise UsageError(f"khala has no option {unknown[0]!r} (see khala --help)")
    if args.command is None:
        raise UsageError(f"give a command: {', '.join(parsers)} (see khala --help)")
    if unknown:
        raise unknown_word(parsers[args.command], unknown[0])
    return args


if __name__ == "__main__":
    sys.exit(main())
