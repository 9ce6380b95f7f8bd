"""Two processes on this machine, by the launchers that users have."""

import socket

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node=2", "--master-port"],
    "accelerate launch --use_fsdp": [
        *("accelerate.commands.launch", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"),
        *("--dynamo_backend=no", "--use_fsdp", "--fsdp_version=2", "--main_process_port"),
    ],
}


def free_port() -> str:
    """Of this machine, at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
