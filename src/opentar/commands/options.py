"""Parameters that several commands share, declared once so that they read the same everywhere."""

from typing import Annotated, Literal

from cyclopts import Parameter

# Stands for `-` while the command line is parsed: Cyclopts takes a lone hyphen for an option, and no argument of a
# process can hold this text. Commands are given the hyphen again.
STDIN = "\0stdin"
HYPHEN = "-"
EMPTY = "\0empty"
"""Stands for an empty argument meanwhile: `Path("")` is the current folder, which nobody meant by `--out ""`."""

Json = Annotated[bool, Parameter(name="--json", help="Print one JSON object to stdout and nothing else.")]
Model = Annotated[str, Parameter(name=["--model", "-m"], help="Name of a bundled or fetched model, or a model folder.")]
Out = Annotated[str | None, Parameter(name=["--out", "-o"], help="Picture to write: .png, .jpg, .webp or .avif.")]
Overwrite = Annotated[bool, Parameter(help="Overwrite existing files.")]
Scale = Annotated[
    int | None, Parameter(help="Grid of codes, from 0 (finest) to 2 (coarsest). Default: the model's own.")
]
Frame = Annotated[
    int | None, Parameter(help="Frame of an animation, or page of a file, counted from 0. Default: the first.")
]
Fit = Annotated[
    Literal["squash", "letterbox"] | None,
    Parameter(help="How to make a picture square: squash it, or pad it (letterbox). Default: the model's own."),
]
Detok = Annotated[
    str | None,
    Parameter(help="De-tokenizer: diffusion, ar, or another size such as ar_512. Default: the model's choice."),
]
Passes = Annotated[
    Literal["one", "jacobi", "zipar", "drafts", "late"] | None,
    Parameter(help="How many codes a pass of the AR de-tokenizer draws. Default: one; jacobi draws the same picture."),
]
Seed = Annotated[int, Parameter(help="Seed of the first picture; each further picture adds 1.")]
Device = Annotated[str | None, Parameter(help="cpu, cuda or mps. Default: the best available.")]
LanguageEngine = Annotated[
    Literal["torch", "llamacpp", "openvino"] | None,
    Parameter(name="--engine", help="What runs the language model. Default: what its folder was made for."),
]
Dtype = Annotated[
    str | None,
    Parameter(
        help="Type to compute in: float32, bfloat16, float16 (cuda and mps). Default: the stored type, if supported."
    ),
]
