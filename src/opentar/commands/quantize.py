"""`opentar quantize`: a copy of a model that takes less memory and computes with 8 or 4 bits."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import folder_argument
from opentar.commands.output import Output


def quantize(
    model: Annotated[str, Parameter(help="Name of a bundled or fetched model, or a model folder.")] = "nano",
    /,
    *,
    to: Annotated[
        str,
        Parameter(
            help="int8, int4, for llama.cpp gguf-q8_0, gguf-q4_k_m, gguf-q4_0, gguf-f16, gguf-bf16, gguf-f32, "
            "or for OpenVINO openvino-int8, openvino-int4."
        ),
    ],
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="New model folder.")],
    calibrate: Annotated[
        str | None,
        Parameter(
            help="For int4: a text file that its weights are chosen with, beside scenes of ours; own for our texts "
            "(default); none to round them one by one."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write a copy of a model whose weights have 8 or 4 bits and are computed so; the model itself stays as it is."""
    from opentar.checkpoints.find import find_model
    from opentar.core.disk import human_bytes
    from opentar.core.errors import ConfigError

    output = Output(json)
    folder_argument(out)
    folder = find_model(model)
    with output.working(), output.progress() as step:
        from opentar.checkpoints.convert.quantizing import CALIBRATED, experimental, quantize_model

        if calibrate is not None and to not in CALIBRATED:
            raise ConfigError(f"{to} is not calibrated, only {' and '.join(CALIBRATED)} are; leave --calibrate out")
        given = _calibration(folder, calibrate) if to in CALIBRATED and calibrate != "none" else ()
        report = quantize_model(folder, out, to, step, given)
        untried = experimental(to, calibrated=bool(given))
    for part, forms in report.forms.items():
        told = ", ".join(f"{numbers:,} numbers as {form}" for form, numbers in forms.items())
        output.line(f"part     {part}: {told or 'as it was'}")
    before, after = human_bytes(report.bytes_before), human_bytes(report.bytes_after)
    output.line(f"written  {report.folder}: {after}, from {before}")
    if untried:
        output.line(f"note     {to} is experimental: {untried}")
    values = {"folder": str(report.folder), "to": report.target, "parts": report.forms}
    values |= {"experimental": untried}
    output.result(values | {"bytes_before": report.bytes_before, "bytes": report.bytes_after})


def _calibration(folder: Path, text: str | None) -> list[list[int]]:
    """What a model is calibrated with, as ids."""
    from opentar.checkpoints.parts import ModelParts
    from opentar.nano.calibration import sequences

    return sequences(ModelParts(folder, device="cpu"), None if text in (None, "own") else Path(str(text)))
