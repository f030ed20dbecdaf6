"""The rules that tests/project/test_import_boundaries.py enforces: libraries and package levels."""

from __future__ import annotations

from paths import ROOT

ALLOWED = {
    "model": {"torch", "safetensors"},
    "runtime": {
        *("numpy", "onnxruntime", "PIL", "tokenizers", "click", "dacite", "platformdirs", "filelock", "tqdm"),
        *("pyarrow", "ray"),  # optional, imported on first use
    },
    "optimum": {"numpy", "torch", "transformers", "optimum", "huggingface_hub"},
}
# Libraries of a package or module: runtimes, each imported when it is started.
ALLOWED_IN_PACKAGE = {
    "runtime/conformance/": {"onnx", "openvino", "tract", "iree"},
    "runtime/graphs/openvino_runner.py": {"openvino"},  # `--engine openvino`
}
# A folder `optimum` would hide the library of this name from programs that run in a clone.
FOLDERS = {part: ROOT / part for part in ("model", "export", "runtime")} | {
    "optimum": ROOT / "optimum_plugin"
}
USES = {"optimum": ("paligemma_onnx.runtime", "paligemma_onnx.export")}  # other parts
# Packages and top-level modules of each part, the highest level first. A package imports only lower levels.
# docs/design.md has the same table.
LEVELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "model": (
        ("checkpoint",),
        ("skeleton", "generate"),
        ("paligemma",),
        ("gemma",),
        ("attention", "siglip", "presets"),
        ("cache", "config", "contrastive", "linear", "mask", "mask_decoder", "rotary"),
    ),
    "export": (
        ("cli",),
        ("report", "demo", "layouts"),
        ("validation", "exporter"),
        ("bundle",),
        ("source",),
        ("quantization",),
        ("graphs",),
        ("sources", "precisions"),
    ),
    "runtime": (
        ("cli",),
        ("batch", "conformance", "diagnostics", "website"),
        ("paligemma",),
        ("detection", "load"),
        ("generation",),
        ("graphs",),
        ("engine", "image"),
        ("bundle", "text", "resource_errors", "atomic_file"),
        ("errors", "cancellation", "console", "telemetry"),
        ("interrupts",),
    ),
    "optimum": (
        ("ort_paligemma",),
        ("configuration", "decoding"),
        ("arguments", "bundle_folder", "inputs"),
    ),
}
# The command group names the export commands in strings and imports them on first use. The package's public
# names are imported on first use, so that the command line can handle signals before NumPy is imported.
NAMES_OTHER_PARTS = {"runtime/cli/group.py", "runtime/__init__.py"}
PARTS = tuple(f"paligemma_onnx.{part}" for part in LEVELS)
