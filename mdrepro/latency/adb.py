"""Android phones through the ``adb`` client: what is attached, files to it, commands on it."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.latency.records import Device

LATER = """When a phone with USB debugging is attached to a machine that has adb and benchmark_model for Android
(https://ai.google.dev/edge/litert/models/measurement):
    adb devices
    mdrepro latency MODEL.tflite --on android --tool android_aarch64_benchmark_model --accelerator cpu
    mdrepro latency MODEL.tflite --on android --tool android_aarch64_benchmark_model --accelerator gpu
Or carry everything to such a machine: mdrepro latency MODEL.tflite --bundle DIR"""
STATES = {
    "unauthorized": "it does not trust this computer yet: unlock it and accept the question about USB debugging",
    "offline": "it does not answer: unplug it and plug it in again",
    "no permissions": "this computer may not talk to it: udev rules for Android are missing",
}
REMOTE = "/data/local/tmp/mdrepro"
PROPERTIES = ("ro.product.manufacturer", "ro.product.model", "ro.build.version.release", "ro.soc.model")
TIMEOUT = 900


@dataclass(frozen=True)
class Phone:
    """An attached phone that takes commands: its serial number, and the path of the client ``adb``."""

    serial: str
    adb: str

    def call(self, *arguments: str, timeout: float = TIMEOUT) -> str:
        """Output and error of an adb command. Raises BadInput with its last line where it failed."""
        command = [self.adb, "-s", self.serial, *arguments]
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, errors="replace"
            )
        except subprocess.TimeoutExpired:
            raise BadInput(f"adb {arguments[0]} did not end within {timeout:g} s on {self.serial}") from None
        if done.returncode:
            raise BadInput(f"adb {arguments[0]} failed on {self.serial}: {_last(done.stdout)}")
        return done.stdout

    def shell(self, command: Sequence[str], timeout: float = TIMEOUT) -> str:
        """What a command on the phone prints. Raises BadInput where it fails."""
        return self.call("shell", shlex.join(command), timeout=timeout)

    def push(self, file: Path, name: str) -> str:
        """Copy a file to the phone, under a name in `REMOTE`; its path there."""
        target = f"{REMOTE}/{name}"
        self.shell(["mkdir", "-p", REMOTE])
        self.call("push", str(file), target)
        return target

    def device(self) -> Device:
        """The phone as it describes itself."""
        return described([self.shell(["getprop", name]).strip() for name in PROPERTIES], self.serial)


def described(values: Sequence[str], unnamed: str) -> Device:
    """The device of these values of `PROPERTIES`, called ``unnamed`` where they hold no name."""
    maker, model, version, chip = values
    name = model if not maker or model.lower().startswith(maker.lower()) else f"{maker} {model}"
    return Device(name=name or unnamed, system=f"Android {version}".strip(), chip=chip)


def phone(serial: str | None = None) -> Phone:
    """The phone of that serial number, or the only one.

    Raises NotAttempted where adb is not installed, or no phone is attached; the message has the commands to run later,
    and BadInput for several phones and no serial number, one of another number, or one that does not take commands.
    """
    adb = shutil.which("adb")
    if adb is None:
        raise NotAttempted(f"adb is not installed (Debian: apt install adb). {LATER}")
    listed = subprocess.run([adb, "devices"], capture_output=True, text=True, timeout=60)
    if listed.returncode:
        raise NotAttempted(f"adb does not run: {_last(listed.stdout + listed.stderr)}. {LATER}")
    attached = parse_devices(listed.stdout)
    if not attached:
        raise NotAttempted(f"no phone is attached. {LATER}")
    name = serial or next(iter(attached))
    if name not in attached:
        raise BadInput(f"no phone {serial} is attached: expected one of {', '.join(attached)}")
    if serial is None and len(attached) > 1:
        raise BadInput(f"{len(attached)} phones are attached: name one with --serial: {', '.join(attached)}")
    if (state := attached[name]) != "device":
        raise BadInput(f"phone {name} is {state}: {STATES.get(state, 'it takes no commands')}")
    return Phone(name, adb)


def parse_devices(printed: str) -> dict[str, str]:
    """State by serial number, from ``adb devices``."""
    lines = printed.partition("List of devices attached")[2].splitlines()
    rows = (line.split(maxsplit=1) for line in lines if not line.startswith("*"))
    states = {row[0]: row[1] for row in rows if len(row) == 2}
    broken = "no permissions"
    return {name: broken if state.startswith(broken) else state.split()[0] for name, state in states.items()}


def _last(printed: str) -> str:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
