"""Which recipes have to be trained before others can be used, in dependency order."""

from collections.abc import Sequence


def missing(names: Sequence[str], *, locally: bool = False) -> list[str]:
    """The recipes to train so that ``names`` can be used, parents before children.

    A recipe that is finished needs no parents but those that its pipeline loads (autoencoder and text encoder).
    ``locally`` trains ``names`` (not their parents) unless this machine has trained them, published or not. Raises
    BadInput for an unknown name, NotAttempted where the data of one of them is not on this machine.
    """
    from mdrepro.training.recipes import registry
    from mdrepro.training.runs import store

    finished: dict[str, bool] = {}
    order: list[str] = []

    def visit(name: str) -> None:
        if name in finished:
            return
        row, run = registry.get(name), store.find(name)
        finished[name] = run is not None and (run.local or not locally or name not in names)
        for role, parent in row.parent_names.items():
            if not finished[name] or role in ("vae", "text"):
                visit(parent)
        if not finished[name]:
            order.append(name)

    for name in names:
        visit(name)
    return order
