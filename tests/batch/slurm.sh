#!/usr/bin/env bash
# The tests that need a Slurm, on one of their own (local_slurm.py): tests/batch/slurm.sh PYTHON
# Installs it where that can be done; where not, says why, which is no failure.
set -euo pipefail
python=$(realpath --no-symlinks "$1")
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

skip() {
    echo "skipped: $1"
    exit 0
}

lacks() {
    for command in munged slurmctld slurmd sbatch srun squeue scancel setpriv; do
        command -v "$command" >/dev/null || return 0
    done
    return 1
}

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 slurm-wlm munge
}

if lacks; then
    [ "$(id -u)" = 0 ] || skip "Slurm is not installed, and only root could install it"
    command -v apt-get >/dev/null || skip "Slurm is not installed, and there is no apt-get to do it"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # the lists may be old or none; they are fetched only if it does not go without
    install >"$log" 2>&1 || { apt-get update -qq && install; } >"$log" 2>&1 ||
        skip "apt-get cannot install slurm-wlm and munge: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"
    lacks && skip "slurm-wlm and munge are installed, but some of their commands are not"
fi

"$python" -c 'import snakemake_executor_plugin_slurm' 2>/dev/null ||
    "$python" -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[cluster]'
BEDKD_TEST_SLURM=1 "$python" -m pytest -q -n 0 -m 'slurm or cluster' tests/batch/test_slurm.py tests/batch/test_cluster.py
