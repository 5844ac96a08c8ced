"""The command line: parse, call one function, print what was written.

Nothing heavy is imported before a command needs it: `inspect-ai --help` starts at once, and
`inspect-ai scan` never loads torch. A user's mistake ends with 2 and one message, ours with 1.
"""

import sys
import traceback
from typing import Annotated

import typer

from inspect_ai.commands import (
    benchmarks,
    desk,
    feedback,
    floor,
    judging,
    monitoring,
    operating,
    workshop,
)
from inspect_ai.errors import InspectError

INTERRUPTED = 130
# newer typers bring a click of their own: its UsageError is found through a name both export
USAGE: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Visual inspection from defect-free images: train, calibrate, export, scan, report.",
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")] = False,
) -> None:
    """--debug is read in main(), which also sees errors of parsing."""
    del debug


for command in (
    workshop.build,
    workshop.train,
    workshop.calibrate,
    workshop.export,
    judging.sample,
    floor.scan,
    floor.report,
    operating.operating_point,
    monitoring.monitor,
    feedback.recalibrate,
    feedback.suspects,
    benchmarks.benchmark,
    workshop.models,
    desk.demo,
    desk.doctor,
):
    app.command()(command)
app.add_typer(desk.specs, name="specs")
app.add_typer(desk.simulate, name="simulate")


def main() -> None:
    """Runs a command and ends the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs a command; 0 done, 1 our mistake, 2 the user's, 130 interrupted, 4 where
    `monitor --fail-on-alarm` found a change, or more flagged than promised."""
    debug = "--debug" in arguments
    # --debug is welcome anywhere, not only before the command
    arguments = [a for a in arguments if a != "--debug"]
    try:
        code = app(arguments, prog_name="inspect-ai", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except USAGE as error:
        error.show()
        return 2
    except InspectError as error:
        return _ended(str(error), 2, debug)
    except Exception as error:
        ours = f"{type(error).__name__}: {error}\nThis is our mistake. Run again with --debug and report it."
        return _ended(ours, 1, debug)
    if code == INTERRUPTED:  # typer's own word for it
        return _interrupted()
    return code if isinstance(code, int) else 0


def _ended(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    typer.echo(f"error: {message}", err=True)
    return code


def _interrupted() -> int:
    typer.echo("interrupted: run the same command again and it goes on", err=True)
    return INTERRUPTED


if __name__ == "__main__":
    main()
