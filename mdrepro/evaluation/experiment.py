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
from mdrepro.evaluation import estimators, networks
from mdrepro.evaluation.coco import Coco
from mdrepro.evaluation.coco import load as load_coco
from mdrepro.evaluation.curves import Curve
from mdrepro.evaluation.protocol import Evaluation, Replicas, Scored, Setup
from mdrepro.evaluation.scenes import Scenes, Scorers
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


def rows_of(table: str, tier: str, seeds: int | None = None, **parameters: Parameter) -> "Experiment":
    """The rows of a table at a tier, with those of the notebook's parameters that the YAML's rows refer to.

    ``seeds``: by how many training seeds each row is measured; None: as the tier declares.

    Raises BadInput for an unknown table or tier, one without declared networks, a parameter that is missing, wrong or
    of no row, or a row of the YAML with an unknown recipe, sampler or removal.
    """
    spec, known = ledger.find(table), ledger.check_tier(tier)
    if strange := sorted(set(parameters) - references(spec, known)):
        raise BadInput(f"no row of {table} at tier {tier} refers to {', '.join(strange)}")
    return Experiment(spec, known, parameters, seeds)


def references(table: Table, tier: Tier) -> set[str]:
    """The notebook's parameters that the rows of a table refer to."""
    fields = [value for row in table.networks(tier).values() for value in (row.steps, row.guidance, row.scales)]
    return {value.removeprefix("$") for value in fields if isinstance(value, str)}


class Experiment:
    """The rows of a table at a tier, and what made them, by the parameters of its notebook.

    Attributes:
        setups: how each row's images are made, by the recipe's own training seed.
        seeds: by how many training seeds a row is measured that does not declare fewer.
        controls: the row that a derived cell compares its row with, by ``row/column``.
        scorers: recipes of the networks that score scenes: the reader's and CLIP's.
    """

    def __init__(self, table: Table, tier: Tier, parameters: Mapping[str, Parameter], seeds: int | None = None) -> None:
        if not table.networks(tier):
            raise BadInput(f"{table.id} declares no networks at tier {tier}")
        self.table, self.tier = table.id, tier
        self.seeds = table.tiers[tier].seeds if seeds is None else seeds
        self.setups = self.declared(parameters)
        self._denoisers = {row: one.denoisers(self.seeds) for row, one in table.networks(tier).items()}
        self.controls = table.controls
        self.scorers, self.recipes = table.tiers[tier].scorers, table.recipes(tier, self.seeds)
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

    def replicas(self, row: str) -> tuple[Setup, ...]:
        """How a row's images are made, by each training seed."""
        own, *others = self.setups[row], *self._denoisers[row][1:]
        return own, *(replace(own, recipe=recipe) for recipe in others)

    def pipeline(self, row: str, replica: int = 0) -> MobileDiffusionPipeline:
        """Text to image as the row declares it, by one of its training seeds; loaded once."""
        setup = self.replicas(row)[replica] if replica else self.setups[row]
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

    def images(
        self, row: str, scored: Evaluation[Scored], *, seed: int, guidance: float | None = None
    ) -> Replicas[Scored]:
        """Images of the captions as the row declares them, or with another w, scored; of each training seed.

        Raises BadInput where a network is not of the run that the row declares.
        """
        setups = [setup if guidance is None else replace(setup, guidance=guidance) for setup in self.replicas(row)]
        pipelines = self._all_credited(row, scored)
        return tuple(scored.images(*each, seed) for each in zip(pipelines, setups, strict=True))

    def measure(self, scored: Evaluation[Scored], *, seed: int, timed: bool = True) -> dict[str, Replicas[Scored]]:
        """Images of all rows from the same noise, and the reference images, by row; errors as for `images`.

        A row with guidance scales has the images of the scale of the lowest distance. Without ``timed`` how long each
        row's images took is not kept.
        """
        measured: dict[str, Replicas[Scored]] = {}
        for row, setup in self.setups.items():
            points = [self.images(row, scored, seed=seed, guidance=w) for w in setup.scales or (setup.guidance,)]
            replicas = points[0]
            if setup.scales:
                distance = scored.measures[scored.distance]
                replicas = min(points, key=lambda point: estimators.estimate(distance, point).value)
            spent = sum(images.seconds or 0 for images in replicas)
            print(f"{row}: {spent:.0f} s for {len(replicas)} x {len(scored.captions)} images", flush=True)
            measured[row] = replicas if timed else tuple(images.untimed() for images in replicas)
        return measured | self.references(scored)

    def references(self, scored: Evaluation[Scored]) -> dict[str, Replicas[Scored]]:
        """Images that no denoiser makes, by row: the autoencoder is the one that the first row's network comes with."""
        found = scored.references(self.pipeline(next(iter(self.setups))).vae)
        return {row: (images,) for row, images in found.items()}

    def decoded(self, scored: Evaluation[Scored], *, seed: int, guidance: float) -> dict[str, Replicas[Scored]]:
        """Images of all rows from the same latents, of each training seed of the network that makes these.

        Raises BadInput where the rows differ in more than their decoder, or as `images`.
        """
        setups = {row: replace(setup, guidance=guidance) for row, setup in self.setups.items()}
        if len({replace(setup, decoder="") for setup in setups.values()}) > 1:
            raise BadInput(
                f"{self.table}: rows {', '.join(setups)} share latents: expected to differ in their decoder alone"
            )
        by_replica = []
        for number in range(min(len(self.replicas(row)) for row in self.setups)):
            pipelines = {row: self._credited(row, scored, number) for row in self.setups}
            named = {row: replace(self.replicas(row)[number], guidance=guidance) for row in self.setups}
            by_replica.append(scored.decoded(pipelines, named, seed))
        return {row: tuple(one[row] for one in by_replica) for row in self.setups} | self.references(scored)

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
            self._all_credited(row, scored)
            if setup not in traced:
                points = [self.images(row, scored, seed=seed, guidance=scale) for scale in setup.scales]
                spent = sum(images.seconds or 0.0 for point in points for images in point)
                images = f"{len(points)} x {len(points[0])} x {len(scored.captions)} images"
                print(f"{setup.recipe}, {setup.steps} steps: {spent:.0f} s for {images}", flush=True)
                traced[setup] = Curve(f"{setup.model}, seed {seed}", setup.scales, tuple(points))
            by_row[row] = traced[setup]
        return by_row

    def point(
        self, row: str, traced: Mapping[str, Curve[Scored]], scored: Evaluation[Scored], *, seed: int
    ) -> Replicas[Scored]:
        """Images of a row: the point of a curve of the same network, steps and sampler, or else made now.

        Curves are by row, of the captions of ``scored`` and the same noise. Raises BadInput where the row's guidance is
        no scale of that curve, or as `images`.
        """
        setup = replace(self.setups[row], scales=())
        for other, curve in traced.items():
            if replace(self.setups[other], scales=(), guidance=setup.guidance) == setup:
                self._all_credited(row, scored)
                return curve.point(setup.guidance)
        return self.images(row, scored, seed=seed)

    def _all_credited(self, row: str, scored: Evaluation[Scored]) -> list[MobileDiffusionPipeline]:
        """The row's pipelines, one of each training seed; see `_credited`."""
        return [self._credited(row, scored, number) for number in range(len(self.replicas(row)))]

    def _credited(self, row: str, scored: Evaluation[Scored], replica: int = 0) -> MobileDiffusionPipeline:
        """The row's pipeline, after noting which runs its networks and the scorers were loaded from."""
        pipeline, setup = self.pipeline(row, replica), self.replicas(row)[replica]
        credit = loaded.runs_of(pipeline.components)
        self._require(row, "denoiser", credit.get("unet"), setup.recipe)
        if setup.decoder:
            self._require(row, "decoder", credit.get("vae"), setup.decoder)
        for (name, network), recipe in zip(scored.networks.items(), self.scorers, strict=False):
            self._require(row, f"scorer ({name})", run := loaded.run_of(network), recipe)
            if run is not None:
                credit[name] = run
        self._credits.setdefault(row, {}).update({run.recipe.name: run for run in credit.values()})
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
        if self.setups != self.declared(parameters) or self.seeds != parameters.get("seeds", self.seeds):
            raise BadInput(f"{self.table}: its rows were not made with the notebook's parameters as they are now")
        declared = [row for row in self.setups if row in measured]
        for row in declared:
            made = {PUBLISHED, *self._credits.get(row, {})}
            if lacking := [setup.recipe for setup in self.replicas(row) if setup.recipe not in made]:
                raise BadInput(f"{self.table}: row {row} has a number, and no images of it by {lacking[0]} were made")
        runs = {name: run for row in declared for name, run in self._credits[row].items()}
        rows = {}
        for row in declared:
            fields = {name: value for name, value in vars(self.setups[row]).items() if value not in ("", ())}
            keys = {name: run.record["key"] for name, run in self._credits[row].items()}
            rows[row] = fields | {"network": self.setups[row].network, "seeds": len(self.replicas(row)), "keys": keys}
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
