"""OpenVINO itself: whether it is installed, compiling a graph for the CPU, and running it so that errors are told."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from opentar.core.errors import ModelError

INSTALL = "pip install 'opentar[openvino]'"


def available() -> bool:
    """Whether the package is installed; loads nothing."""
    return importlib.util.find_spec("openvino") is not None


def openvino_library(what: str) -> Any:
    """openvino itself. Raises ModelError where it is not installed; `what` needs it."""
    try:
        import openvino
    except ImportError as error:
        raise ModelError(f"{what} needs OpenVINO; install it with: {INSTALL}, or use the torch one") from error
    return openvino


@cache
def core(openvino: Any) -> Any:
    """The one `openvino.Core` of this process.

    It stays until the process ends. Where a processor has AMX, the first core gives its thread a larger stack for the
    handlers of signals; once no core is left that memory is gone, and the next signal, such as SIGTERM, would end the
    process with a fault.
    """
    return openvino.Core()


class Compiled:
    """A graph that runs on the CPU; its weights are shared by all that `again` makes.

    Args:
        graph: an openvino.Model.
        settings: of the CPU plugin, beside those of one short run at a time.
        what: named in errors.

    Raises:
        ModelError: OpenVINO cannot run the graph here.
    """

    def __init__(self, graph: Any, settings: Mapping[str, str], what: str) -> None:
        openvino = openvino_library(what)
        self._what = what
        plain = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
        try:
            self._compiled = core(openvino).compile_model(graph, "CPU", plain | dict(settings))
            self._request = self._compiled.create_infer_request()
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot run {what} ({_reason(error)}); use the torch engine") from error

    def again(self) -> Compiled:
        """The same weights with inputs and outputs of its own."""
        other = Compiled.__new__(Compiled)
        other._what, other._compiled = self._what, self._compiled
        other._request = self._compiled.create_infer_request()
        return other

    def keep(self, inputs: Mapping[str, Any]) -> None:
        """Inputs by name, openvino.Tensor each, that stay for all runs to come."""
        for name, tensor in inputs.items():
            self._request.set_tensor(name, tensor)

    def __call__(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The first output, float32; numpy arrays by the name of the input. Raises ModelError where it fails."""
        try:
            # Started and waited for: the call that does both at once returns an empty result where a graph fails.
            self._request.start_async(dict(inputs))
            self._request.wait()
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed in {self._what} ({_reason(error)}); use the torch engine") from error
        # The next run overwrites the request's own memory.
        return torch.from_numpy(self._request.get_output_tensor(0).data.copy())


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:160] if lines else "no reason given"
