"""The end of a run: the trained parts put together into one model folder, stored small.

    python -m opentar.nano.bundle MODEL

gives a finished model folder what this module says today about its texts (spelling, known words). Weights stay.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opentar.checkpoints.model_folder import part_files, write_config, write_model
from opentar.checkpoints.model_folder import read_config as read_model_config
from opentar.checkpoints.settings import Defaults, DrawSettings, ModelConfig
from opentar.core.config import to_dict
from opentar.core.folder import CONFIG, MANIFEST, atomic_folder, load_part, read_config, save_part, saved_files
from opentar.language.folder import load_language, save_language
from opentar.language.known_words import KnownWords
from opentar.language.prompt import ChatTemplate, PromptBuilder
from opentar.nano.stages.pictures import ScenePictures
from opentar.nano.world.captions import caption
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import BACKGROUNDS, BACKGROUNDS_ZH, COLOURS, COLOURS_ZH
from opentar.nano.world.questions import questions
from opentar.tokens_to_image.ar import ARDetokenizer
from opentar.tokens_to_image.flow import FlowDetokenizer
from opentar.tokens_to_image.vqgan import LatentVQ
from opentar.train.stages.ta_tok import WORDS

DRAW = DrawSettings(scale=1, temperature=0.5, detok_guidance=1.7)
"""How nano draws unless told otherwise: the best on validation prompts (docs/lab.md)."""
LICENCE = "Apache-2.0 (weights); drawings and texts as NOTICE says"
DATA = (
    "Scenes of the nano world, drawn from the emoji families noto and noto-v1 (Apache-2.0), twemoji and emojione"
    " (CC-BY-4.0), fluent-flat, fluent-color and fluent-3d (MIT); texts of emojibase (MIT, Unicode-3.0) and WordNet"
    " 3.0; the codebook's frozen rows come from all-MiniLM-L6-v2 (Apache-2.0). openmoji, fxemoji and streamline were"
    " never trained on."
)


def bundle(storage: str, out: Path, known: Sequence[str] | None = None) -> dict[str, float]:
    """Write `out`/bundle/model, a whole model folder stored as `storage` says; returns its size in MB.

    `known` are the words that the model knows, None for `known_words()`.
    A broken-off bundle is simply made again: nothing is trained here.
    """
    work, model = out / "bundle" / "parts", out / "bundle" / "model"
    shutil.rmtree(out / "bundle", ignore_errors=True)
    results = {name: out / name / "result" for name in ("ta_tok", "tune", "polish", "ar")}
    config, state = load_part(results["ta_tok"] / "ta_tok")
    words = (results["ta_tok"] / "ta_tok" / WORDS).read_bytes()
    save_part(work / "ta_tok", config, state, storage, {WORDS: words})
    language = load_language(results["tune"] / "language")
    builder = PromptBuilder(language.builder.tokenizer, language.builder.vocab, template(), language.builder.limit)
    save_language(work / "language", language.model, builder, storage)
    flow = FlowDetokenizer.from_folder(results["polish"] / "detok")
    flow.autoencoder = flow.autoencoder.without_encoder()
    flow.save(work / "detok_diffusion", storage)
    preview = ARDetokenizer.from_folder(results["ar"] / "detok")
    assert isinstance(preview.canvas, LatentVQ)
    preview.canvas = preview.canvas.without_encoder()
    preview.save(work / "detok_ar", storage)
    parts = {name: work / name for name in ("ta_tok", "language", "detok_diffusion", "detok_ar")}
    settings = ModelConfig(
        name="nano",
        parts=tuple(parts),
        defaults=Defaults(draw=DRAW),
        known_words=known_words() if known is None else tuple(known),
        licence=LICENCE,
        data=DATA,
    )
    write_model(model, settings, parts)
    shutil.rmtree(work)
    return {"megabytes": sum(size for _, size in part_files(model)) / 1e6}


def restate(model: Path) -> None:
    """Give the finished model folder `model` today's `template` and `known_words`, and manifests that fit.

    Every other file stays as it is, byte for byte. Raises WeightsError, ConfigError or OutputError.
    """
    config = dataclasses.replace(read_model_config(model), known_words=known_words())
    with atomic_folder(model) as unfinished:
        for part in config.parts:
            shutil.copytree(model / part, unfinished / part)
        language = unfinished / "language"
        values = read_config(language)
        values["opentar"]["template"] = to_dict(template())
        with atomic_folder(language) as renewed:
            for name in set(saved_files(language)) - {CONFIG, MANIFEST}:
                shutil.copyfile(language / name, renewed / name)
            text = json.dumps(values, ensure_ascii=False, indent=2)
            (renewed / CONFIG).write_text(text + "\n", encoding="utf-8")
        write_config(unfinished, config)


def template() -> ChatTemplate:
    """Captions and questions know one form of each word: small letters, save for what the names themselves have."""
    words = {word for concept in load_concepts() for name in (concept.en, concept.plural) for word in name.split()}
    words |= {concept.zh for concept in load_concepts()}
    own = {word.lower(): word for word in sorted(words) if word != word.lower() or "-" in word}
    return ChatTemplate(fold=True, spellings=own | {"colour": "color", "grey": "gray"})


def known_words() -> tuple[str, ...]:
    """Every word of captions and questions: names, colours, grounds, and what a sample of sentences is made of."""
    words: set[str] = {*COLOURS, *COLOURS_ZH.values(), *BACKGROUNDS, *BACKGROUNDS_ZH.values()}
    for concept in load_concepts():
        words |= {concept.en, concept.plural, concept.zh}
    source, rng = ScenePictures(), np.random.default_rng(17)
    names, signs = KnownWords(words), set()
    for spec in source.specs(rng, 2000):
        said = [caption(spec, "en", rng), *(qa.question for qa in questions(spec, "en", rng, True))]
        words |= {word.strip(".,?!:;'\"").lower() for text in said for word in text.split()}
        # Chinese is written without spaces: what no name covers (measure words, "on") is known sign by sign.
        for text in (caption(spec, "zh", rng), *(qa.question for qa in questions(spec, "zh", rng, True))):
            signs |= {sign for run in names.split(text)[1] for sign in run}
    return tuple(sorted(word for word in words | signs if word))


if __name__ == "__main__":
    restate(Path(sys.argv[1]))
