"""A Slurm of one node on this machine, of the programs that Debian's slurm-wlm and munge install.

Nothing of the machine's own Slurm is read or written, nothing listens beyond 127.0.0.1, and no
rights are needed. By itself it runs until Ctrl-C and says how to speak to it:

    python tests/study/slurm_cluster.py [FOLDER]
"""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_START_SECONDS = 30

_SLURM_CONF = """\
ClusterName=ossa
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A job that was requeued waits until the credentials of its last start have expired.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
# No control groups, which a container may not have.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=30
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=2
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 MaxTime=INFINITE
PartitionName=urgent Nodes=ALL PriorityTier=2 MaxTime=INFINITE
"""


def missing_programs() -> list[str]:
    """Returns what is not installed of what a cluster needs."""
    return [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Path]:
    """Starts a cluster of two processors in an empty folder and yields its slurm.conf.

    Slurm's commands find the cluster by $SLURM_CONF. A job of the partition `urgent` pre-empts
    those of `main`.
    """
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    munge = folder / "munge"
    munge.chmod(0o711)
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o400)
    controller_port, node_port = _free_ports()
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _SLURM_CONF.format(
            folder=folder,
            user=getpass.getuser(),
            controller_port=controller_port,
            node_port=node_port,
        )
    )
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
    places = [f"--{option}={munge / name}" for option, name in files.items()]
    environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(configuration)}
    with ExitStack() as daemons:

        def start(*command: str) -> None:
            daemons.enter_context(_daemon(command, folder / f"{command[0]}.log", environment))

        start("munged", "--foreground", "--force", f"--log-file={munge / 'log'}", *places)
        _wait_until(lambda: (munge / "socket").exists(), "munged has no socket")
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", "localhost")
        _wait_until(lambda: _is_idle(environment), f"no idle node: see the logs in {folder}")
        try:
            yield configuration
        finally:
            everything = ["scancel", "--user", getpass.getuser()]
            subprocess.run(everything, env=environment, check=False, capture_output=True)


@contextmanager
def _daemon(command: tuple[str, ...], log: Path, environment: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as file:
        # By its path: Popen looks for programs in the PATH of this process.
        program = shutil.which(command[0], path=_PATH)
        process = subprocess.Popen(
            [str(program), *command[1:]], stdout=file, stderr=file, env=environment
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for bound in (first, second):
            bound.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _is_idle(environment: dict[str, str]) -> bool:
    answer = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return "idle" in answer.stdout


def _wait_until(happened: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.1)


def main() -> None:
    """Starts a cluster and waits for Ctrl-C."""
    missing = missing_programs()
    if missing:
        sys.exit(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="slurm-"))
    with slurm_cluster(folder.resolve()) as configuration:
        print(f"export SLURM_CONF={configuration}", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
