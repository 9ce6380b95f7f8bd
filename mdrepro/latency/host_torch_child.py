"""The process in which `mdrepro.latency.host_torch` runs a network in torch."""

from typing import Any

from mdrepro.latency import host_child


def prepare(asked: dict[str, Any]) -> tuple[host_child.Run, str]:
    """A component of a model in torch, eager or compiled, with the inputs that its exported file is compared on."""
    import torch

    from mdrepro.export import components

    torch.set_num_threads(asked["threads"])
    component = components.find(asked["model"], asked["resolution"]).component(asked["component"], asked["branches"])
    inputs, module = component.draw(0), component.module
    if asked["compiled"]:
        module = torch.compile(module)  # type: ignore[assignment]

    def run() -> object:
        with torch.inference_mode():
            return module(**inputs)

    return run, f"torch {torch.__version__}, {'torch.compile' if asked['compiled'] else 'eager'}"


if __name__ == "__main__":
    host_child.cli(prepare)
