"""Prompts for a scene in the words of people: a template of a family that fits the scene, filled by lot."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from opentar.core.errors import DataError
from opentar.nano.wording.grammar import bare, described, portion
from opentar.nano.wording.strangers import descriptions, places, things
from opentar.nano.wording.templates import FAMILIES, Template, templates
from opentar.nano.world.captions import article, concept_of, listed, plain
from opentar.nano.world.layout import Draws
from opentar.nano.world.spec import MOSAIC, SceneSpec, counted

SLOT = re.compile(r"{(\w+)}")
"""A place of a template that is filled."""

_ONLY_SINGLE = {"bare", "bare_zh", "bare_en", "described"}


def slots(text: str) -> set[str]:
    """The names in braces of a template."""
    return set(SLOT.findall(text))


def fits(template: Template, spec: SceneSpec) -> bool:
    """Whether a template can say the scene: one thing by its name, several without a number, and so on."""
    if spec.kind == MOSAIC or not spec.objects:
        return False
    if counted(spec):
        # 几只猫 has a bare name in it, but says that there are several.
        return template.family == "plural" or not slots(template.text) & _ONLY_SINGLE
    if template.family == "plural":
        return False
    if len(spec.objects) == 1:
        return not (template.text.startswith("one ") and concept_of(spec.objects[0]).mass)
    # Behind a clause of places, a further thing or place would belong to the last noun only.
    needs = _ONLY_SINGLE | {"place", "thing"} if spec.kind == "position" else _ONLY_SINGLE
    return not slots(template.text) & needs


def fill(template: Template, spec: SceneSpec, rng: np.random.Generator, *, ground: float = 0.0) -> str:
    """A template as a prompt for a scene.

    Args:
        template: one that fits; another raises DataError.
        spec: the scene; tidy scenes have their first object on the left and are said in that order.
        rng: decides which unknown words come in, and the portion of what is not counted.
        ground: how often the background is named, where the template has no place of its own.
    """
    if not fits(template, spec):
        raise DataError(f"the wording {template.text!r} cannot say a {spec.kind!r} scene; ask `fits` first")
    draws, lang, item = Draws(rng), template.lang, spec.objects[0]
    concept, needed = concept_of(item), slots(template.text)
    named = draws.unit() < ground and not needed & {"place", "thing"}

    def said(own: str) -> str:
        if own == "en" and len(spec.objects) == 1 and concept.mass and not named and draws.unit() < 0.5:
            return portion(concept, item.colour)
        return plain(spec, own, named) if spec.kind == "position" or named else listed(spec, own)

    values = {
        "one": lambda: said(lang),
        "zh": lambda: said("zh"),
        "en": lambda: said("en"),
        "bare": lambda: bare(concept, lang, item.colour),
        "bare_zh": lambda: bare(concept, "zh", item.colour),
        "bare_en": lambda: bare(concept, "en", item.colour),
        "many": lambda: bare(replace(concept, en=concept.plural), "en", item.colour),
        "measure": lambda: concept.measure,
        "described": lambda: described(
            concept, lang, [draws.pick(descriptions(lang, held_out=template.held_out))], item.colour
        ),
        "place": lambda: draws.pick(places(lang, held_out=template.held_out)),
        "thing": lambda: _stranger(draws.pick(things(lang, held_out=template.held_out)), lang),
    }
    return template.text.format(**{name: values[name]() for name in sorted(needed)})


def _stranger(name: str, lang: str) -> str:
    return f"{article(name)} {name}" if lang == "en" else f"一个{name}"


def worded(spec: SceneSpec, lang: str, rng: np.random.Generator, *, held_out: bool = False, ground: float = 0.4) -> str:
    """One prompt for a scene: a family by lot, then one of its templates that fit. Pure function of `rng`."""
    fitting = [one for one in templates(lang, held_out=held_out) if fits(one, spec)]
    if not fitting:
        raise DataError(f"no wording says a {spec.kind!r} scene in {lang!r}; give a scene with one to four objects")
    families = [family for family in FAMILIES if any(one.family == family for one in fitting)]
    family = families[int(rng.integers(len(families)))]
    own = [one for one in fitting if one.family == family]
    return fill(own[int(rng.integers(len(own)))], spec, rng, ground=ground)
