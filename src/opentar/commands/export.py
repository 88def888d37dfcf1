"""`opentar export`: a model in the format of other tools."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import folder_argument, new_file_argument
from opentar.commands.output import Output


def qwen2(
    model: Annotated[str, Parameter(help="Name of a model, a model folder, or a language folder.")] = "nano",
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="New folder for the Qwen2 model.")],
    dtype: Annotated[
        Literal["bf16", "fp32"] | None,
        Parameter(help="Type to store weights in. Default: bf16 if the model is stored in it, else fp32."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write the language model as a plain Qwen2 folder: transformers and the engines built on its format load it."""
    from opentar.checkpoints.find import find_model
    from opentar.core.disk import human_bytes

    output = Output(json)
    folder_argument(out)
    find_model(model)
    with output.working():
        from opentar.checkpoints.convert.qwen2 import export_qwen2

        with output.progress() as step:
            report = export_qwen2(model, out, dtype=dtype, step=step)
    files = f"{len(report.files)} file{'s' if len(report.files) > 1 else ''}"
    output.line(f"{out}: {report.rows} rows, {report.dtype}, {human_bytes(report.bytes)} in {files}")
    output.result(
        {
            "folder": str(report.folder),
            "dtype": report.dtype,
            "bytes": report.bytes,
            "files": report.files,
            "rows": report.rows,
            "first_new": report.first_new,
        }
    )


def gguf(
    model: Annotated[str, Parameter(help="Name of a model, a model folder, or a language folder.")] = "nano",
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="New GGUF file.")],
    to: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"], Parameter(help="How the weights are stored.")
    ] = "f16",
    json: options.Json = False,
) -> None:
    """Write the language model as a GGUF file: stock builds of llama.cpp load it, and it still draws."""
    from opentar.checkpoints.find import find_model
    from opentar.core.disk import human_bytes

    output = Output(json)
    new_file_argument(out)
    find_model(model)
    with output.working():
        from opentar.checkpoints.convert.gguf import export_gguf

        with output.progress() as step:
            report = export_gguf(model, out, to=to, step=step)
    for note in report.notes:
        output.note(note)
    tokenizer = "with its tokenizer" if report.tokenizer != "none" else "without a tokenizer"
    output.line(f"{out}: {report.rows} rows, {report.to}, {human_bytes(report.bytes)}, {tokenizer}")
    output.result(
        {
            "path": str(report.path),
            "to": report.to,
            "bytes": report.bytes,
            "rows": report.rows,
            "first_code": report.first_code,
            "tokenizer": report.tokenizer,
            "notes": report.notes,
        }
    )
