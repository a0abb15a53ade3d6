"""Commands run in the process of the test."""

from mfpipe.cli import main


def ran(capsys, *arguments):
    """A command's exit code, standard output and standard error."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()
