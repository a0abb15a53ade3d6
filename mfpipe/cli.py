"""The command line: signals, logs and exit codes; the commands are in `mfpipe.commands`."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

import mfpipe
from mfpipe.commands import FAMILIES
from mfpipe.errors import MfpipeError
from mfpipe.printable import printable
from mfpipe.printer import Printer, SafeConsole
from mfpipe.published import published
from mfpipe.stopping import Stopped, stoppable

log = logging.getLogger("mfpipe")

GARBAGE_FROM = 100_000
"""New objects that Python looks through for garbage at a time, in place of 700."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is documented in the README."""
    if arguments is None:
        gc.set_threshold(GARBAGE_FROM)  # loading libraries makes objects that all stay: 0.1 s to look through
    with stoppable():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    published.clear()
    try:
        options = _parser().parse_args(arguments)
        printer = Printer(options)
        _log_to_stderr(options, printer)
        options.run(options, printer)
        sys.stdout.flush()
        return 0
    except MfpipeError as error:
        if debug:
            raise
        _say(f"{error}", error)
        return error.exit_code
    except (KeyboardInterrupt, Stopped) as stopped:
        what = ", ".join(published) or "nothing"
        _say(f"{str(stopped) or 'interrupted'}: stopped; {what} was published", stopped)
        return getattr(stopped, "exit_code", 130)
    except ModuleNotFoundError as error:
        if debug or (error.name or "").startswith("mfpipe"):
            raise
        _say(f"needs {error.name}, which is not installed; install mfpipe with all it depends on", error)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {error}; please report it with what --debug shows", error)
        return 1
    finally:
        if arguments is None:
            gc.freeze()  # the process ends here, and would look through all it holds for cycles: 0.2 s


def _say(message: str, error: BaseException) -> None:
    """The last words of a command, with what was noted on the way out: how to go on."""
    for line in (message, *getattr(error, "__notes__", ())):
        print(f"mfpipe: {printable(line)}", file=sys.stderr)


class _ConsoleLog(logging.Handler):
    """Log lines on a console, so that they do not tear its progress bar."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else record.levelname.lower() + ": "
        self.console.print(Text(prefix + printable(record.getMessage())), soft_wrap=True)


def _log_to_stderr(options: argparse.Namespace, printer: Printer) -> None:
    level = logging.DEBUG if options.verbose else logging.WARNING if options.quiet else logging.INFO
    log.setLevel(level)
    # The console of the progress bar, so that lines appear above it; a quiet one would show no warnings.
    log.handlers = [_ConsoleLog(SafeConsole(stderr=True) if options.quiet else printer.err)]
    log.propagate = False


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="log each iteration")
    common.add_argument("-q", "--quiet", action="store_true", help="log warnings only")
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    parser = argparse.ArgumentParser("mfpipe", description=mfpipe.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mfpipe {mfpipe.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, help: str, *groups: Callable) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help, parents=[common], allow_abbrev=False)
        made.set_defaults(run=run)
        for group in groups:
            group(made)
        return made

    for family in FAMILIES:
        family.register(command)
    return parser
