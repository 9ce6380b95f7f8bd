"""Recipes trained through the workflow, and the job that trains one of them on one thread, its name before each line.

``python -m mdrepro.reproduce.workflow.training RECIPE [--from-scratch]`` is the job.
"""

import sys
from collections.abc import Sequence

from mdrepro.core.console import Prefixed
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.paths import relative
from mdrepro.core.watchdog import follow
from mdrepro.reproduce.workflow import execute, plan
from mdrepro.training.runs.scratch import ignore_published


def train(names: Sequence[str], *, cores: int, locally: bool = False, extra: Sequence[str] = ()) -> dict[str, str]:
    """Train what is missing of these recipes and of their parents, side by side, parents first.

    ``names``, ``locally``: as of `plan.checkpoints`. ``cores``, ``extra``: for Snakemake: how many run at once, one
    thread each, and further options.

    Returns the recipes that failed or were not started because a parent failed, each with the reason.

    Raises BadInput: an unknown name, data that is not on this machine, another run, or options that Snakemake refuses.
    """
    try:
        due = plan.checkpoints(names, locally=locally)
    except NotAttempted as error:
        raise BadInput(str(error)) from error
    print(f"{len(due)} to train: {', '.join(each.recipe for each in due)}" if due else "nothing to train", flush=True)
    if not due:
        return {}
    started, message = execute.call(due, cores=cores, extra=extra, stream=sys.stdout)
    failed: dict[str, str] = {}
    missing = {each.recipe for each in plan.checkpoints(names, locally=locally)}
    for each in due:
        if lost := [name for name in each.parents if name in failed]:
            failed[each.recipe] = f"not started: {lost[0]} failed"
        elif each.recipe in missing:
            failed[each.recipe] = f"failed; whole log: {relative(execute.log(each.tier))}"
    if failed and not started:
        raise BadInput(message)
    return failed


def main(arguments: Sequence[str]) -> int:
    """The job; the exit code is 0, or 1 for a training that failed."""
    follow()
    name, *options = arguments
    sys.stdout = sys.stderr = Prefixed(name, sys.stderr)
    if "--from-scratch" in options:
        ignore_published()
    from mdrepro.training.runs import commands

    try:
        commands.train(name, [])
    except (BadInput, NotAttempted, FloatingPointError) as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
