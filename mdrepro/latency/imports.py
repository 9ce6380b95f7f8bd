"""Latencies that others measured, as records marked as imported, with their file's hash.

| kind | file |
| --- | --- |
| benchmark-model | what LiteRT's ``benchmark_model`` printed, one record a run |
| ai-hub | Qualcomm AI Hub's profile (``job.download_profile()`` as JSON); times in microseconds, memory in bytes |
| mlperf-mobile | a result of the MLPerf Mobile app, one record a benchmark; throughput of a single stream |
| xcode | a form (YAML or JSON) with what Xcode's performance report shows: its own file has no published format |
"""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mdrepro.core.errors import BadInput, check
from mdrepro.core.files import sha256
from mdrepro.core.reading import checked, parse_json, parse_yaml, read_text
from mdrepro.latency import benchmark_model
from mdrepro.latency.records import Record, record

Fields = Mapping[str, Any]
XCODE = ("model", "device", "prediction_ms")
"""Fields that the form of an Xcode report must have. The rest: component, system, chip, load_ms, compute_units (in the
words of the report), neural_engine, gpu, cpu (operations on each), precision, resolution, runs, date."""


def read(kind: str, file: Path, about: Fields) -> list[Record]:
    """The records of a report.

    ``kind``: a row of the table above. ``about``: fields of `Record` that the report lacks, such as ``model``,
    ``component`` and ``device``. Raises BadInput for an unknown kind, a file that is no such report, or fields that are
    missing.
    """
    check("kind of report", kind, KINDS)
    content = read_text(file)
    try:
        parsed = KINDS[kind](content)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from error
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise BadInput(f"{file}: no {kind} report ({type(error).__name__}: {error})") from error
    if not parsed:
        raise BadInput(f"{file}: no {kind} report with a time")
    given = {name: value for name, value in about.items() if value not in (None, "")}
    fixed = {"origin": "imported", "source": f"{kind}: {file.name}, SHA-256 {sha256(file)}"}
    return [record({**one, **given, **fixed}, f"{file}: record {n}") for n, one in enumerate(parsed, start=1)]


def _benchmark_model(content: str) -> list[Fields]:
    reports = benchmark_model.reports(content)
    parsed: list[Fields] = []
    for number, report in enumerate(reports, 1):
        fields = {name: getattr(report, name) for name in ("times", "memory_mb", "accelerator", "delegated", "notes")}
        if len(reports) > 1:
            fields["notes"] = (*report.notes, f"run {number} of {len(reports)} in the file, of {report.graph or '?'}")
        parsed.append(fields | {"runtime": "LiteRT benchmark_model"})
    return parsed


def _ai_hub(content: str) -> list[Fields]:
    report = parse_json(content, "the profile", dict[str, Any])
    summary, detail = report["execution_summary"], report.get("execution_detail", [])
    runs = [value / 1000 for value in checked(summary.get("all_inference_times", []), list[float], "its times")]
    times: dict[str, Any] = {"runs": len(runs) or 1}
    if runs:
        low, high = np.percentile(runs, [10, 90]).tolist()
        times |= {"mean_ms": statistics.fmean(runs), "median_ms": statistics.median(runs), "min_ms": min(runs)}
        times |= {"max_ms": max(runs), "p10_ms": low, "p90_ms": high}
    else:
        times["mean_ms"] = checked(summary["estimated_inference_time"], float, "its time") / 1000
    if warm := checked(summary.get("warm_load_time"), float | None, "its load time"):
        times["load_ms"] = warm / 1000
    peak = checked(summary.get("estimated_inference_peak_memory"), float | None, "its memory")
    units = Counter(checked(one.get("compute_unit", "unknown"), str, "its compute units") for one in detail)
    return [
        {
            "runtime": "Qualcomm AI Hub",
            "accelerator": ", ".join(f"{unit} ({count})" for unit, count in units.most_common()) or "not told",
            "times": times,
            "memory_mb": peak / 1e6 if peak else None,
            "delegated": _off_cpu(units, "CPU"),
            "notes": () if runs else ("the profile has an estimate alone, not its runs",),
        }
    ]


def _off_cpu(counts: Mapping[str, int], cpu: str) -> tuple[int, int] | None:
    """Operations that ran elsewhere, and all; None where nothing is known of any."""
    whole = sum(counts.values())
    return (whole - counts.get(cpu, 0), whole) if counts else None


def _mlperf(content: str) -> list[Fields]:
    report = parse_json(content, "the result", dict[str, Any])
    info, version = report["environment_info"], report["build_info"]["version"]
    system = info["value"][info["platform"]]
    device = {
        "name": system.get("model_name") or system.get("model_code") or system.get("cpu_full_name"),
        "system": f"{info['platform']} {system.get('os_version', '')}".strip(),
        "chip": system.get("soc_name") or system.get("proc_cpuinfo_soc_name") or "",
    }
    parsed: list[Fields] = []
    for result in report["results"]:
        run = result.get("performance_run")
        if not run or result["loadgen_scenario"] != "SingleStream":
            continue
        rate, backend = run["throughput"], result["backend_info"]
        rate = checked(rate["value"] if isinstance(rate, dict) else rate, float, "its throughput")
        if rate <= 0:
            raise BadInput(f"its throughput is {rate:g}: expected more than 0 samples a second")
        valid = run.get("loadgen_info", {}).get("validity", True)
        parsed.append(
            {
                "model": result["benchmark_id"],
                "component": "image" if "diffusion" in result["benchmark_id"] else "other",
                "device": device,
                "runtime": f"MLPerf Mobile {version}, {result['backend_settings']['framework']}",
                "accelerator": backend.get("accelerator_name") or "not told",
                "times": {"runs": checked(run["measured_samples"], int, "its samples"), "mean_ms": 1000 / rate},
                "date": checked(run["start_datetime"], str, "its date")[:10],
                "notes": () if valid else ("the app marks this run as not valid",),
            }
        )
    return parsed


def _xcode(content: str) -> list[Fields]:
    report = parse_yaml(content, "the form")
    if not isinstance(report, dict):
        raise BadInput(f"a form with {', '.join(XCODE)} is needed")
    if missing := [name for name in XCODE if name not in report]:
        raise BadInput(f"the form lacks {', '.join(missing)}")
    counts = {unit: report.get(unit) for unit in ("neural_engine", "gpu", "cpu")}
    placed = {unit: checked(count, int, f"the form, {unit}") for unit, count in counts.items() if count is not None}
    optional = {name: report[name] for name in ("component", "precision", "resolution", "date") if name in report}
    load = {"load_ms": report["load_ms"]} if "load_ms" in report else {}
    return [
        {
            "component": "other",
            **{name: str(value) if name == "date" else value for name, value in optional.items()},
            "model": report["model"],
            "device": {
                "name": report["device"],
                "system": str(report.get("system", "")),
                "chip": report.get("chip", ""),
            },
            "runtime": "Core ML, Xcode performance report",
            "accelerator": report.get("compute_units", "not told"),
            "times": {"runs": report.get("runs", 1), "median_ms": report["prediction_ms"], **load},
            "delegated": _off_cpu(placed, "cpu"),
            "notes": () if "runs" in report else ("copied by hand; the number of runs is not told",),
        }
    ]


KINDS: Mapping[str, Callable[[str], list[Fields]]] = {
    "benchmark-model": _benchmark_model,
    "ai-hub": _ai_hub,
    "mlperf-mobile": _mlperf,
    "xcode": _xcode,
}
"""Kinds of report, and what reads each."""
