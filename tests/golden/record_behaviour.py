"""Record the exports, answers and errors of a revision, and compare the records of two revisions.

    python tests/golden/record_behaviour.py record before.json [PYTEST OPTIONS]
    python tests/golden/record_behaviour.py compare before.json after.json

`record` exports two small random checkpoints (one of each family) and the shipped model in every precision
and stores the SHA-256 of every graph and weight file, the greedy ids of the golden prompts, and, for every
test, the exit code and first line of each failing command and the class of each expected error. Graphs are
hashed without their metadata, which holds the bundle id. `compare` prints differences and exits with 1 if
there are any. Texts of messages are recorded, but only exit codes and error classes are compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")]
CASES = ("gemma_one_kv_head", "gemma2_window")  # names in checkpoints.py
PRECISIONS = ("fp32", "int8", "int4", "int4-compact", "int4-portable", "bf16", "fp16", "int4-bf16")
CPU_PRECISIONS = PRECISIONS[:5]
MAX_NEW_TOKENS = 96
EVENTS = "PALIGEMMA_ONNX_TEST_EVENTS"  # environment variable: file the pytest plugin below appends to


def run_command(*arguments: object) -> int:
    """Run `paligemma-onnx` in a subprocess and return its exit code."""
    module = ".".join(["paligemma_onnx.runtime.cli", *(["main"] if NESTED_CLI else [])])
    script = f"import {module} as cli; cli.main()"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=False).returncode


NESTED_CLI = (ROOT / "runtime" / "cli").is_dir()  # False in revisions before the packages by stage


def digests(bundle: Path) -> dict[str, str]:
    """Return the SHA-256 of each graph without its metadata, and of each other file except the manifest."""
    import onnx

    result = {}
    for file in sorted(bundle.iterdir()):
        content = file.read_bytes()
        if file.suffix == ".onnx":
            model = onnx.load_from_string(content)
            del model.metadata_props[:]
            content = model.SerializeToString(deterministic=True)
        if file.name != "manifest.json":
            result[file.name] = hashlib.sha256(content).hexdigest()
    return result


def answers(bundle: Path, prompts: list[tuple[str, str]]) -> list[list[int]]:
    """Return the greedy ids of each (image, prompt)."""
    from paligemma_onnx.runtime import PaliGemma

    model = PaliGemma.load(bundle, device="cpu")
    golden = ROOT / "tests" / "golden"
    return [
        list(model.generate(golden / image, prompt, max_new_tokens=MAX_NEW_TOKENS).token_ids)
        for image, prompt in prompts
    ]


def record_bundles(work: Path) -> dict[str, Any]:
    """Export every checkpoint in every precision and return digests and greedy ids."""
    from checkpoints import CASES as KNOWN
    from checkpoints import write_checkpoint

    (shipped,) = [path for path in (ROOT / "export").rglob("paligemma-scenes") if path.is_dir()]
    entries = json.loads((ROOT / "tests" / "golden" / "golden.json").read_text(encoding="utf-8"))
    golden = [(entry["image"], entry["prompt"]) for entry in entries]
    checkpoints = {name: write_checkpoint(KNOWN[name], work / name) for name in CASES} | {"shipped": shipped}
    entries_by_name: dict[str, Any] = {}
    for name, checkpoint in checkpoints.items():
        for precision in PRECISIONS:
            bundle = work / "bundle"
            shutil.rmtree(bundle, ignore_errors=True)
            # No validation: the comparison with torch fails for 4-bit weights of random models this small.
            arguments = ("--precision", precision, "--no-validate")
            code = run_command("export", checkpoint, "--output", bundle, *arguments)
            entry: dict[str, Any] = {"exit_code": code, "digests": digests(bundle) if code == 0 else {}}
            if code == 0 and precision in CPU_PRECISIONS:
                entry["ids"] = answers(bundle, golden if name == "shipped" else golden[:3])
            entries_by_name[f"{name} {precision}"] = entry
            print(f"{name} {precision}: {len(entry['digests'])} files, {len(entry.get('ids', []))} answers")
    return entries_by_name


def record_refusals(work: Path, options: list[str]) -> dict[str, list[list[Any]]]:
    """Run the tests and return, per test function, the exits of failing commands and the expected errors."""
    events = work / "events.jsonl"
    environment = os.environ | {
        EVENTS: str(events),
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, "-m", "pytest", "-p", "record_behaviour", *options]
    subprocess.run(command, cwd=ROOT, env=environment, check=False)
    by_test = defaultdict(list)
    for line in events.read_text(encoding="utf-8").splitlines():
        test, *event = json.loads(line)
        by_test[test].append(event)
    return {test: sorted(test_events, key=str) for test, test_events in sorted(by_test.items())}


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print the differences in bundles and refusals and return their number."""
    differences = 0
    for name in sorted(before["bundles"] | after["bundles"]):
        old, new = before["bundles"].get(name), after["bundles"].get(name)
        if old is not None and new is not None:
            added = new["digests"].keys() - old["digests"].keys()
            if added and old["exit_code"] == 0:
                print(f"{name}: new files: {', '.join(sorted(added))}")
            new = new | {"digests": {file: new["digests"].get(file) for file in old["digests"]}}
        if old != new:
            differences += 1
            print(f"{name}: {old} before, {new} after")
    print(f"{len(before['bundles'])} bundles compared")
    common = before["refusals"].keys() & after["refusals"].keys()
    for name in sorted(common):
        old, new = (sorted(str(event[0]) for event in side["refusals"][name]) for side in (before, after))
        if old != new:
            differences += 1
            print(f"{name}: {old} before, {new} after")
    for side, refusals in (("before", before["refusals"]), ("after", after["refusals"])):
        for name in sorted(refusals.keys() - common):
            print(f"only {side}: {name}: {sorted(str(event[0]) for event in refusals[name])}")
    count = sum(len(before["refusals"][name]) for name in common)
    print(f"{len(common)} tests with {count} refusals compared; {differences} differences")
    return differences


# The rest of the module is the pytest plugin that `record_refusals` loads.
_current_test = [""]  # name of the running test function


def _log_event(*event: object) -> None:
    """Append an event of the current test to the file that EVENTS names, if any."""
    if path := os.environ.get(EVENTS):
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123  tests replace Path.open
            file.write(json.dumps([_current_test[0], *event]) + "\n")


def pytest_runtest_setup(item: Any) -> None:
    """Store the name of the test function."""
    _current_test[0] = item.originalname


def pytest_configure() -> None:
    """Patch the classes for command results and expected errors so that they log events."""
    import command_line
    from _pytest.raises import RaisesExc

    # "Ended" is the name of the class in earlier revisions.
    result_class = next(
        getattr(command_line, name) for name in ("Ended", "CommandResult") if hasattr(command_line, name)
    )
    original_init = result_class.__init__

    def logging_init(self: Any, *arguments: Any, **keywords: Any) -> None:
        original_init(self, *arguments, **keywords)
        code, _, err = (getattr(self, name) for name in self.__dataclass_fields__)
        if code:
            _log_event(code, next(iter(err.splitlines()), ""))

    result_class.__init__ = logging_init
    original_exit = RaisesExc.__exit__

    def logging_exit(self: Any, kind: Any, error: Any, trace: Any) -> bool:
        if kind is not None and kind.__module__.startswith("paligemma_onnx"):
            _log_event(kind.__name__, str(error))
        return original_exit(self, kind, error, trace)

    RaisesExc.__exit__ = logging_exit


def main() -> int:
    """Record or compare."""
    if sys.argv[1] == "compare":
        return min(
            compare(*(json.loads(Path(file).read_text(encoding="utf-8")) for file in sys.argv[2:4])), 1
        )
    with tempfile.TemporaryDirectory() as folder:
        record = {
            "bundles": record_bundles(Path(folder)),
            "refusals": record_refusals(Path(folder), sys.argv[3:]),
        }
    Path(sys.argv[2]).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
