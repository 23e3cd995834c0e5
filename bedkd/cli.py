"""The command line: `bedkd check PROFILE`, `bedkd reproduce PROFILE`, `bedkd reference PROFILE`."""

import argparse
import sys

from bedkd.batch.cluster import choose_place
from bedkd.batch.workflow import reproduce
from bedkd.core.errors import BedkdError
from bedkd.runs.profiles import load_profile, parse_setting


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bedkd", description="Backdoor defence BeDKD, in batch.")
    commands = parser.add_subparsers(dest="command", required=True)
    batch = commands.add_parser("reproduce", help="run a profile's notebooks; resumes where it was")
    check = commands.add_parser("check", help="say what a profile needs and has; starts nothing")
    keep = commands.add_parser("reference", help="copy a finished profile to outputs/reference/")
    other = "another value for one run, such as seed=[0,1] or dmm.alpha=0.5"
    for command in (batch, check, keep):
        command.add_argument("profile", help="a name in params/, or a YAML file")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=other)
    check.add_argument("--cores", type=int, help="jobs at a time, for the time left")
    at_once = "jobs at a time; all cores, or the cluster's number"
    batch.add_argument("--cores", type=int, metavar="N", help=at_once)
    where = "slurm, kubernetes, or a folder with a profile of Snakemake's"
    batch.add_argument("--cluster", metavar="NAME", help=where)
    batch.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs, one for each job")
    share = "jobs that share a GPU"
    batch.add_argument("--jobs-per-gpu", type=int, default=1, metavar="K", help=share)
    batch.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when a cell failed or something is missing, 2 for bad input."""
    options = build_parser().parse_args(arguments)
    try:
        settings = dict(parse_setting(text) for text in options.set)
        profile = load_profile(options.profile)
        if options.command == "reference":
            from bedkd.report.reference import keep_reference  # pandas: not before it is needed

            print(f"Kept in {keep_reference(profile, settings)}")
            return 0
        if options.command == "check":
            from bedkd.batch.check import check_profile  # torch: not before it is needed

            return check_profile(profile, settings, choose_place(options.cores).cores)
        place = choose_place(options.cores, options.cluster, options.gpus, options.jobs_per_gpu)
        return reproduce(profile, settings, place, options.dry_run)
    except BedkdError as error:
        print(f"bedkd: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
