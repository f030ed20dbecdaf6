"""IREE: graphs are imported into MLIR, compiled for the processor, and run by IREE's virtual machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..atomic_file import temporary_folder
from ..bundle.schema import GraphSpec
from .interface import Arrays, Engine, Graph, GraphError, NotInstalledError, by_output_name

TARGET = "llvm-cpu"
DRIVER = "local-task"  # IREE's driver for a processor with several cores
# An operator of an imported graph whose output has no type.
_UNTYPED = re.compile(r'torch\.operator "onnx\.(\w+)".* -> \(?!torch\.none')
FOR_THIS_PROCESSOR = "--iree-llvmcpu-target-cpu=host"


@contextmanager
def start(_packages: Path) -> Iterator[Engine]:
    """Yield IREE's compiler and runtime."""
    try:
        from iree import compiler, runtime  # noqa: PLC0415  not dependencies of the runtime
        from iree.compiler.tools.import_onnx import __main__ as importer  # noqa: PLC0415  imports onnx
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"the Python package {error.name}") from error

    with temporary_folder() as folder:

        def open_graph(path: Path, spec: GraphSpec) -> Graph:
            imported = folder / f"{path.stem}.mlir"
            importer.main(importer.parse_arguments([str(path), "-o", str(imported)]))
            try:
                program = compiler.compile_file(
                    str(imported),
                    target_backends=[TARGET],
                    input_type="onnx",
                    extra_args=[FOR_THIS_PROCESSOR],
                )
            except compiler.CompilerToolError as error:
                raise GraphError(explain(str(error), imported)) from error
            config = runtime.Config(DRIVER)
            module = runtime.VmModule.copy_buffer(config.vm_instance, program)
            loaded = runtime.load_vm_module(module, config)
            (name,) = (each for each in module.function_names if not each.endswith(("$async", "__init")))

            def run(inputs: Arrays) -> Arrays:
                outputs = loaded[name](*(np.ascontiguousarray(inputs[each.name]) for each in spec.inputs))
                listed = outputs if isinstance(outputs, list | tuple) else [outputs]
                return by_output_name(spec, [output.to_host() for output in listed])

            return run

        yield Engine(version("iree-base-compiler"), open_graph)


def explain(message: str, imported: Path) -> str:
    """Return the cause of a compiler's error as one line.

    The importer gives no type to the outputs of an operator that it does not know, and the compiler then
    fails at the operator that reads them. So the first operator without a type is the cause, if there is one.
    """
    with imported.open(encoding="utf-8") as lines:
        unknown = next((match[1] for match in map(_UNTYPED.search, lines) if match), None)
    if unknown is not None:
        return f"the importer does not know the operator {unknown}"
    # The message ends with the whole graph.
    line = next((line for line in message.splitlines() if "error:" in line), message)
    return line.replace(str(imported), imported.name)
