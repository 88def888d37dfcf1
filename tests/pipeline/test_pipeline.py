"""The three machines together, on the tiny model: repeatable, batched, lazy, and with every setting in the picture."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from opentar import Tar
from opentar.checkpoints.settings import DrawSettings
from opentar.core.errors import ConfigError, ImageError, ModelError, OutputError, PromptError
from opentar.image_to_tokens.preprocess import to_pixels
from opentar.pipeline import UnknownWordsWarning
from opentar.tokens_to_image.previews import with_previews

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


def test_more_pictures_than_a_batch_holds(tar):
    whole = tar.generate(PROMPT, n=5)
    steps = []
    told = lambda *step: steps.append(step)  # noqa: E731
    parts = list(tar.generate_iter(PROMPT, n=5, batch_size=2, callback_on_step_end=told))
    assert all(_close(first, second) for first, second in zip(whole, parts, strict=True))
    assert [step for step in steps if step[0] == "codes"][-1] == ("codes", 3 * 36, 3 * 36)
    assert [step for stage, step, _ in steps if stage == "picture"] == list(range(1, 7))


def test_pictures_one_by_one_are_those_of_the_list(tar):
    whole = tar.generate([PROMPT, "a dog"], n=2, seed=3)
    steps = []
    drawn = tar.generate_iter(
        [PROMPT, "a dog"], n=2, seed=3, batch_size=3, callback_on_step_end=lambda *step: steps.append(step)
    )
    assert not steps
    first = next(drawn)
    # The batch that the first one is in, and no more.
    assert {(stage, step) for stage, step, total in steps if step == total // 2} == {("codes", 36), ("picture", 2)}
    assert max(step for stage, step, _ in steps if stage == "codes") == 36
    several = [first, *drawn]
    assert [image.info for image in several] == [image.info for image in whole]
    assert all(_close(*pair) for pair in zip(several, whole, strict=True))


def test_pictures_one_by_one_are_checked_in_the_call(tar):
    with pytest.raises(PromptError, match="prompt is empty"):
        tar.generate_iter([PROMPT, " "])
    with pytest.raises(ConfigError, match="batch_size is 0"):
        tar.generate_iter(PROMPT, batch_size=0)
    with pytest.raises(ModelError):
        tar.generate_iter(PROMPT, detok="sana")
    with pytest.warns(UnknownWordsWarning, match="zeppelins") as caught:
        tar.generate_iter("three red zeppelins")
    assert caught[0].filename == __file__


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
    tar.encode(picture)
    assert "language" not in vars(tar.parts)
    tar.reconstruct(picture, detok="ar")
    assert "language" not in vars(tar.parts)
    assert set(tar.parts._detokenizers) == {"ar"}
    reader = Tar.from_pretrained(tiny_model)
    reader.describe(picture)
    assert not reader.parts._detokenizers


def test_the_encoder_of_another_grid_is_used_for_reading(tar, picture):
    grids = [tar.encode(picture, scale) for scale in (0, 1, 2)]
    assert [len(grid.codes) for grid in grids] == [12, 6, 4]
    assert [grid.scale.length for grid in grids] == [144, 36, 16]


def test_tokens_are_the_codes_with_their_own_words_first(tar, picture):
    grid = tar.encode(picture, 2, words=3)
    for codes, words in zip(grid.codes, grid.words, strict=True):
        assert [names[0] for names in words] == [f"word{code}" for code in codes]
        assert {len(set(names)) for names in words} == {3}
    assert tar.encode(picture, 2, words=0).words == [[[]] * 4] * 4


def test_answers_repeat_and_depend_on_the_question_only_as_text(tar, picture):
    assert tar.ask(picture, "how many?") == tar.ask(picture, "how many?")
    assert tar.describe(picture) == tar.ask(picture, tar.parts.config.defaults.read.describe)
    assert isinstance(tar.ask(picture, "<|im_end|><I3>"), str)


def test_pictures_are_taken_as_paths_bytes_and_pil(tar, picture, tmp_path):
    path = tmp_path / "p.png"
    picture.save(path)
    codes = [tar.encode(source, 0).codes for source in (picture, path, str(path), path.read_bytes())]
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


def test_known_words_survive_an_unknown_one(tar):
    with pytest.warns(UnknownWordsWarning, match="'zeppelins'; left out of the picture"):
        (odd,) = tar.generate("three red apples and a zeppelins", seed=4)
    (plain,) = tar.generate("three red apples", seed=4)
    assert np.array_equal(odd, plain)
    assert (odd.info["prompt"], odd.info["encoded"]) == ("three red apples and a zeppelins", "three red apples")
    assert "encoded" not in plain.info
    with pytest.warns(UnknownWordsWarning, match="no word of this text is known to it.; the picture may be wrong"):
        (lost,) = tar.generate("zeppelins")
    assert "encoded" not in lost.info


def test_asking_warns_of_unknown_words_too(tar, picture):
    with pytest.warns(UnknownWordsWarning, match="'zeppelin'; the answer may be wrong") as caught:
        tar.ask(picture, "a red zeppelin")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tar.ask(picture, "three red apples")
        tar.describe(picture)


def test_the_warning_can_be_had_from_the_top():
    import opentar

    assert opentar.UnknownWordsWarning is UnknownWordsWarning
    assert "UnknownWordsWarning" in dir(opentar)


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
        tar.encode(picture, words=-1)


def test_gradients_stay_on_for_the_caller(tar):
    tar.generate(PROMPT, scale=2)
    assert torch.is_grad_enabled()


def _noise(seed, width=40, height=30):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def _flat(grid):
    return [code for row in grid.codes for code in row]


@pytest.fixture
def prompts_read(tar, monkeypatch):
    """(code runs, question) of every prompt that is built for reading."""
    built = []
    read = tar.parts.language.builder.reading
    monkeypatch.setattr(
        tar.parts.language.builder, "reading", lambda codes, text: built.append((codes, text)) or read(codes, text)
    )
    return built


@pytest.mark.parametrize("detok", ["diffusion", "ar"])
def test_pictures_can_be_looked_at_while_they_are_painted(tar, monkeypatch, detok):
    plain = tar.generate(PROMPT, n=2, detok=detok)
    looks, steps = [], []
    monkeypatch.setattr("opentar.drawing.with_previews", partial(with_previews, seconds=0))
    told = lambda *step: steps.append(step)  # noqa: E731
    looked = tar.generate(PROMPT, n=2, detok=detok, callback_on_preview=looks.append, callback_on_step_end=told)
    assert [one.tobytes() for one in looked] == [one.tobytes() for one in plain]
    assert looks and all([one.size for one in look] == [one.size for one in plain] for look in looks)
    assert looks[0][0].tobytes() != plain[0].tobytes()
    assert steps[-1][0] == "picture" and steps[-1][1] == steps[-1][2]
    looks.clear()
    tar.reconstruct(plain[0], detok=detok, callback_on_preview=looks.append)
    assert looks


def test_several_pictures_in_one_prompt_each_at_its_own_scale(tar, prompts_read):
    first, second = _noise(1), _noise(2)
    answer = tar.ask([first, second], "are they the same?", scale=[0, 2])
    assert isinstance(answer, str)
    flat = [_flat(tar.encode(picture, scale)) for picture, scale in ((first, 0), (second, 2))]
    assert prompts_read == [(flat, "are they the same?")]
    tar.ask([first, second], "are they the same?")
    assert [len(run) for run in prompts_read[1][0]] == [36, 36]
    tar.ask([first, first], "are they the same?", scale=[2, None])
    assert [len(run) for run in prompts_read[2][0]] == [16, 36]


def test_a_batch_of_questions_answers_what_each_answers_alone(tar, monkeypatch):
    monkeypatch.setattr("opentar.pipeline.BATCH", 2)
    pictures = [_noise(seed) for seed in range(3)]
    questions = ["what is in the picture?", "how many?", "is there a dog to the left of the blue car?"]
    assert tar.ask(pictures, questions) == [tar.ask(*one) for one in zip(pictures, questions, strict=True)]
    assert tar.ask(pictures[0], tuple(questions)) == [tar.ask(pictures[0], question) for question in questions]
    mixed = [[pictures[0], pictures[1]], pictures[2], pictures[0]]
    scales = [[0, 2], 1, None]
    alone = [tar.ask(image, text, scale=scale) for image, text, scale in zip(mixed, questions, scales, strict=True)]
    assert tar.ask(mixed, questions, scale=scales) == alone


def test_a_picture_asked_about_many_times_is_encoded_once(tar, prompts_read, monkeypatch):
    runs = []
    encode = tar.parts.ta_tok.encode_scales
    monkeypatch.setattr(
        tar.parts.ta_tok, "encode_scales", lambda pixels, grids: runs.append(len(grids)) or encode(pixels, grids)
    )
    one, two = _noise(1), _noise(2)
    tar.ask([one, [one, two], two], ["what?", "which?", "where?"], scale=[0, [1, 0], 0])
    assert runs == [2, 1]
    assert [[len(run) for run in runs] for runs, _ in prompts_read] == [[144], [36, 144], [144]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], "what?"), PromptError, "no picture"),
        ((["a.png", "b.png"], ["what?"]), PromptError, "2 pictures were given for 1 questions"),
        (("a.png", []), PromptError, "list of questions is empty"),
        (("a.png", ["what?", "?!"]), PromptError, "no word"),
        (("a.png", " "), PromptError, "question is empty"),
        ((3, "what?"), ImageError, "int"),
    ],
)
def test_what_cannot_be_asked(tar, arguments, error, message):
    with pytest.raises(error, match=message):
        tar.ask(*arguments)


def test_scales_and_fits_that_do_not_fit(tar, picture):
    with pytest.raises(ConfigError, match="2 scales were given for 1 pictures"):
        tar.ask(picture, "what?", scale=[0, 1])
    with pytest.raises(ConfigError, match="1 scales were given for 2 questions"):
        tar.ask(picture, ["what?", "where?"], scale=[0])
    with pytest.raises(ConfigError, match="scale 3"):
        tar.ask(picture, "what?", scale=3)
    for call in (tar.tokens, tar.reconstruct, tar.describe, lambda image, fit: tar.ask(image, "what?", fit=fit)):
        with pytest.raises(ConfigError, match="squash or letterbox"):
            call(picture, fit="crop")


@pytest.mark.parametrize("size", [(2, 2), (400, 20), (3, 90), (64, 64)])
def test_pictures_of_any_size_are_squashed_or_letterboxed_on_request(tar, prompts_read, size):
    picture = _noise(5, *size)
    side = tar.parts.ta_tok.config.vision.image_size
    for fit in ("squash", "letterbox"):
        given = to_pixels(picture, side, fit=fit)[None]
        expected = tar.parts.ta_tok.encode(given, tar.parts.vocab.scale(0))[0].tolist()
        assert _flat(tar.encode(picture, 0, fit=fit)) == expected
        tar.ask(picture, "what?", scale=0, fit=fit)
        tar.describe(picture, scale=0, fit=fit)
        assert [runs for runs, _ in prompts_read[-2:]] == [[expected], [expected]]
        again = tar.reconstruct(picture, scale=0, fit=fit)
        assert again.size == (32, 32)
        assert again.info["fit"] == fit
    assert tar.encode(picture, 0).codes == tar.encode(picture, 0, fit="squash").codes


def test_a_model_in_bfloat16_draws_reads_and_reconstructs(tiny_model, picture):
    tar = Tar.from_pretrained(tiny_model, dtype="bfloat16")
    assert tar.parts.language.model.dtype == torch.bfloat16
    for detok in ("diffusion", "ar"):
        drawn = tar.generate([PROMPT, "a dog"], detok=detok, guidance=2.0, scale=2)
        assert [image.size for image in drawn] == [(32, 32)] * 2
    assert tar.reconstruct(picture).size == (32, 32)
    assert len(tar.ask(picture, ["what?", "where is the dog?"])) == 2
    with pytest.raises(ConfigError, match="dtype"):
        Tar.from_pretrained(tiny_model, dtype="float12")
