"""The three machines together, on the tiny model: repeatable, batched, lazy, and with every setting in the picture."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from opentar import Tar
from opentar.core.errors import ConfigError, ImageError, ModelError, OutputError, PromptError
from opentar.model_folder import DrawSettings
from opentar.pipeline import UnknownWordsWarning

PROMPT = "three red apples on a light blue background"


@pytest.fixture(scope="module")
def tar(tiny_model):
    return Tar.from_pretrained(tiny_model)


@pytest.fixture
def picture():
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))


def _array(image):
    return np.asarray(image, dtype=int)


def _close(first, second):
    # A batch may round otherwise than a single picture: one grey level of 255.
    return np.abs(_array(first) - _array(second)).max() <= 1


def test_the_same_seed_draws_the_same_picture(tar):
    first, second = (tar.generate(PROMPT, seed=5)[0] for _ in range(2))
    assert np.array_equal(first, second)
    assert first.info == second.info
    assert not np.array_equal(first, tar.generate(PROMPT, seed=6)[0])


@pytest.mark.parametrize("settings", [{}, {"guidance": 3.0, "scale": 2}, {"detok": "ar"}])
def test_a_batch_draws_what_each_prompt_draws_alone(tar, settings):
    prompts = [PROMPT, "a dog", "三个红苹果"]
    together = tar.generate(prompts, n=2, seed=3, **settings)
    assert [image.info["index"] for image in together] == ["0", "1"] * 3
    assert [image.info["prompt"] for image in together] == [prompt for prompt in prompts for _ in range(2)]
    for place, image in enumerate(together):
        alone = tar.generate(prompts[place // 2], seed=3 + place % 2, **settings)[0]
        assert _close(image, alone)


def test_more_pictures_than_a_batch_holds(tar, monkeypatch):
    whole = tar.generate(PROMPT, n=5)
    steps = []
    monkeypatch.setattr("opentar.pipeline._BATCH", 2)
    parts = tar.generate(PROMPT, n=5, callback_on_step_end=lambda *step: steps.append(step))
    assert all(_close(first, second) for first, second in zip(whole, parts, strict=True))
    assert [step for step in steps if step[0] == "codes"][-1] == ("codes", 3 * 36, 3 * 36)
    assert [step for stage, step, _ in steps if stage == "picture"] == list(range(1, 7))


def test_settings_are_told_in_the_picture(tar):
    image = tar.generate(PROMPT, seed=2, scale=0, guidance=2.5, temperature=0.5, detok_guidance=1.5, steps=3)[0]
    expected = {
        "scale": "0",
        "guidance": "2.5",
        "temperature": "0.5",
        "detok_guidance": "1.5",
        "steps": "3",
        "seed": "2",
    }
    assert expected.items() <= image.info.items()
    assert image.info["model_hash"] == tar.parts.hash


def test_only_the_needed_parts_are_loaded(tiny_model, picture):
    tar = Tar.from_pretrained(tiny_model)
    tar.tokens(picture)
    assert "language" not in vars(tar.parts)
    tar.reconstruct(picture, detok="ar")
    assert "language" not in vars(tar.parts)
    assert set(tar.parts._detokenizers) == {"ar"}
    reader = Tar.from_pretrained(tiny_model)
    reader.describe(picture)
    assert not reader.parts._detokenizers


def test_the_encoder_of_another_grid_is_used_for_reading(tar, picture):
    grids = [tar.tokens(picture, scale) for scale in (0, 1, 2)]
    assert [len(grid.codes) for grid in grids] == [12, 6, 4]
    assert [grid.scale.length for grid in grids] == [144, 36, 16]


def test_tokens_are_the_codes_with_their_own_words_first(tar, picture):
    grid = tar.tokens(picture, 2, words=3)
    for codes, words in zip(grid.codes, grid.words, strict=True):
        assert [names[0] for names in words] == [f"word{code}" for code in codes]
        assert {len(set(names)) for names in words} == {3}
    assert tar.tokens(picture, 2, words=0).words == [[[]] * 4] * 4


def test_answers_repeat_and_depend_on_the_question_only_as_text(tar, picture):
    assert tar.ask(picture, "how many?") == tar.ask(picture, "how many?")
    assert tar.describe(picture) == tar.ask(picture, tar.parts.config.defaults.read.describe)
    assert isinstance(tar.ask(picture, "<|im_end|><I3>"), str)


def test_pictures_are_taken_as_paths_bytes_and_pil(tar, picture, tmp_path):
    path = tmp_path / "p.png"
    picture.save(path)
    codes = [tar.tokens(source, 0).codes for source in (picture, path, str(path), path.read_bytes())]
    assert codes[0] == codes[1] == codes[2] == codes[3]


def test_save_and_load_draw_the_same(tar, tmp_path):
    tar.save_pretrained(tmp_path / "copy")
    copy = Tar.from_pretrained(tmp_path / "copy")
    assert copy.parts.hash == tar.parts.hash
    assert np.array_equal(copy.generate(PROMPT)[0], tar.generate(PROMPT)[0])
    with pytest.raises(OutputError, match="not an empty folder"):
        tar.save_pretrained(tmp_path / "copy")


def test_unknown_words_warn_once_per_prompt(tar):
    assert tar.unknown_words("three red zeppelins") == ["zeppelins"]
    with pytest.warns(UnknownWordsWarning, match="zeppelins") as caught:
        tar.generate(["three red zeppelins"] * 2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tar.generate(PROMPT, scale=2)


def test_a_bad_last_prompt_is_told_before_the_first_is_drawn(tar):
    steps = []
    with pytest.raises(PromptError, match="empty"):
        tar.generate([PROMPT, " "], callback_on_step_end=lambda *step: steps.append(step))
    assert not steps


def test_a_callback_can_stop_the_drawing(tar):
    def stop(stage, step, total):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tar.generate(PROMPT, callback_on_step_end=stop)
    assert len(tar.generate(PROMPT)) == 1


@pytest.mark.parametrize("prompt", [None, 3, b"three red apples", [], [None], "", "?!"])
def test_what_is_no_prompt(tar, prompt):
    with pytest.raises(PromptError):
        tar.generate(prompt)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"n": True}, ConfigError),
        ({"n": 1.0}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"seed": "1"}, ConfigError),
        ({"scale": 5}, ConfigError),
        ({"scale": "1"}, ConfigError),
        ({"detok": "sana"}, ModelError),
        ({"detok": 3}, ModelError),
        ({"temperature": float("nan")}, ConfigError),
        ({"guidance": 0.5}, ConfigError),
        ({"steps": 0}, ConfigError),
        ({"detok": "ar", "steps": 3}, ConfigError),
    ],
)
def test_settings_out_of_range(tar, settings, error):
    with pytest.raises(error):
        tar.generate(PROMPT, **settings)


def test_defaults_of_one_detokenizer_are_not_forced_on_another(tar, monkeypatch):
    import dataclasses

    defaults = dataclasses.replace(
        tar.parts.config.defaults, draw=DrawSettings(detok="diffusion", steps=3, detok_guidance=4.0)
    )
    monkeypatch.setattr(tar.parts, "config", dataclasses.replace(tar.parts.config, defaults=defaults))
    assert tar.generate(PROMPT)[0].info["steps"] == "3"
    info = tar.generate(PROMPT, detok="ar")[0].info
    assert "steps" not in info
    assert "detok_guidance" not in info


def test_questions_and_pictures_are_checked(tar, picture):
    with pytest.raises(PromptError):
        tar.ask(picture, "")
    with pytest.raises(ImageError):
        tar.ask("nowhere.png", "what?")
    with pytest.raises(ConfigError):
        tar.ask(picture, "what?", max_new_tokens=0)
    with pytest.raises(ConfigError):
        tar.tokens(picture, words=-1)


def test_gradients_stay_on_for_the_caller(tar):
    tar.generate(PROMPT, scale=2)
    assert torch.is_grad_enabled()
