"""What Snakemake's Slurm executor has to be told of this cluster, and its complaints in one line."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mdrepro.core.errors import BadInput

STATUS = "--slurm-status-command"
ASKED_EVERY = 200
"""Seconds: the executor asks for the states of its jobs at least that often."""
NO_ACCOUNTS = ("", "(null)", "none", "accounting_storage/none")
REFUSED = re.compile(r"SLURM sbatch failed\. The error message was '(.*?)'\.\n", re.DOTALL)
FAILED = re.compile(r"SLURM-job '(\d+)' failed(?: due to a node failure)?, SLURM status is: '(\w+)'")


def options(given: Sequence[str]) -> list[str]:
    """Further options for this cluster: states of jobs by ``squeue`` where Slurm keeps no accounts for ``sacct``.

    ``given``: options of the user, which are left as they are. Raises BadInput where there is no Slurm, it does not
    answer, or it forgets ended jobs before they are asked for.
    """
    for program in ("sbatch", "scontrol"):
        if shutil.which(program) is None:
            raise BadInput(f"--executor slurm: {program} is not on PATH: call mdrepro where Slurm takes jobs")
    command = ["scontrol", "show", "config"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=True)
    except subprocess.TimeoutExpired:
        raise BadInput("--executor slurm: its controller did not answer within a minute") from None
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or ["no error message"])[-1]
        raise BadInput(f"--executor slurm: its controller does not answer: {why}") from None
    config = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", answer.stdout, re.MULTILINE))
    accounts = config.get("AccountingStorageType", "") not in NO_ACCOUNTS and shutil.which("sacct")
    if accounts or any(option.partition("=")[0] == STATUS for option in given):
        return []
    age = re.match(r"\d+", config.get("MinJobAge", ""))
    if age is None or int(age[0]) < ASKED_EVERY:
        raise BadInput(
            f"--executor slurm: this cluster keeps no accounts (AccountingStorageType) and forgets jobs "
            f"{age[0] if age else 'some'} s after their end (MinJobAge): expected at least {ASKED_EVERY} s; where "
            f"sacct works all the same, give --snakemake '{STATUS} sacct'"
        )
    return [STATUS, "squeue"]


def complaint(log: Path) -> str:
    """What Slurm said of jobs that it did not take or that did not end well, by Snakemake's log; "" for nothing."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if refused := REFUSED.search(text):
        return f"Slurm did not take a job: {' '.join(refused[1].split())}"
    ended = dict.fromkeys(f"its job {number} ended as {state}" for number, state in FAILED.findall(text))
    return f"Slurm: {'; '.join(ended)}" if ended else ""
