"""``mdrepro cost``: a thin call into `mdrepro.metrics.cost`."""

from typing import Annotated

import typer

from mdrepro.cli.options import Json, network_names, print_json, system_names
from mdrepro.core.errors import BadInput


def cost(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", autocompletion=network_names, help="Published networks, by preset name."),
    ] = None,
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            metavar="SYSTEM",
            autocompletion=system_names,
            help="A whole system in place of networks; repeatable.",
        ),
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="Image side in pixels; the preset's own by default.")] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also every counter's count, blocks and peak activation memory (slower).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Parameters, MACs and FLOPs of full-size networks, or of one image by a whole system."""
    from mdrepro.metrics.cost import measure as costs
    from mdrepro.metrics.cost.systems import measure_system
    from mdrepro.models import presets
    from mdrepro.models import systems as known
    from mdrepro.reproduce import formatting

    if bool(models) == bool(systems):
        choices = f"networks ({', '.join(presets.names())}) or --system with one of {', '.join(known.whole())}"
        raise BadInput(f"name either {choices}")
    if systems and (resolution is not None or details):
        raise BadInput("--resolution and --details are of networks, not of systems: leave them out")
    checked = [presets.get(model).name for model in models or []]
    if systems:
        schedules = [each for name in systems for each in measure_system(name)]
        plain = [each.as_dict() for each in schedules]
        text = "\n\n".join(map(formatting.system_cost, schedules))
    elif details:
        every = [costs.details(model, resolution) for model in checked]
        plain = [each.as_dict() for each in every]
        text = formatting.costs([each.cost for each in every]) + "\n\n" + formatting.cost_details(every)
    else:
        counted = [costs.calculate(model, resolution) for model in checked]
        plain = [each.as_dict() for each in counted]
        text = formatting.costs(counted)
    if as_json:
        print_json(plain)
    else:
        print(text)
