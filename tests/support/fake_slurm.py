"""Slurm's programs for a cluster of this machine that keeps no accounts: ``sbatch`` runs the job before it returns."""

import sys
from pathlib import Path

SBATCH = """#!{python}
import os, subprocess, sys
from pathlib import Path
home, asked = Path(__file__).parent, sys.argv[1:]
with open(home / "asked", "a") as file:
    print(*asked, file=file)
number = len([*home.glob("*.state")]) + 1
wrapped = next(each.removeprefix("--wrap=") for each in asked if each.startswith("--wrap="))
log = asked[asked.index("--output") + 1].replace("%j", str(number))
with open(log, "w") as file:
    here = os.environ | {{"SLURM_JOB_ID": str(number)}}
    code = subprocess.run(["sh", "-c", wrapped], stdout=file, stderr=file, env=here).returncode
(home / f"{{number}}.state").write_text("FAILED" if code else "COMPLETED")
print(number)
"""
PROGRAMS = {
    "sbatch": SBATCH,
    "srun": '#!/bin/sh\nwhile [ "${{1#-}}" != "$1" ]; do shift; done\nexec "$@"\n',
    "squeue": '#!/bin/sh\ncd {home}; for f in *.state; do echo "${{f%.state}}|$(cat $f)"; done\n',
    "sacct": "#!/bin/sh\necho Slurm accounting storage is disabled >&2; exit 1\n",
    "sinfo": "#!/bin/sh\necho PARTITION; echo 'debug*'\n",
    "scontrol": "#!/bin/sh\ncat {home}/config\n",
}


def install(home: Path, **config: str) -> Path:
    """Write the programs into a new folder, to be put on PATH; ``config`` is what Slurm says of itself."""
    home.mkdir()
    known = {"AccountingStorageType": "(null)", "MinJobAge": "300 sec"} | config
    (home / "config").write_text("Configuration data\n" + "".join(f"{k:23} = {v}\n" for k, v in known.items()))
    for name, text in PROGRAMS.items():
        (home / name).write_text(text.format(python=sys.executable, home=home))
        (home / name).chmod(0o755)
    return home
