"""The rows of a table of quality: how the papers' YAML declares them, their images, and which runs really made these.

The YAML alone says which network makes a row. Networks are credited as objects (`mdrepro.training.runs.loaded`), not by
the names under which they are passed on: images by another network than the declared one are refused before they are
made, and `record` takes the checkpoints of a result from here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, check
from mdrepro.data.coco import DRAWN
from mdrepro.diffusion.samplers import SAMPLERS
from mdrepro.evaluation import networks
from mdrepro.evaluation.coco import Coco
from mdrepro.evaluation.coco import load as load_coco
from mdrepro.evaluation.curves import Curve
from mdrepro.evaluation.protocol import Evaluation, Scored, Setup
from mdrepro.evaluation.scenes import Scenes, Scorers
from mdrepro.metrics.image.statistics import Array
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.papers import ledger
from mdrepro.papers.schema import PUBLISHED, DeclaredSetup, Parameter, Table, Tier
from mdrepro.training.recipes import registry
from mdrepro.training.runs import loaded, store
from mdrepro.training.runs.store import Run

if TYPE_CHECKING:
    import pandas as pd

SHAPES = "shapes"
OWN = "own"


def rows_of(table: str, tier: str, **parameters: Parameter) -> "Experiment":
    """The rows of a table at a tier, with those of the notebook's parameters that the YAML's rows refer to.

    Raises BadInput for an unknown table or tier, one without declared networks, a parameter that is missing, wrong or
    of no row, or a row of the YAML with an unknown recipe, sampler or removal.
    """
    spec, known = ledger.find(table), ledger.check_tier(tier)
    if strange := sorted(set(parameters) - references(spec, known)):
        raise BadInput(f"no row of {table} at tier {tier} refers to {', '.join(strange)}")
    return Experiment(spec, known, parameters)


def references(table: Table, tier: Tier) -> set[str]:
    """The notebook's parameters that the rows of a table refer to."""
    fields = [value for row in table.networks(tier).values() for value in (row.steps, row.guidance, row.scales)]
    return {value.removeprefix("$") for value in fields if isinstance(value, str)}


class Experiment:
    """The rows of a table at a tier, and what made them, by the parameters of its notebook.

    Attributes:
        setups: how each row's images are made.
        controls: the row that a derived cell compares its row with, by ``row/column``.
        scorers: recipes of the networks that score scenes: the reader's and CLIP's.
    """

    def __init__(self, table: Table, tier: Tier, parameters: Mapping[str, Parameter]) -> None:
        if not table.networks(tier):
            raise BadInput(f"{table.id} declares no networks at tier {tier}")
        self.table, self.tier = table.id, tier
        self.setups = self.declared(parameters)
        self.controls = table.controls
        self.scorers, self.recipes = table.tiers[tier].scorers, table.recipes(tier)
        self._pipelines: dict[tuple[str, str, str], MobileDiffusionPipeline] = {}
        self._credits: dict[str, dict[str, Run]] = {}

    def declared(self, parameters: Mapping[str, Parameter]) -> dict[str, Setup]:
        """Each row's setup with these parameters of the notebook, as the YAML declares it."""
        table = ledger.find(self.table)
        return {row: _setup(table, row, one, parameters) for row, one in table.networks(self.tier).items()}

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The runs that the table rests on, by recipe; trained now where they are missing."""
        return {name: store.load_or_train(name) for name in self.recipes}

    def overview(self) -> "pd.DataFrame":
        """Where each network comes from."""
        import pandas as pd

        rows = [
            {
                "recipe": run.record["recipe"],
                "parameters (M)": round(run.record["parameters"] / 1e6, 3),
                "steps": run.record["steps"],
                "trained (min)": round(run.record["seconds"] / 60, 1),
                "commit": (run.record["commit"] or "none")[:10]
                + (" with local changes" if run.record["dirty"] else ""),
                "from": paths.relative(run.folder),
            }
            for run in self.runs.values()
        ]
        return pd.DataFrame(rows).set_index("recipe")

    def evaluation(self, name: str, images: int, *, prompts: str = DRAWN) -> Scenes | Coco:
        """What a notebook's parameter ``evaluation`` names: `SHAPES`, or a set of `mdrepro.data.coco.SETS`.

        ``images``: how many captions; of a set that has fewer, all. ``prompts``: a file of COCO captions, or `DRAWN`.
        Raises BadInput for an unknown name, more captions than there are, or scenes where the table declares no
        scorers, and NotAttempted where COCO or weights of the metrics are not on this machine.
        """
        if name != SHAPES:
            return load_coco(name, images, tier=self.tier, prompts=prompts)
        if len(self.scorers) != 2:
            raise BadInput(
                f"evaluation {SHAPES} needs scorers, and {self.table} declares none at tier {self.tier}: expected a "
                "set of COCO"
            )
        reader, clip = (self.runs[name] for name in self.scorers)
        return Scenes.load(Scorers.load(reader, clip), images)

    def pipeline(self, row: str) -> MobileDiffusionPipeline:
        """Text to image as the row declares it, loaded once."""
        setup = self.setups[row]
        key = setup.recipe, setup.decoder, setup.removed
        if key not in self._pipelines:
            self._pipelines[key] = self._load(setup)
        return self._pipelines[key]

    def _load(self, setup: Setup) -> MobileDiffusionPipeline:
        if setup.decoder:
            wanted = setup.recipe, setup.removed
            same = (p for (recipe, _, removed), p in self._pipelines.items() if (recipe, removed) == wanted)
            whole = next(same, None) or self._load(replace(setup, decoder=""))
            return type(whole)(**whole.components | {"vae": self.runs[setup.decoder].load("vae")})
        run = self.runs.get(setup.recipe)
        pipeline = networks.pipeline(PUBLISHED if run is None else run.recipe.name)
        if setup.removed:
            pipeline.unet.replay(f"remove {name}" for name in networks.REMOVALS[setup.removed](pipeline.unet.layout))
        return pipeline

    def images(self, row: str, scored: Evaluation[Scored], *, seed: int, guidance: float | None = None) -> Scored:
        """Images of the captions as the row declares them, or with another w, scored.

        Raises BadInput where a network is not of the run that the row declares.
        """
        setup = self.setups[row]
        if guidance is not None:
            setup = replace(setup, guidance=guidance)
        return scored.images(self._credited(row, scored), setup, seed)

    def features(self, row: str, scored: Evaluation[Scored], *, seed: int) -> Array:
        """Features of such images, (n, width); errors as for `images`."""
        return scored.features(self._credited(row, scored), self.setups[row], seed)

    def measure(self, scored: Evaluation[Scored], *, seed: int, timed: bool = True) -> dict[str, Scored]:
        """Images of all rows from the same noise, and the reference images, by row; errors as for `images`.

        A row with guidance scales has the images of the scale of the lowest distance. Without ``timed`` how long each
        row's images took is not kept.
        """
        measured: dict[str, Scored] = {}
        for row, setup in self.setups.items():
            points = [self.images(row, scored, seed=seed, guidance=w) for w in setup.scales or (setup.guidance,)]
            images = min(points, key=scored.distance) if setup.scales else points[0]
            print(f"{row}: {images.seconds or 0:.0f} s for {len(scored.captions)} images", flush=True)
            measured[row] = images if timed else images.untimed()
        return measured | dict(scored.best())

    def decoded(self, scored: Evaluation[Scored], *, seed: int, guidance: float) -> dict[str, Scored]:
        """Images of all rows from the same latents.

        Raises BadInput where the rows differ in more than their decoder, or as `images`.
        """
        setups = {row: replace(setup, guidance=guidance) for row, setup in self.setups.items()}
        if len({replace(setup, decoder="") for setup in setups.values()}) > 1:
            raise BadInput(
                f"{self.table}: rows {', '.join(setups)} share latents: expected to differ in their decoder alone"
            )
        pipelines = {row: self._credited(row, scored) for row in self.setups}
        return scored.decoded(pipelines, setups, seed) | dict(scored.best())

    def curves(
        self, scored: Evaluation[Scored], *, seed: int, rows: Iterable[str] | None = None
    ) -> dict[str, Curve[Scored]]:
        """Curves over guidance of several rows (None: all that are declared as curves), from the same noise.

        Rows of equal setups share one curve. Errors are those of `images` and of `Curve`.
        """
        traced: dict[Setup, Curve[Scored]] = {}
        by_row: dict[str, Curve[Scored]] = {}
        for row in [row for row, setup in self.setups.items() if setup.scales] if rows is None else rows:
            setup = self.setups[row]
            self._credited(row, scored)
            if setup not in traced:
                points = [self.images(row, scored, seed=seed, guidance=scale) for scale in setup.scales]
                spent = sum(point.seconds or 0.0 for point in points)
                images = f"{len(points)} x {len(scored.captions)} images"
                print(f"{setup.recipe}, {setup.steps} steps: {spent:.0f} s for {images}", flush=True)
                traced[setup] = Curve(f"{setup.model}, seed {seed}", setup.scales, tuple(points))
            by_row[row] = traced[setup]
        return by_row

    def point(self, row: str, traced: Mapping[str, Curve[Scored]], scored: Evaluation[Scored], *, seed: int) -> Scored:
        """Images of a row: the point of a curve of the same network, steps and sampler, or else made now.

        Curves are by row, of the captions of ``scored`` and the same noise. Raises BadInput where the row's guidance is
        no scale of that curve, or as `images`.
        """
        setup = replace(self.setups[row], scales=())
        for other, curve in traced.items():
            if replace(self.setups[other], scales=(), guidance=setup.guidance) == setup:
                self._credited(row, scored)
                return curve.point(setup.guidance)
        return self.images(row, scored, seed=seed)

    def _credited(self, row: str, scored: Evaluation[Scored]) -> MobileDiffusionPipeline:
        """The row's pipeline, after noting which runs its networks and the scorers were loaded from."""
        pipeline, setup = self.pipeline(row), self.setups[row]
        credit = loaded.runs_of(pipeline.components)
        self._require(row, "denoiser", credit.get("unet"), setup.recipe)
        if setup.decoder:
            self._require(row, "decoder", credit.get("vae"), setup.decoder)
        for (name, network), recipe in zip(scored.networks.items(), self.scorers, strict=False):
            self._require(row, f"scorer ({name})", run := loaded.run_of(network), recipe)
            if run is not None:
                credit[name] = run
        self._credits[row] = credit
        return pipeline

    def _require(self, row: str, part: str, run: Run | None, recipe: str) -> None:
        actual = PUBLISHED if run is None else f"{run.record['recipe']} ({run.record['key']})"
        expected = PUBLISHED if recipe == PUBLISHED else f"{recipe} ({store.key(registry.get(recipe))})"
        if actual != expected:
            raise BadInput(
                f"{self.table}, row {row} at tier {self.tier}: its {part} is of {actual}: expected {expected}, as "
                "mdrepro/papers declares"
            )

    def credits(
        self, measured: Collection[str], parameters: Mapping[str, Parameter]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
        """What made the rows with a number: how and by which runs, by row, and the records of all these runs by recipe.

        Raises BadInput where a row is not made as the YAML declares it with these parameters, or no images of it were.
        """
        if self.setups != self.declared(parameters):
            raise BadInput(f"{self.table}: its rows were not made with the notebook's parameters as they are now")
        declared = [row for row in self.setups if row in measured]
        if lacking := [row for row in declared if row not in self._credits]:
            raise BadInput(f"{self.table}: row {lacking[0]} has a number, and no images of it were made")
        runs = {run.recipe.name: run for row in declared for run in self._credits[row].values()}
        rows = {}
        for row in declared:
            fields = {name: value for name, value in vars(self.setups[row]).items() if value not in ("", ())}
            keys = {run.recipe.name: run.record["key"] for run in self._credits[row].values()}
            rows[row] = fields | {"network": self.setups[row].network, "keys": keys}
        return rows, {name: run.file for name, run in sorted(runs.items())}


def _setup(table: Table, row: str, declared: DeclaredSetup, parameters: Mapping[str, Parameter]) -> Setup:
    def value(declaration: float | str | tuple[str, ...]) -> Any:
        if not isinstance(declaration, str):
            return declaration
        if (name := declaration.removeprefix("$")) not in parameters:
            raise BadInput(f"{table.id}: row {row} needs the notebook's parameter {name}")
        return parameters[name]

    for recipe in declared.recipes:
        registry.get(recipe)
    named = {"sampler": (declared.sampler, [*SAMPLERS, OWN]), "removal": (declared.removed, networks.REMOVALS)}
    for kind, (name, choices) in named.items():
        check(f"{kind} of {table.id}, row {row}", name, choices)
    return Setup(
        recipe=declared.recipe,
        steps=int(value(declared.steps)),
        sampler=None if declared.sampler == OWN else declared.sampler,
        guidance=float(value(declared.guidance)),
        scales=guidance_scales(value(declared.scales)) if declared.scales else (),
        decoder=declared.decoder or "",
        removed=declared.removed,
    )


def guidance_scales(texts: Sequence[str]) -> tuple[float, ...]:
    """Guidance scales from a notebook's parameter. Raises BadInput for what is no number from 1."""
    try:
        scales = tuple(map(float, texts))
    except ValueError:
        scales = (0.0,)
    if not all(1 <= scale < float("inf") for scale in scales):
        raise BadInput(f"scales {', '.join(texts)}: must be numbers from 1 (no guidance)")
    return scales


def no_recipe(tier: str) -> str:
    """Why a row is left out."""
    return f"mdrepro train has no recipe of its network at tier {tier}"
