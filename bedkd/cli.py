"""The command line: `bedkd reproduce PROFILE`, `check` and `reference` for batches, `bedkd purify`
for a model of one's own.
"""

import argparse
import sys
from pathlib import Path

from bedkd.batch.cluster import choose_place
from bedkd.batch.workflow import reproduce
from bedkd.core.errors import BedkdError
from bedkd.runs.nested import parse_setting
from bedkd.runs.profiles import load_profile


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bedkd", description="Backdoor defence BeDKD, in batch.")
    commands = parser.add_subparsers(dest="command", required=True)
    batch = commands.add_parser("reproduce", help="run a profile's notebooks; resumes where it was")
    check = commands.add_parser("check", help="say what a profile needs and has; starts nothing")
    keep = commands.add_parser("reference", help="keep what is finished in outputs/reference/")
    other = "another value for one run, such as seed=[0,1] or dmm.alpha=0.5"
    for command in (batch, check, keep):
        command.add_argument("profile", help="a name in params/, or a YAML file")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=other)
    made = "records made elsewhere: JSON Lines, or a folder with run folders"
    keep.add_argument("--records", metavar="PATH", type=Path, help=made)
    check.add_argument("--cores", type=int, help="jobs at a time, for the time left")
    at_once = "jobs at a time; all cores, or the cluster's number"
    batch.add_argument("--cores", type=int, metavar="N", help=at_once)
    where = "slurm, kubernetes, or a folder with a profile of Snakemake's"
    batch.add_argument("--cluster", metavar="NAME", help=where)
    batch.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs, one for each job")
    share = "jobs that share a GPU"
    batch.add_argument("--jobs-per-gpu", type=int, default=1, metavar="K", help=share)
    batch.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    add_purify(commands.add_parser("purify", help="is a model backdoored? and a clean one back"))
    return parser


def add_purify(command: argparse.ArgumentParser) -> None:
    rows = "CSV, TSV, JSON Lines, Parquet, or a hub id (owner/name or owner/name:split)"
    command.add_argument("--model", required=True, metavar="DIR_OR_ID", help="a classifier")
    command.add_argument(
        "--train", required=True, metavar="FILE", help=f"its training rows: {rows}"
    )
    command.add_argument("--clean", required=True, metavar="FILE", help="rows that are trusted")
    command.add_argument("--out", required=True, metavar="DIR", help="a folder that is not there")
    command.add_argument("--test", metavar="FILE", help="clean rows to measure on")
    command.add_argument(
        "--triggered-test", metavar="FILE", help="rows with the trigger and their true labels"
    )
    command.add_argument("--text-column", metavar="NAME", help="of the files; guessed if obvious")
    command.add_argument("--label-column", metavar="NAME", help="of the files; guessed if obvious")
    command.add_argument(
        "--method", default="bedkd_plus", help="bedkd_plus, or bedkd: as printed, no verdict"
    )
    command.add_argument("--max-length", type=int, metavar="N", help="tokens of a text")
    command.add_argument(
        "--allow-pickle", action="store_true", help="load weights that are no safetensors"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="auto")
    setting = "a parameter of the method, such as akd.cycles=20"
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=setting)


def run_purify(options: argparse.Namespace, settings: dict) -> int:
    from bedkd.purification.purify import purify  # torch: not before it is needed
    from bedkd.purification.result import check_target

    check_target(options.out)  # before the work, not after it
    names = ("train", "clean", "test", "triggered_test", "text_column", "label_column", "method")
    more = ("max_length", "allow_pickle", "seed", "device")
    arguments = {name: getattr(options, name) for name in (*names, *more)}
    try:
        purified = purify(options.model, settings=settings, **arguments)
        folder = purified.save(options.out)
    except KeyboardInterrupt:
        print(f"bedkd: interrupted; nothing is in {options.out}", file=sys.stderr)
        return 130
    print(f"{purified.conclude()}\nThe model, its card and the flagged rows: {folder}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when a cell failed or something is missing, 2 for bad input, 130
    when it was interrupted."""
    options = build_parser().parse_args(arguments)
    try:
        settings = dict(parse_setting(text) for text in options.set)
        if options.command == "purify":
            return run_purify(options, settings)
        profile = load_profile(options.profile)
        if options.command == "reference":
            from bedkd.report.reference import keep_reference  # pandas: not before it is needed

            print(keep_reference(profile, settings, options.records))
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
