"""`opentar import` and `pull`: published weights become a model folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import folder_argument
from opentar.commands.output import Output
from opentar.core.disk import human_bytes
from opentar.core.errors import ConfigError, nearest, shown

if TYPE_CHECKING:
    from opentar.checkpoints.convert.importing import ImportReport
    from opentar.checkpoints.hub.fetching import Size

IMPORTABLE = ("tar",)


def import_published(
    kind: Annotated[str, Parameter(help="What to import: tar.")],
    /,
    *,
    llm: Annotated[Path | None, Parameter(help="Folder of the language model.")] = None,
    ta_tok: Annotated[Path | None, Parameter(help="Image tokenizer, ta_tok.pth.")] = None,
    ar: Annotated[list[Path] | None, Parameter(help="AR de-tokenizer, ar_dtok_*.pth; repeatable.")] = None,
    vqgan: Annotated[Path | None, Parameter(help="VQGAN of the AR de-tokenizers, vq_ds16_t2i.pt.")] = None,
    sana: Annotated[list[Path] | None, Parameter(help="Folder of a diffusion de-tokenizer; repeatable.")] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="New model folder.")] = None,
    add: Annotated[
        Path | None, Parameter(help="Existing model folder to add de-tokenizers to, in place of --out.")
    ] = None,
    name: Annotated[str | None, Parameter(help="Name of the model. Default: the name of the --llm folder.")] = None,
    dtype: Annotated[
        Literal["keep", "bf16", "fp32"], Parameter(help="Type to store weights in; keep leaves them as they are.")
    ] = "keep",
    dry_run: Annotated[bool, Parameter(help="Read and check everything; write nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Make a model folder from the published files of Tar, or add de-tokenizers to one."""
    output = Output(json)
    if kind not in IMPORTABLE:
        raise ConfigError(
            f"{shown(kind)} cannot be imported; there is: {', '.join(IMPORTABLE)}.{nearest(kind, IMPORTABLE)}"
        )
    if (out is None) == (add is None):
        raise ConfigError("give either --out for a new model, or --add for a model to add de-tokenizers to")
    extras: dict[str, Any] = {"ar": ar or (), "vqgan": vqgan, "sana": sana or (), "dtype": dtype, "dry_run": dry_run}
    if add is not None:
        if llm is not None or ta_tok is not None or name is not None:
            raise ConfigError("--llm, --ta-tok and --name are for a new model; leave them out with --add")
    elif llm is None or ta_tok is None:
        raise ConfigError("a new model needs --llm (a folder) and --ta-tok (a file)")
    if out is not None:
        folder_argument(out)
    with output.working(), output.progress() as progress:
        from opentar.checkpoints.convert.importing import add_to_model, import_tar

        if out is not None and llm is not None and ta_tok is not None:
            report = import_tar(out, llm=llm, ta_tok=ta_tok, name=name, progress=progress, **extras)
        else:
            assert add is not None
            report = add_to_model(add, progress=progress, **extras)
    _print_report(output, report)
    output.result(_plain(report))


def pull(
    name: Annotated[str, Parameter(help="Name of a published model, such as csuhan/Tar-1.5B.")],
    /,
    *,
    with_: Annotated[
        list[str] | None, Parameter(name="--with", help="Further de-tokenizer, such as sana_512; repeatable.")
    ] = None,
    revision: Annotated[
        list[str] | None,
        Parameter(help="Branch, tag or commit of the model, or REPOSITORY=REVISION of another part; repeatable."),
    ] = None,
    dry_run: Annotated[bool, Parameter(help="Print what would be fetched; fetch nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Fetch a published model from the hub and import it into the cache. Files that are already there are kept."""
    output = Output(json)
    from opentar.checkpoints.hub import catalogue
    from opentar.checkpoints.hub import pull as hub

    catalogue.check_model(name)
    parts = catalogue.parts_of(with_ or ())
    revisions = catalogue.revisions_of(name, revision or ())
    if dry_run:
        with output.working():
            plan = hub.preview(name, parts=parts, revisions=revisions)
        _print_plan(output, name, plan, hub.cached(name, revisions))
        return
    with output.working(), output.progress() as progress:
        found = hub.pull(
            name,
            parts=parts,
            revisions=revisions,
            note=output.note,
            bars=output.stderr.isatty(),
            progress=progress,
        )
    if found.report is None:
        output.line(f"{name} is here already: {found.folder}")
    else:
        _print_report(output, found.report)
    at = str(found.folder) if revisions else name
    output.line(f"use it   opentar generate 'a cat on a sofa' --model {at}")
    output.result({"folder": str(found.folder)} | ({} if found.report is None else _plain(found.report)))


def _print_plan(output: Output, name: str, plan: "tuple[Size, ...]", folder: Path) -> None:
    for size in plan:
        known = f"{human_bytes(size.new)} of them new" if not size.cached else "in the cache of huggingface_hub"
        output.line(f"fetch    {size.fetch.repository}@{size.fetch.revision}: {human_bytes(size.every)}, {known}")
        output.line(f"         {', '.join(size.fetch.patterns)}")
    for why in dict.fromkeys(size.cached for size in plan if size.cached):
        output.line(f"note     {why}; the cache of huggingface_hub has the files")
    output.line(f"into     {folder}" if plan else f"{name} is here already: {folder}")
    output.result({"folder": str(folder), "fetch": [_fetch_row(size) for size in plan]})


def _fetch_row(size: "Size") -> dict[str, Any]:
    fetch = size.fetch
    row = {"repository": fetch.repository, "revision": fetch.revision, "patterns": list(fetch.patterns)}
    return row | {"files": size.files, "bytes": size.every, "new_bytes": size.new, "from_cache": bool(size.cached)}


def _print_report(output: Output, report: "ImportReport") -> None:
    verb = "written" if report.written else "would be written"
    for part in report.parts:
        size = f"{part.numbers:,} numbers, {human_bytes(part.bytes)} as {part.storage}"
        output.line(f"part     {part.part}: {size}, from {', '.join(part.files)}")
        output.line(f"licence  {part.licence}")
        for note in part.notes:
            output.line(f"note     {note}")
    for note in report.notes:
        output.line(f"note     {note}")
    total = sum(part.bytes for part in report.parts)
    free = f"{human_bytes(report.free_bytes)} free on the disk"
    output.line(f"{verb:8} {report.folder}: {report.name}, {human_bytes(total)} in all, {free}")


def _plain(report: "ImportReport") -> dict[str, Any]:
    import dataclasses

    values = dataclasses.asdict(report) | {"folder": str(report.folder)}
    return values | {"bytes": sum(part.bytes for part in report.parts)}
