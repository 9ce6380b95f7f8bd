"""Ends a process when the ``mdrepro reproduce`` that started it is gone, even if that was killed with -9."""

import json
import os
import socket
import threading
import time

import psutil

LEADER = "MDREPRO_LEADER"
SECONDS = 0.3
CLOCK_SECONDS = 3600


def lead() -> dict[str, str]:
    """The environment variable that makes children follow this process."""
    me = psutil.Process()
    return {LEADER: json.dumps({"host": socket.gethostname(), "pid": me.pid, "created": me.create_time()})}


def _alive(leader: dict[str, float]) -> bool:
    """Whether the leader runs: a process of its number that started when it did (give or take a stepped clock)."""
    try:
        process = psutil.Process(int(leader["pid"]))
        same = abs(process.create_time() - leader["created"]) < CLOCK_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def follow() -> None:
    """Watch the leader from a thread; when it is gone, kill this process and all its children.

    Does nothing without a leader, or on another machine than the leader's (a cluster's scheduler looks after those).
    """
    leader = json.loads(os.environ.get(LEADER, "{}"))
    if not leader or leader["host"] != socket.gethostname():
        return

    def watch() -> None:
        while _alive(leader):
            time.sleep(SECONDS)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watchdog").start()
