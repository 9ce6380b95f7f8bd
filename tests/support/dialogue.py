"""A recorded conversation with a phone, and an ``adb`` that replays it."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

CPU = """STARTING!
Log parameter values verbosely: [0]
Min num runs: [10]
Num threads: [4]
Graph: [/data/local/tmp/mdrepro/unet.tflite]
#threads used for CPU inference: [4]
Loaded model /data/local/tmp/mdrepro/unet.tflite
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 3 iterations and at least 0.5 seconds but terminate if exceeding 600 seconds.
count=3 first=3512391 curr=3401233 min=3401233 max=3512391 avg=3.45e+06 std=1234

Running benchmark for at least 10 iterations and at least 1 seconds but terminate if exceeding 600 seconds.
count=12 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.45e+06, Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory.
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
Overall peak memory footprint (MB) via periodic monitoring: 51.2
"""
GPU = """INFO: Loaded model /data/local/tmp/mdrepro/unet.tflite
INFO: Created TensorFlow Lite delegate for GPU.
INFO: Replacing 310 out of 312 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 3 partitions for subgraph 0.
INFO: count=4 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583
INFO: count=25 first=150001 curr=141002 min=140071 max=151121 avg=143528 std=1583 p5=140545 median=141253 p95=150533
INFO: Inference timings in us: Init: 92318, First inference: 187533, Warmup (avg): 145528, Inference (avg): 143528
INFO: Memory footprint delta from the start of the tool (MB): init=54.2852 overall=73.4102
"""
REFUSED = """INFO: Created TensorFlow Lite delegate for GPU.
ERROR: Following operations are not supported by GPU delegate: GATHER_ND
The graph will not be executed by the delegate.
count=3 first=200000 curr=200000 min=200000 max=200000 avg=200000 std=0
count=10 first=200000 curr=200000 min=190000 max=210000 avg=200000 std=5
Inference timings in us: Init: 1000, First inference: 200000, Warmup (avg): 200000, Inference (avg): 200000
"""
ADB = """#!/bin/sh
# Replays what a phone said; writes down what it was asked.
echo "$@" >> {log}
[ "$1" = devices ] && {{ printf 'List of devices attached\\n{listed}\\n'; exit 0; }}
[ "$1" = -s ] && shift 2
case "$*" in
  get-state) echo device ;;
  "shell getprop ro.product.manufacturer") echo Google ;;
  "shell getprop ro.product.model") printf 'Pixel 8\\r\\n' ;;
  "shell getprop ro.build.version.release") echo 14 ;;
  "shell getprop ro.soc.model") echo Tensor G3 ;;
  push*) [ -f "$2" ] || {{ echo "adb: error: cannot stat"; exit 1; }}; echo "1 file pushed" ;;
  *--use_gpu=true*) cat {gpu}; cp {folder}/gpu.bin {folder}/output.bin 2>/dev/null || true ;;
  *--graph=*) cat {cpu}; cp {folder}/cpu.bin {folder}/output.bin 2>/dev/null || true ;;
  pull*) [ -f {folder}/output.bin ] || {{ echo "adb: error: failed to stat"; exit 1; }}; cp {folder}/output.bin "$3" ;;
  "shell rm -f"*output.bin) rm -f {folder}/output.bin ;;
  "shell mkdir"*|"shell rm"*|"shell chmod"*) ;;
  *) echo "unexpected: $*"; exit 1 ;;
esac
"""


def install(
    folder: Path,
    *,
    listed: str = "28291FDH\\tdevice",
    gpu: str = GPU,
    cpu: str = CPU,
    outputs: Mapping[str, bytes] | None = None,
) -> Path:
    """An ``adb`` in ``folder`` that replays; the file in which it writes what it was asked.

    ``outputs``: of the networks on ``cpu`` and ``gpu``; none where the tool writes none.
    """
    for accelerator, output in (outputs or {}).items():
        (folder / f"{accelerator}.bin").write_bytes(output)
    log = folder / "asked.txt"
    (folder / "gpu.txt").write_text(gpu)
    (folder / "cpu.txt").write_text(cpu)
    told = {"log": log, "listed": listed, "folder": folder, "gpu": folder / "gpu.txt", "cpu": folder / "cpu.txt"}
    (folder / "adb").write_text(ADB.format(**told))
    (folder / "adb").chmod(0o755 | stat.S_IXUSR)
    return log


def path(folder: Path) -> str:
    """PATH with the replaying ``adb`` first."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
