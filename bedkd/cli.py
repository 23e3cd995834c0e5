"""The command line: `bedkd reproduce PROFILE`, `bedkd reference PROFILE`."""

from __future__ import annotations

import argparse
import os
import sys

from bedkd.errors import BedkdError
from bedkd.profiles import load_profile, parse_setting
from bedkd.reference import keep_reference
from bedkd.workflow import reproduce


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bedkd", description="Backdoor defence BeDKD, in batch.")
    commands = parser.add_subparsers(dest="command", required=True)
    batch = commands.add_parser("reproduce", help="run a profile's notebooks; resumes where it was")
    keep = commands.add_parser("reference", help="copy a finished profile to outputs/reference/")
    for command in (batch, keep):
        add_profile(command)
    batch.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="jobs at a time")
    batch.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    return parser


def add_profile(command: argparse.ArgumentParser) -> None:
    command.add_argument("profile", help="a name in params/, or a YAML file")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value for one run, such as seed=[0,1] or dmm.alpha=0.5",
    )


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when a cell failed, 2 for bad input."""
    options = build_parser().parse_args(arguments)
    try:
        settings = dict(parse_setting(text) for text in options.set)
        profile = load_profile(options.profile)
        if options.command == "reference":
            print(f"Kept in {keep_reference(profile, settings)}")
            return 0
        if options.cores < 1:
            raise BedkdError(f"--cores is {options.cores}; it must be 1 or more")
        return reproduce(profile, settings, options.cores, options.dry_run)
    except BedkdError as error:
        print(f"bedkd: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
