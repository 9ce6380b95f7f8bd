"""A latency record, and what AI Hub and the MLPerf Mobile app report."""

from typing import Any

PLAIN: dict[str, Any] = {
    "origin": "measured",
    "model": "mobilediffusion",
    "component": "unet",
    "device": {"name": "a phone"},
    "runtime": "LiteRT",
    "accelerator": "CPU",
    "times": {"runs": 10, "median_ms": 5.0},
    "source": "a test",
}
ABOUT = {"model": "unet", "component": "unet", "device": {"name": "a phone"}}
AI_HUB = {
    "execution_summary": {
        "estimated_inference_time": 189000,
        "all_inference_times": [190000, 189000, 195000, 191000],
        "estimated_inference_peak_memory": 250_000_000,
        "warm_load_time": 1_200_000,
    },
    "execution_detail": [{"compute_unit": "NPU"}] * 7 + [{"compute_unit": "CPU"}],
}
MLPERF = {
    "environment_info": {
        "platform": "android",
        "value": {"android": {"os_version": "14", "model_name": "Galaxy S24", "soc_name": "SM8650"}},
    },
    "build_info": {"version": "5.0"},
    "results": [
        {
            "benchmark_id": "stable_diffusion",
            "loadgen_scenario": "SingleStream",
            "backend_settings": {"framework": "QNN"},
            "backend_info": {"accelerator_name": "NPU"},
            "performance_run": {
                "throughput": {"value": 0.25, "unit": "samples/s"},
                "measured_samples": 8,
                "start_datetime": "2024-12-26T16:02:35.528656",
                "loadgen_info": {"validity": False},
            },
        },
        {
            "benchmark_id": "image_classification_offline",
            "loadgen_scenario": "Offline",
            "backend_settings": {"framework": "QNN"},
            "backend_info": {},
            "performance_run": {"throughput": 900.0, "measured_samples": 9, "start_datetime": "2024-12-26T16:02:35"},
        },
    ],
}
