"""The process in which `mdrepro.latency.host_torch` runs a network in torch."""

from typing import Any

from mdrepro.latency import host_child


def prepare(request: dict[str, Any]) -> tuple[host_child.Run, str]:
    """A component of a model in torch, eager or compiled, with the inputs that its exported file is compared on."""
    import torch

    from mdrepro.export import components

    torch.set_num_threads(request["threads"])
    component = components.find(request["model"], request["resolution"]).component(
        request["component"], request["branches"]
    )
    inputs, module = component.draw(0), component.module
    if request["compiled"]:
        module = torch.compile(module)  # type: ignore[assignment]

    def run() -> object:
        with torch.inference_mode():
            return module(**inputs)

    return run, f"torch {torch.__version__}, {'torch.compile' if request['compiled'] else 'eager'}"


if __name__ == "__main__":
    host_child.cli(prepare)
