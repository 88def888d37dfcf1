"""`opentar train`, `eval`, `info` and `data sheet`: commands that work on models and data."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import folder_argument
from opentar.commands.model import load
from opentar.commands.output import Output
from opentar.commands.picture import is_picture_file, picture_info
from opentar.core.disk import human_bytes
from opentar.core.errors import ConfigError, nearest, shown

if TYPE_CHECKING:
    from opentar.checkpoints.settings import ModelConfig

TRAINABLE = ("nano",)
_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "I8": "int8", "I64": "int64", "BOOL": "bool"}


def info(
    model: Annotated[str, Parameter(help="Name of a model, a model folder, or a picture file.")] = "nano",
    /,
    *,
    verify: Annotated[
        bool, Parameter(name="--verify", negative="--no-verify", help="Compare every file with the manifest.")
    ] = True,
    words: Annotated[bool, Parameter(help="List the words that the model knows instead.")] = False,
    json: options.Json = False,
) -> None:
    """Show the parts, licence and data of a model; or the settings stored in a picture.

    No tensor is loaded; every file of a model is compared with its manifest.
    """
    from opentar.checkpoints import find, model_folder
    from opentar.core import folder as checkpoint

    output = Output(json)
    if is_picture_file(model):
        return picture_info(output, model)
    folder = find.find_model(model)
    config = model_folder.read_config(folder)
    if words:
        from opentar.commands.words import grouped, print_words

        groups = grouped(config.known_words)
        print_words(output, groups)
        output.result({"name": config.name, "folder": str(folder), "words": groups})
        return
    if verify:
        with output.working():
            checkpoint.verify(folder, parts=False, remember=True)
            model_folder.check_parts(folder, config)
    parts = {part: _part_facts(folder, part, config.part_licences.get(part, config.licence)) for part in config.parts}
    total = sum(size for _, size in model_folder.part_files(folder))
    digest = checkpoint.folder_hash(folder)
    output.line(f"{config.name}  ({folder})")
    changed = checkpoint.changed_parts(folder)
    output.line(f"hash     {digest}, {human_bytes(total)}, {'every file intact' if verify else 'files not compared'}")
    if changed:
        output.line(f"changed  {', '.join(changed)} since the model was put together")
    for part, facts in parts.items():
        stored = ", ".join(facts["dtypes"])
        output.line(f"part     {part}: {facts['parameters']:,} parameters, {human_bytes(facts['bytes'])}, {stored}")
        if config.part_licences:
            output.line(f"         licence: {facts['licence'] or 'not stated'}")
    memory = _memory(folder, config)
    output.line(f"memory   {human_bytes(memory['bytes'])} to draw and read{''.join(memory['told'])}")
    output.line(f"draws    {', '.join(config.detokenizers) or 'nothing: no de-tokenizer'}")
    output.line(f"words    {len(config.known_words) or 'not listed'}")
    output.line(f"licence  {config.licence or 'not stated'}")
    output.line(f"data     {config.data or 'not stated'}")
    if config.experimental:
        output.line(f"note     experimental: {config.experimental}")
    described = {"name": config.name, "folder": str(folder), "hash": digest, "bytes": total, "verified": verify}
    described |= {"changed": changed, "memory_bytes": {"stored": memory["bytes"], **memory["modes"]}}
    described |= {"parts": parts, "detokenizers": config.detokenizers, "known_words": config.known_words}
    output.result(described | {"licence": config.licence, "data": config.data, "experimental": config.experimental})


def _memory(folder: Path, config: "ModelConfig") -> dict[str, Any]:
    """Bytes that drawing and reading take, the program included, as stored on a CPU and for each quantized copy."""
    from opentar.checkpoints.needs import PROGRAM_BYTES, modes, needs_of
    from opentar.checkpoints.settings import DETOK_PREFIX, REQUIRED_PARTS
    from opentar.core.folder import is_quantized

    own = [DETOK_PREFIX + config.defaults.draw.detok] if config.detokenizers else []
    types = {part: "packed" if is_quantized(folder / part) else "stored" for part in (*REQUIRED_PARTS, *own)}
    found = {target: size + PROGRAM_BYTES for target, size in modes(folder, types).items()}
    told = [f"; as {target} {human_bytes(size)}" for target, size in found.items()]
    return {"bytes": needs_of(folder, types).total + PROGRAM_BYTES, "modes": found, "told": told}


def _part_facts(folder: Path, part: str, licence: str) -> dict[str, Any]:
    """Parameters, types and bytes of a part, from the headers of its weights files."""
    from opentar.checkpoints import model_folder
    from opentar.core.folder import read_config
    from opentar.core.gguf_header import KINDS, read_gguf
    from opentar.core.headers import SCALE, read_header

    place = folder / part
    values = read_config(place)
    counts: dict[str, int] = {}
    sizes = dict(model_folder.part_files(place))
    for file in sizes:
        if file.endswith(".gguf"):
            for one in read_gguf(place / file).tensors.values():
                kind = KINDS.get(one.kind, str(one.kind))
                counts[kind] = counts.get(kind, 0) + math.prod(one.shape)
        if not file.endswith(".safetensors"):
            continue
        header = read_header(place / file)
        for name, tensor in header.items():
            if not name.endswith(SCALE):
                # Bytes that have scales hold two numbers each.
                pairs = tensor.dtype == "U8" and name + SCALE in header
                kind = "int4" if pairs else _TYPES.get(tensor.dtype, tensor.dtype.lower())
                counts[kind] = counts.get(kind, 0) + tensor.numbers * (2 if pairs else 1)
    return {
        "parameters": sum(counts.values()),
        "dtypes": dict(sorted(counts.items(), key=lambda item: -item[1])),
        "bytes": sum(sizes.values()),
        "licence": licence,
        "storage": values.get("storage"),
        "config": values,
    }


def train(
    model: Annotated[str, Parameter(help="What to train: nano.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the run; an existing one is resumed.")],
    stage: Annotated[
        list[str] | None, Parameter(name="--stage", consume_multiple=True, help="Run only these stages, in this order.")
    ] = None,
    recipe: Annotated[str, Parameter(help="Name of the recipe: nano or smoke.")] = "nano",
    jobs: Annotated[
        int | None, Parameter(help="Stages to run in parallel. Default: one per core, at most two.")
    ] = None,
    gates: Annotated[
        bool, Parameter(name="--gates", negative="--no-gates", help="Stop when a stage misses its score.")
    ] = True,
    quiet: Annotated[bool, Parameter(help="Print no progress.")] = False,
    json: options.Json = False,
) -> None:
    """Train a model: every stage in order, or some. The same command resumes a run that was stopped."""
    output = Output(json)
    if model not in TRAINABLE:
        hint = nearest(model, TRAINABLE)
        raise ConfigError(f"{shown(model)} cannot be trained here; there is: {', '.join(TRAINABLE)}.{hint}")
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs is {jobs}; it must be at least 1")
    folder_argument(out)
    with output.working():
        from opentar.nano.steps import recipe_of
        from opentar.train.run import train as run_recipe

        scores = run_recipe(recipe_of(recipe), out, stage or None, jobs=jobs, gates=gates, quiet=quiet)
    output.line(f"{model}: stages ended in {out}: {', '.join(scores) or 'none'}")
    output.result({"model": model, "out": str(out), "scores": scores})


def evaluate(
    model: Annotated[str, Parameter(help="Name of a bundled or fetched model, or a model folder.")] = "nano",
    /,
    *,
    limit: Annotated[int | None, Parameter(help="Number of drawing prompts, spread evenly. Default: all 600.")] = None,
    out: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="New folder for the report, the sheets and the drawings.")
    ] = None,
    against: Annotated[
        Path | None, Parameter(help="Report of another model (its --out) to compare with, example by example.")
    ] = None,
    samples: Annotated[int, Parameter(help="Drawings per prompt.")] = 1,
    links: Annotated[bool, Parameter(negative="--no-links", help="Also evaluate each part on its own.")] = True,
    detok: options.Detok = None,
    scale: options.Scale = None,
    passes: options.Passes = None,
    seed: Annotated[int, Parameter(help="Seed of every drawing.")] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json: options.Json = False,
) -> int:
    """Evaluate a model: draw the GenEval-like prompts, answer the POPE-like questions, judge, and print a table."""
    output = Output(json)
    if out is not None:
        folder_argument(out)
    with output.working():
        from opentar.nano.evaluate import evaluate as measure
        from opentar.nano.report import flatten, markdown

        tar = load(model, device, dtype)
        with output.progress() as progress:
            scores = measure(
                tar,
                limit=limit,
                seed=seed,
                detok=detok,
                scale=scale,
                passes=passes,
                out_dir=out,
                against=against,
                samples=samples,
                links=links,
                progress=progress,
            )
    if not json:
        output.lines(markdown(scores))
    output.result(flatten(scores))
    return 1 if "report_error" in scores["meta"] else 0
