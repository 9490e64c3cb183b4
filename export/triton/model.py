"""Upscales pictures in Triton's Python backend; written beside a bundle by `lpnsr-export --triton`.

Takes the tensors and the parameters that `lpnsr-serve` takes. Requests are answered from threads,
so that Triton hands over further ones meanwhile and tiles of several pictures share a batch.
"""

from __future__ import annotations

import ctypes
import json
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from lpnsr.runtime.serve import inference
from lpnsr.runtime.serve.desk import Ticket
from lpnsr.runtime.serve.handler import PictureHandler
from lpnsr.runtime.serve.refusals import Refusal
from lpnsr.runtime.upscaler import Upscaler


class TritonPythonModel:
    """The model, in the words of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle.

        Args:
            args: where the model lies, its configuration, and what it runs on.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        settings = {name: value["string_value"] for name, value in parameters.items()}
        on_gpu = args["model_instance_kind"] == "GPU"
        self._upscaler = Upscaler.from_bundle(
            Path(args["model_repository"], args["model_version"], "bundle"),
            backend=settings["backend"],
            precision=settings["precision"],
            threads=int(settings["threads"]) or None,
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else None,
        )
        self._handler = PictureHandler(self._upscaler, float(settings["max_megapixels"]))
        pb_utils.Logger.log_info(f"{args['model_name']}: {self._upscaler.choice}")
        parallel = self._upscaler.parallel
        self._threads, self._free = ThreadPoolExecutor(parallel, "upscale"), Semaphore(parallel)

    def execute(self, requests: list[Any]) -> None:
        """Start work for requests; waits while all threads are busy, so that Triton queues."""
        for request in requests:
            self._free.acquire()
            # The tensors end with this call. NumPy and Triton know each other's arrays for certain
            # by DLPack alone: built with an old pybind11, Triton garbles those of NumPy 2.
            pixels = np.array(np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "IMAGE")))
            given = pb_utils.get_input_tensor_by_name(request, "SEED")
            parameters = json.loads(request.parameters() or "{}")
            if given is not None:
                parameters["seed"] = int(np.from_dlpack(given)[0])
            sender = request.get_response_sender()
            self._threads.submit(self._answer, sender, pixels, parameters)

    def _answer(self, sender: Any, pixels: np.ndarray, parameters: dict[str, Any]) -> None:
        try:
            response = self._response(pixels, parameters)
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            self._free.release()

    def _response(self, pixels: np.ndarray, parameters: dict[str, Any]) -> Any:
        error = pb_utils.TritonError
        try:
            upscaled = self._handler.array(pixels, inference.recipe(parameters), Ticket())
        except Refusal as refusal:
            code = error.INVALID_ARG if refusal.status < 500 else error.INTERNAL
            return pb_utils.InferenceResponse(error=error(str(refusal), code))
        except Exception as failure:  # else whoever asked would wait for ever
            pb_utils.Logger.log_error(traceback.format_exc())
            return pb_utils.InferenceResponse(error=error(str(failure), error.INTERNAL))
        return pb_utils.InferenceResponse([_tensor("UPSCALED", upscaled)])

    def finalize(self) -> None:
        """Finish what is under way and give up the model."""
        self._threads.shutdown()
        self._upscaler.close()


def _tensor(name: str, array: np.ndarray) -> Any:
    capsule = array.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # Triton owns the content now but does not mark the capsule as the standard says, for which
    # NumPy would print an error with every request.
    ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
    return tensor
