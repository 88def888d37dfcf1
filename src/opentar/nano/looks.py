"""How nano's language model is looked at while it learns: held-out texts, told scenes, drawings and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from opentar.data.stream import on
from opentar.engine.backends.torch_backend import TorchBackend
from opentar.engine.engine import Engine
from opentar.engine.request import Codes, Request, Sampling, Text
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.prompt import Shown, Turn
from opentar.nano.corpus import SceneCorpus
from opentar.nano.stages.heads import DenseHeads
from opentar.nano.stages.pictures import ScenePictures
from opentar.nano.tasks import JointSettings, TextSettings, TextTasks, any_task, asked_about, exchange, told_questions
from opentar.nano.world.captions import plain
from opentar.nano.world.palette import COLOURS
from opentar.nano.world.spec import SceneSpec
from opentar.train.corpus import encode_pictures, scales_of
from opentar.train.stages.language import pad_batch


@dataclass(frozen=True, kw_only=True)
class TextLook:
    """Held-out entries of the text corpus, and questions about told scenes of held-out combinations."""

    settings: TextSettings
    texts: TextTasks

    def scores(self, engine: Engine) -> dict[str, float]:
        """Nats of held-out texts, and exact answers to the first question about told scenes, by kind."""
        rng = np.random.default_rng(7)
        tasks = [any_task(entry, rng) for entry in self.texts.kept_back for _ in range(2)][:256]
        builder, backend = engine.builder, engine.backend
        assert isinstance(backend, TorchBackend), "losses need the model itself"
        batch = pad_batch([builder.labelled(exchange(*task)) for task in tasks], builder.padding)
        batch = on(backend.model.device, batch)
        nats = float(backend.model.loss_parts(batch["ids"], batch["labels"]).text)
        return {"held_out_nats": nats, **self._told(engine)}

    def _told(self, engine: Engine) -> dict[str, float]:
        source, rng = ScenePictures(split="val"), np.random.default_rng(9)
        asked = []
        for spec in source.specs(rng, max(2, self.settings.loop.score_size // 2)):
            told, chosen = told_questions(spec, "en", rng)
            asked.append((f"{told}\n{chosen[0].question}", chosen[0]))
        said = _said(engine, [(text,) for text, _ in asked], max_new_tokens=12)
        right: dict[str, list[bool]] = {}
        for (_, qa), text in zip(asked, said, strict=True):
            right.setdefault(qa.kind, []).append(text.strip() == qa.answer)
        return {f"told_{kind}": float(np.mean(values)) for kind, values in sorted(right.items())}

    def samples(self, engine: Engine) -> Sequence[str]:
        """Nothing: the answers are scored."""
        return ()


@dataclass(frozen=True, kw_only=True)
class DrawLook:
    """Held-out scenes drawn; the teacher's heads read names and colours from the codes."""

    settings: JointSettings
    corpus: SceneCorpus
    """What is drawn: scenes are of its styles and places."""
    ta_tok: TATok
    heads: DenseHeads

    def scores(self, engine: Engine) -> dict[str, float]:
        """Share of drawings with the right names, and with the right colours where some were asked for."""
        scores, grammar = {}, Codes(scale=engine.builder.vocab.scale(self.settings.shown_scale))
        sampling = Sampling(temperature=0.7, top_p=0.9)
        for kind in ("single", "colour", "two"):
            source = ScenePictures(split="val", styles=self.corpus.styles, kinds=[kind], tidy=self.corpus.tidy)
            specs = source.specs(np.random.default_rng(9), max(2, self.settings.loop.score_size // 8))
            prompts = [[Turn("user", (plain(spec, "en"),))] for spec in specs]
            drawn = engine.results(
                [
                    Request(turns=turns, grammar=grammar, sampling=sampling, seed=seed)
                    for seed, turns in enumerate(prompts)
                ]
            )
            right = [
                said_right(self.heads, self.ta_tok.decode(torch.tensor([one.ids])), spec)
                for one, spec in zip(drawn, specs, strict=True)
            ]
            scores[f"draw_{kind}"] = float(np.mean(right))
        return scores

    def samples(self, engine: Engine) -> Sequence[str]:
        """Nothing: codes are no sight without a de-tokenizer."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ReadLook:
    """Held-out scenes read: exact answers by kind, and descriptions to look at."""

    settings: JointSettings
    ta_tok: TATok

    def _codes(self, specs: Sequence[SceneSpec], source: ScenePictures) -> list[list[int]]:
        pixels, scales = source.pictures(specs), scales_of(self.ta_tok.config)
        codes: list[list[int]] = encode_pictures(pixels, self.ta_tok, None, scales)["codes1"].tolist()
        return codes

    def scores(self, engine: Engine) -> dict[str, float]:
        """Share of exact answers, by kind of question."""
        source, rng = ScenePictures(split="val"), np.random.default_rng(9)
        specs = source.specs(rng, max(2, self.settings.loop.score_size // 3))
        codes = self._codes(specs, source)
        asked = [
            (row, qa)
            for row, spec in zip(codes, specs, strict=True)
            for qa in asked_about(spec, "en", rng, self.settings)
        ]
        right: dict[str, list[bool]] = {}
        said = _said(engine, [(Shown(row), "\n", qa.question) for row, qa in asked], max_new_tokens=40)
        for (_, qa), text in zip(asked, said, strict=True):
            right.setdefault(qa.kind, []).append(text.strip() == qa.answer)
        return {f"read_{kind}": float(np.mean(values)) for kind, values in sorted(right.items())}

    def samples(self, engine: Engine) -> Sequence[str]:
        """Scenes and how they are described."""
        source = ScenePictures(split="val")
        specs = source.specs(np.random.default_rng(3), 12)
        shown = [(Shown(row), "\n", "Describe the picture.") for row in self._codes(specs, source)]
        said = _said(engine, shown, max_new_tokens=40)
        return [f"{plain(spec, 'en')}  ->  {text}" for spec, text in zip(specs, said, strict=True)]


def _said(engine: Engine, asked: Sequence[tuple[str | Shown, ...]], max_new_tokens: int) -> list[str]:
    """The likeliest answer to each text, or to each picture and text."""
    grammar = Text(max_new_tokens=max_new_tokens)
    done = engine.results([Request(turns=[Turn("user", parts)], grammar=grammar) for parts in asked])
    return [engine.builder.tokenizer.decode(list(one.ids)) for one in done]


def said_right(heads: DenseHeads, feats_1ND: torch.Tensor, spec: SceneSpec) -> bool:
    """Whether the frozen heads find exactly the scene's names, each in its colour where one was asked for."""
    found = heads.names(feats_1ND)
    wanted = {(item.concept, COLOURS.index(item.colour) if item.colour else None) for item in spec.objects}
    coloured = all(any(name == concept and colour in (None, hue) for name, hue in found) for concept, colour in wanted)
    return coloured and {name for name, _ in found} == {concept for concept, _ in wanted}
