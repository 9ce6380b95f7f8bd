"""A real Slurm of two nodes on this machine, from Debian's slurm-wlm and munge; all of it in one folder.

Its daemons are children of the test in the foreground, and end when it ends, however it does.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.launchers import free_port
from tests.support.waiting import wait_until

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo")
NODES = ("n1", "n2")
CONFIG = """\
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=0
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=5
MessageTimeout=60
PartitionName=all Nodes=ALL Default=YES State=UP
{nodes}
"""
NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=64000"


def missing() -> str:
    """Why there can be no Slurm here; "" where it can be started."""
    gone = [program for program in PROGRAMS if shutil.which(program) is None]
    if gone:
        return f"no {', '.join(gone)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd of tests needs root, for it starts jobs of another user"


class Cluster:
    """Its folder, and its daemons by their names."""

    def __init__(self, home: Path) -> None:
        self.home, self.daemons = home, dict[str, subprocess.Popen[bytes]]()

    def start(self, name: str, *command: str) -> None:
        """A daemon in the foreground; what it writes goes to a file of its name."""
        with open(self.home / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """End a daemon at once, as a machine that loses its power does."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    def states(self, program: str, *options: str) -> list[str]:
        """What one of Slurm's programs prints, by lines; none where it fails."""
        done = subprocess.run([program, "--noheader", *options], capture_output=True, text=True)
        return done.stdout.split() if done.returncode == 0 else []

    def idle(self) -> bool:
        """Whether all nodes wait for jobs."""
        return self.states("sinfo", "--Node", "--format=%T") == ["idle"] * len(NODES)

    def logs(self) -> str:
        """The end of each daemon's log, for a failure's message."""
        return "\n".join(f"{file.name}: {file.read_text()[-2000:]}" for file in self.home.glob("*.log"))

    def end(self) -> None:
        """End the jobs, then the daemons in the opposite order of their start."""
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], capture_output=True)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@contextmanager
def running(home: Path) -> Iterator[Cluster]:
    """A cluster whose nodes are idle; ``SLURM_CONF`` names it for what is started inside.

    Snakemake's job step drops that variable, as all of Slurm's, before it calls ``srun``: a wrapper on PATH sets it.
    """
    home.mkdir(mode=0o755)
    (home / "state").mkdir()
    ports: Sequence[str] = [free_port() for _ in (*NODES, "controller")]
    nodes = [NODE.format(name=name, port=port) for name, port in zip(NODES, ports, strict=False)]
    config = home / "slurm.conf"
    config.write_text(CONFIG.format(home=home, controller=ports[-1], nodes="\n".join(nodes)))
    (home / "munge.key").write_bytes(os.urandom(1024))
    (home / "munge.key").chmod(0o400)
    (home / "bin").mkdir()
    (home / "bin" / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {shutil.which("srun")} "$@"\n')
    (home / "bin" / "srun").chmod(0o755)
    cluster = Cluster(home)
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as ends:
        patch.setenv("SLURM_CONF", str(config))
        patch.setenv("PATH", str(home / "bin"), prepend=os.pathsep)
        ends.callback(cluster.end)
        given = [f"--{option}={home / name}" for option, name in files.items()]
        cluster.start("munged", "munged", "--foreground", "--force", f"--log-file={home / 'munge.log'}", *given)
        wait_until((home / "munge.socket").exists, lambda: cluster.daemons["munged"].poll() is None, 60)
        cluster.start("slurmctld", "slurmctld", "-D", "-c", "-f", str(config))
        for name in NODES:
            cluster.start(name, "slurmd", "-D", "-N", name, "-f", str(config))
        try:
            wait_until(cluster.idle, lambda: all(one.poll() is None for one in cluster.daemons.values()), 120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{cluster.logs()}") from error
        yield cluster
