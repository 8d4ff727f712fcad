"""Search masks once, then slim and compare networks of many budgets on a Ray cluster."""

import logging
import sys
import warnings

from slim import SlimError
from sweeps.cli import parse
from sweeps.errors import InputError, InterruptedRun, StoppedRun
from sweeps.pipeline import execute
from sweeps.reporting import report
from sweeps.stopping import INTERRUPTED

BAD_INPUT, FAILED = 2, 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        if not command.config.verbose:
            warnings.filterwarnings("ignore")
            logging.disable(logging.WARNING)
        if command.report or command.compare:
            return report(command)
        return execute(command)
    except InputError as error:
        return _stop(str(error), BAD_INPUT)
    except (InterruptedRun, KeyboardInterrupt) as error:
        return _stop(str(error) or "interrupted", INTERRUPTED)
    except (SlimError, StoppedRun) as error:
        return _stop(str(error), FAILED)


def _stop(message: str, code: int) -> int:
    print(f"run_sweep.py: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
