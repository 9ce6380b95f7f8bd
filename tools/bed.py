"""Which steps stand for the papers' 8 on scenes, and where guidance ends, by rules that were fixed before measuring.

Steps: of 2, 4 and 8 the most at which the undistilled sampler's paired distance is at least 1.58 times that of 50. So
much it loses in SnapFusion's Table 2: DPM-Solver's FID is 31.7 in 8 steps (read-P) and 20.1 in 25 (read-S: Adversarial
Diffusion Distillation, arXiv 2311.17042, Table 2). Guidance: the scales end at the largest w whose paired distance in
50 steps is at most 1.42 times the least over w: so much it rises on the curve of SD-1.5 in SnapFusion's Fig. 4, from
13.71 at w = 2.5 to 19.50 at 8.5, where the curve ends (inferred: digitised). A table of one scale takes the largest w
whose distance is within 5 % of the least, the tolerance of an FID: the papers' 50 steps stand at their best, too.

The paired distance is the Frechet distance of the images of captions to the renders of the same captions' scenes, by
the features of the network that reads scenes. Captions are of the validation split: no table is measured on them.

    python -m tools.bed [--captions N] [--recipe NAME]

Takes about half an hour of a core for 1,000 captions.
"""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np

from mdrepro.core.errors import BadInput
from mdrepro.data.shapes import Shapes, render
from mdrepro.evaluation import networks
from mdrepro.evaluation.scenes import features, prompts
from mdrepro.metrics.image.frechet import paired_distances_without
from mdrepro.metrics.image.statistics import Array
from mdrepro.sampling import generate
from mdrepro.training.runs import store

FULL, STEPS = 50, (2, 4, 8)
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
NOISES = (0, 1, 2)
GUIDANCE = 3.0
LOST = 31.7 / 20.1
SWEPT = 19.50 / 13.71
NEAR = 1.05


def steps_that_stand_for_eight(distances: Mapping[int, float], full: float) -> int:
    """The most steps whose distance is at least `LOST` times that of 50 steps, ``full``.

    Raises BadInput where there are none.
    """
    lossy = [steps for steps, distance in distances.items() if distance >= LOST * full]
    if not lossy:
        raise BadInput(
            f"no number of steps among {sorted(distances)} loses {LOST:.2f} times: there is nothing to distil"
        )
    return max(lossy)


def last_scale(distances: Mapping[float, float], bound: float = SWEPT) -> float:
    """The largest guidance scale whose distance is at most ``bound`` times the least."""
    return max(scale for scale, distance in distances.items() if distance <= bound * min(distances.values()))


def paired_distance(images: Array, renders: Array) -> float:
    """Frechet distance of two sets of features, (n, width) each. Errors are those of `paired_distances_without`."""
    return float(paired_distances_without(images, renders)[0])


def measure(recipe: str, count: int) -> tuple[dict[int, list[float]], dict[float, float]]:
    """Paired distances by steps, one for each of `NOISES` at `GUIDANCE`, and by guidance at 50 steps, of the first."""
    pipeline, reader = networks.pipeline(recipe), store.load_or_train("shapes-reader").load("reader")
    scenes = Shapes("validation", count).scenes(range(count))
    captions, renders = prompts(scenes), features(reader, render(scenes))

    def distance(steps: int, guidance: float, noise: int) -> float:
        images = generate.images(
            pipeline, captions, seed=noise, batch=50, steps=steps, guidance=guidance, sampler="ddim"
        )
        value = paired_distance(features(reader, images), renders)
        print(f"{steps} steps, guidance {guidance:g}, noise {noise}: {value:.3f}", flush=True)
        return value

    by_steps = {steps: [distance(steps, GUIDANCE, noise) for noise in NOISES] for steps in (*STEPS, FULL)}
    by_scale = {scale: by_steps[FULL][0] if scale == GUIDANCE else distance(FULL, scale, NOISES[0]) for scale in SCALES}
    return by_steps, by_scale


def report(by_steps: Mapping[int, Sequence[float]], by_scale: Mapping[float, float]) -> str:
    """Both tables in Markdown, and what the rules choose. Raises BadInput as `steps_that_stand_for_eight`."""
    mean = {steps: float(np.mean(values)) for steps, values in by_steps.items()}
    chosen = steps_that_stand_for_eight({steps: mean[steps] for steps in STEPS}, mean[FULL])
    least = min(by_scale.values())
    lines = [
        "| DDIM steps, w = 3 | paired distance, each noise | mean | of 50 steps' |",
        "| --- | --- | --- | --- |",
        *(
            f"| {steps} | {', '.join(f'{value:.2f}' for value in values)} | {mean[steps]:.2f} | "
            f"{mean[steps] / mean[FULL]:.2f} |"
            for steps, values in by_steps.items()
        ),
        "",
        "| guidance, 50 steps | paired distance, first noise | of the least |",
        "| --- | --- | --- |",
        *(f"| {scale:g} | {value:.2f} | {value / least:.2f} |" for scale, value in by_scale.items()),
        "",
        f"{chosen} steps stand for the papers' 8 (at least {LOST:.2f}); guidance ends at {last_scale(by_scale):g} "
        f"(at most {SWEPT:.2f}); a table of one scale takes {last_scale(by_scale, NEAR):g} (at most {NEAR:.2f}).",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print both tables and the choice."""
    parser = argparse.ArgumentParser(description="Steps and guidance on scenes that stand for the papers'.")
    parser.add_argument("--captions", type=int, default=1000, help="of the validation split (1000)")
    parser.add_argument("--recipe", default="shapes-base", help="the undistilled network (shapes-base)")
    options = parser.parse_args(arguments)
    print(report(*measure(options.recipe, options.captions)))


if __name__ == "__main__":
    main()
