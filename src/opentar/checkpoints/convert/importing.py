"""The published weights made into a model folder: all headers and settings are fitted together first, then written.

Nothing is guessed and nothing is run: unknown keys, shapes and settings are refused by name, parts whose widths do not
fit are refused with both numbers, pickles are read as tensors and plain values only, and code in a folder is ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opentar.checkpoints import model_folder, settings
from opentar.checkpoints.convert.fitting import Canvas, Features, canvas_of, link_tree, pixels_of, ta_tok_config
from opentar.checkpoints.convert.planned import (
    DTYPES,
    Dtype,
    Origins,
    PartReport,
    Planned,
    plan_ar,
    plan_language,
    plan_sana,
    plan_ta_tok,
    read_canvas,
)
from opentar.checkpoints.settings import Defaults, DrawSettings, ModelConfig, ReadSettings
from opentar.core import environment
from opentar.core.disk import check_room, free_bytes
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError, nearest, shown
from opentar.core.folder import atomic_folder, verify
from opentar.core.memory import check_memory
from opentar.core.progress import Count, Progress
from opentar.image_to_tokens.ta_tok import TATokConfig
from opentar.language.model import LanguageConfig
from opentar.tokens_to_image.ar import ARConfig
from opentar.vocab import Vocab

DATA = "what the authors trained on (arXiv 2506.18898)"
DESCRIBE = "Describe the image shortly."
MAX_NAME = 100
"""Most characters of a model's name."""
_OVERHEAD = 1 << 20
"""Bytes of a part that are no tensors: headers, configs, manifests. A generous round number."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What was imported, or what would be."""

    folder: Path
    """the model folder"""
    name: str
    """how the model calls itself"""
    parts: tuple[PartReport, ...]
    """the parts that are new"""
    notes: tuple[str, ...]
    """what is worth knowing about how they fit together"""
    needed_bytes: int
    """room on the disk that the new parts take"""
    free_bytes: int
    """room on the disk of the folder before anything was written"""
    written: bool
    """False for a dry run"""


def import_tar(
    out: str | Path,
    *,
    llm: str | Path,
    ta_tok: str | Path,
    ar: Sequence[str | Path] = (),
    vqgan: str | Path | None = None,
    sana: Sequence[str | Path] = (),
    name: str | None = None,
    dtype: Dtype = "keep",
    dry_run: bool = False,
    origins: Origins | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Write a model folder from the published files of Tar.

    Args:
        out: the model folder; it must not exist or be empty.
        llm: folder of the language model, in one file or several.
        ta_tok: the image tokenizer, ta_tok.pth.
        ar: AR de-tokenizers, ar_dtok_*.pth. The first becomes "ar", the others take their size: "ar_512".
        vqgan: the VQGAN they all paint with, vq_ds16_t2i.pt; needed with `ar`.
        sana: folders of diffusion de-tokenizers; the first becomes "diffusion".
        name: how the model calls itself, at most 100 printable characters; default: the name of `llm`.
        dtype: "keep" stores numbers as they are, "bf16" and "fp32" convert them.
        dry_run: read and check everything, every number too, and write nothing; a real run checks while it writes.
        origins: where the files and folders came from, for those that came from the hub.
        progress: called while parts are written.

    Raises:
        WeightsError: a file is missing, damaged, not what its argument says, or parts do not fit each other.
        ModelError: `ar` without `vqgan`, two de-tokenizers of one kind and size, diffusers is not installed, or too
            little memory.
        ConfigError: another dtype, or a name that cannot be shown on a line.
        OutputError: `out` holds something, or the disk is too small or refuses.
    """
    out = _path(out)
    _check_dtype(dtype)
    name = _checked_name(name or _name_of(_path(llm)))
    _check_free(out)
    given = dict(origins or {})
    tokenizer = plan_ta_tok(_path(ta_tok), dtype, given)
    language = plan_language(_path(llm), tokenizer.config.vision.grid_side, dtype, given)
    notes = _fit_language(tokenizer.config, language.config)
    canvas = None if vqgan is None else read_canvas(_path(vqgan))
    features = Features.of(tokenizer.config, language.config.vocab)
    painters, more = _plan_painters(ar, canvas, sana, features, {}, dtype, given)
    planned = [tokenizer, language, *painters]
    config = _model_config(name, planned, language.config.vocab)
    report = _report(out, config.name, planned, (*notes, *more))
    if dry_run:
        _check_parts(planned)
    else:
        with atomic_folder(out) as unfinished:
            _write_parts(planned, unfinished, progress)
            model_folder.write_config(unfinished, config)
    return dataclasses.replace(report, written=not dry_run)


def add_to_model(
    folder: str | Path,
    *,
    ar: Sequence[str | Path] = (),
    vqgan: str | Path | None = None,
    sana: Sequence[str | Path] = (),
    dtype: Dtype = "keep",
    dry_run: bool = False,
    origins: Origins | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Add de-tokenizers to a model folder. The old parts are taken over as they are; a broken-off call changes nothing.

    Args:
        folder: a model folder of OpenTar.
        vqgan: the VQGAN of `ar`; None takes the one that stands in the folder.
        ar, sana, dtype, dry_run, origins, progress: as in `import_tar`.

    Raises:
        WeightsError: the folder or a file is damaged, or parts do not fit each other.
        ModelError: nothing to add, no VQGAN, or a de-tokenizer of that kind and size is there already.
        OutputError: the disk is too small or refuses.
    """
    # A link is followed: what it points to is replaced, not the link.
    folder = environment.expanded(folder).resolve()
    _check_dtype(dtype)
    if not ar and not sana:
        raise ModelError(f"nothing was given to add to {shown(folder)}; name AR or SANA de-tokenizers")
    config = model_folder.read_config(folder)
    verify(folder)
    tokenizer = ta_tok_config(folder)
    features = Features.of(tokenizer, model_folder.read_vocab(folder))
    standing = {part: pixels_of(folder / part) for part in config.parts if part.startswith(settings.DETOK_PREFIX)}
    canvas = canvas_of(folder, config) if vqgan is None else read_canvas(_path(vqgan))
    planned, notes = _plan_painters(ar, canvas, sana, features, standing, dtype, dict(origins or {}))
    grown = _grown(config, planned)
    report = _report(folder, config.name, planned, notes)
    if dry_run:
        _check_parts(planned)
    else:
        with atomic_folder(folder) as unfinished:
            for part in config.parts:
                link_tree(folder / part, unfinished / part)
            _write_parts(planned, unfinished, progress)
            model_folder.write_config(unfinished, grown)
    return dataclasses.replace(report, written=not dry_run)


def _path(given: str | Path) -> Path:
    return environment.expanded(given)


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {shown(dtype)}; choose {', '.join(DTYPES)}.{nearest(str(dtype), DTYPES)}")


def _name_of(llm: Path) -> str:
    """What a model is called after its folder, or after its repository where huggingface_hub's cache holds it."""
    path = llm.resolve()
    # models--OWNER--NAME/snapshots/COMMIT
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return path.name


def _checked_name(name: str) -> str:
    """`name`, which stands in lists and reports: one line, nothing that a terminal would obey."""
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise ConfigError(f"the model's name is {shown(name)}; give one of 1 to {MAX_NAME} printable characters")
    return name


def _check_free(out: Path) -> None:
    if not out.name:
        raise OutputError(f"{shown(out)} is no name for a new folder; name one")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{shown(out)} exists and is not an empty folder; choose another name")


def _fit_language(tokenizer: TATokConfig, language: LanguageConfig) -> tuple[str, ...]:
    """Refuse another codebook; tell about another width, which is no fault."""
    if tokenizer.quantizer.codebook_size != language.codebook_size:
        raise WeightsError(
            f"the image tokenizer has {tokenizer.quantizer.codebook_size} codes, the language model "
            f"{language.codebook_size}; take files that were trained together"
        )
    if tokenizer.quantizer.width == language.hidden:
        return ()
    return (
        f"the codebook is {tokenizer.quantizer.width} wide and the language model {language.hidden}: its rows for the "
        "codes are its own, trained ones, so nothing is projected",
    )


def _plan_painters(
    ar: Sequence[str | Path],
    canvas: Canvas | None,
    sana: Sequence[str | Path],
    features: Features,
    standing: Mapping[str, int],
    dtype: Dtype,
    origins: Origins,
) -> tuple[list[Planned], tuple[str, ...]]:
    """All de-tokenizers with their names, and notes. `standing`: part -> pixels of those that the model has."""
    if ar and canvas is None:
        raise ModelError("an AR de-tokenizer needs the VQGAN it was trained with; give it too (vq_ds16_t2i.pt)")
    taken = dict(standing)
    planned: list[Planned] = []
    notes: list[str] = []
    for path in (_path(one) for one in ar):
        assert canvas is not None
        new = plan_ar(path, canvas, dtype, origins)
        notes += _fit_ar(path, new.config, canvas, features)
        planned.append(_named(new, path, taken))
    for path in (_path(one) for one in sana):
        new = plan_sana(path, dtype, origins)
        _fit_width(path, new.config.feature_size, features)
        planned.append(_named(new, path, taken))
    return planned, tuple(dict.fromkeys(notes))


def _fit_width(path: Path, size: int, features: Features) -> None:
    if size != features.size:
        raise WeightsError(
            f"{path} takes features of width {size}, the image tokenizer gives {features.size}; "
            "take files that were trained together"
        )


def _fit_ar(path: Path, config: ARConfig, canvas: Canvas, features: Features) -> list[str]:
    _fit_width(path, config.feature_size, features)
    if config.codebook_size != canvas.config.codebook_size:
        raise WeightsError(
            f"{path} spells {config.codebook_size} picture codes, the VQGAN of {canvas.path} has "
            f"{canvas.config.codebook_size}; take files that were trained together"
        )
    fitting = [index for index, length in enumerate(features.lengths) if length <= config.prefix]
    if not fitting:
        raise WeightsError(
            f"{path} takes at most {config.prefix} features a picture, the image tokenizer gives "
            f"{', '.join(map(str, features.lengths))}; take files that were trained together"
        )
    if len(fitting) < len(features.lengths):
        return [f"{path.name} takes at most {config.prefix} features: it draws at scale {', '.join(map(str, fitting))}"]
    return []


def _named(new: Planned, path: Path, taken: dict[str, int]) -> Planned:
    """`new` under its own name, which is added to `taken`: the first of a kind takes the plain one."""
    base = new.report.part
    for part, pixels in taken.items():
        if (part == base or part.startswith(f"{base}_")) and pixels == new.pixels:
            raise ModelError(
                f"{path} draws {new.pixels} pixels a side, and so does {part}; a model holds one of a size"
            )
    part = base if base not in taken else f"{base}_{new.pixels}"
    if part in taken:
        raise ModelError(f"{path} would be {part}, which the model has already; one of a size is enough")
    taken[part] = new.pixels
    return new._replace(report=dataclasses.replace(new.report, part=part))


def _model_config(name: str, planned: Sequence[Planned], vocab: Vocab) -> ModelConfig:
    painters = [one for one in planned if one.pixels]
    # The authors' own default; the diffusion de-tokenizers are chosen by name.
    first = next((one for one in painters if one.report.part == "detok_ar"), painters[0] if painters else None)
    scale = 0
    if first is not None and isinstance(first.config, ARConfig):
        scale = next(scale.index for scale in vocab.scales if scale.length <= first.config.prefix)
    detok = first.report.part.removeprefix(settings.DETOK_PREFIX) if first else DrawSettings.detok
    draw = DrawSettings(scale=scale, detok=detok, temperature=1.0, top_k=1200, top_p=0.95)
    bare = ModelConfig(
        name=name,
        defaults=Defaults(draw=draw, read=ReadSettings(scale=0, max_new_tokens=256, describe=DESCRIBE)),
        licence="part by part, see part_licences",
        data=DATA,
    )
    return _grown(bare, planned)


def _grown(config: ModelConfig, planned: Sequence[Planned]) -> ModelConfig:
    """`config` with the parts, licences and sources of `planned`."""
    new = [one.report for one in planned]
    names = [report.part for report in new]
    parts = tuple(dict.fromkeys((*config.parts, *names)))
    defaults = config.defaults
    if not config.detokenizers and any(one.pixels for one in planned):
        # A model that could only read so far has no default of drawing that means anything.
        detok = next(one.report.part for one in planned if one.pixels).removeprefix(settings.DETOK_PREFIX)
        if defaults.draw.detok not in [name.removeprefix(settings.DETOK_PREFIX) for name in names]:
            defaults = dataclasses.replace(defaults, draw=dataclasses.replace(defaults.draw, detok=detok))
    return dataclasses.replace(
        config,
        parts=parts,
        defaults=defaults,
        part_licences={**config.part_licences, **{report.part: report.licence for report in new}},
        sources={**config.sources, **{report.part: report.files for report in new}},
    )


def _report(folder: Path, name: str, planned: Sequence[Planned], notes: tuple[str, ...]) -> ImportReport:
    """What will be written. Raises OutputError when the disk is too small, ModelError when the memory is."""
    needed = sum(one.report.bytes + _OVERHEAD for one in planned)
    check_room(folder, needed)
    # Sources are mapped, and parts are written one after the other.
    check_memory("importing", max((one.held for one in planned), default=0))
    free = free_bytes(folder)
    reports = tuple(one.report for one in planned)
    return ImportReport(
        folder=folder, name=name, parts=reports, notes=notes, needed_bytes=needed, free_bytes=free, written=False
    )


def _check_parts(planned: Sequence[Planned]) -> None:
    """Read every number, as a write does and in its order."""
    for one in planned:
        one.check()


def _write_parts(planned: Sequence[Planned], unfinished: Path, progress: Progress | None) -> None:
    for one in planned:
        one.write(unfinished / one.report.part, _step_of(one.report.part, progress))


def _step_of(part: str, progress: Progress | None) -> Count:
    def step(done: int, total: int) -> None:
        if progress is not None:
            progress(part, done, total)

    return step
