"""Parameters that several commands share, declared once so that they read the same everywhere."""

from typing import Annotated, Literal

from cyclopts import Parameter

# Stands for `-` while the command line is parsed: Cyclopts takes a lone hyphen for an option, and no argument of a
# process can hold this text. Commands are given the hyphen again.
STDIN = "\0stdin"
HYPHEN = "-"

Json = Annotated[bool, Parameter(name="--json", help="Print one JSON object on stdout and nothing else there.")]
Model = Annotated[str, Parameter(name=["--model", "-m"], help="A bundled model's name or a model folder.")]
Out = Annotated[str | None, Parameter(name=["--out", "-o"], help="Picture to write: .png, .jpg, .webp or .avif.")]
Overwrite = Annotated[bool, Parameter(help="Replace output files that exist.")]
Scale = Annotated[
    int | None, Parameter(help="Grid of codes: 0 is the finest, 2 the coarsest. Default: the model's own choice.")
]
Frame = Annotated[
    int | None, Parameter(help="Frame of an animation or page of a file to read, from 0. Default: the first.")
]
Fit = Annotated[
    Literal["squash", "letterbox"] | None,
    Parameter(help="How a picture that is not square is read. Default: the model's own choice, nearly always squash."),
]
Detok = Annotated[
    str | None,
    Parameter(help="De-tokenizer: diffusion, ar, or another size such as ar_512. Default: the model's choice."),
]
Seed = Annotated[int, Parameter(help="Seed of the first picture; the next ones count up from it.")]
Device = Annotated[str | None, Parameter(help="cpu, cuda, mps; default: the best there is.")]
Dtype = Annotated[
    str | None,
    Parameter(
        help="float32, bfloat16, or float16 on cuda and mps; default: as the model is stored, if the device can."
    ),
]
