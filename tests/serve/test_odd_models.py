"""A model that says what it should not: it never ends, ends at once, wants codes in texts and texts among codes."""

import pytest

CHAT = "/v1/chat/completions"
DRAW = "/v1/images/generations"


@pytest.fixture
def wanting(live, monkeypatch):
    """`wanting(ids)`: from now on the model finds these ids likelier than all others, wherever they may come."""
    backend = live.service.shelf.entry(None).loaded.engine.backend
    plain = backend.logits

    def want(wanted: set[int]) -> None:
        def logits(slots, ids):
            found = plain(slots, ids).clone()
            places = [number for number, one in enumerate(ids) if one in wanted]
            found[:, places] += 1000.0
            return found

        monkeypatch.setattr(backend, "logits", logits)

    return want


@pytest.fixture
def vocab(live):
    return live.service.shelf.entry(None).loaded.vocab


def cut(live) -> float:
    return live.service.metrics.cut_texts.labels("tiny")._value.get()


def said(live, **more) -> tuple[str, str]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a dog"}], "max_tokens": 9, "temperature": 1.0}
    response = live.http.post(CHAT, json=body | more)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def test_a_text_that_never_ends_is_cut_and_counted(live, wanting) -> None:
    before = cut(live)
    wanting({5})
    text, reason = said(live)
    assert reason == "length" and text
    assert cut(live) == before + 1
    assert f'opentar_cut_texts_total{{model="tiny"}} {before + 1}' in live.http.get("/metrics").text


def test_a_text_that_ends_at_once_is_empty(live, wanting) -> None:
    before = cut(live)
    wanting({live.service.shelf.entry(None).loaded.tokenizer.special("<|im_end|>")})
    assert said(live) == ("", "stop")
    assert cut(live) == before, "it has ended by itself"


@pytest.mark.parametrize("kind", ["codes", "begin", "scales", "end"])
def test_pieces_of_pictures_in_a_text_cannot_be_said(live, wanting, vocab, kind) -> None:
    """Nested beginnings, codes, an end that nothing began: the text is of letters alone."""
    ids = {
        "codes": set(range(vocab.first_code, vocab.first_code + vocab.codebook_size)),
        "begin": {vocab.image_start},
        "scales": {vocab.scale_token(index) for index in range(3)},
        "end": {vocab.image_end},
    }[kind]
    wanting(ids)
    text, reason = said(live, seed=1)
    assert reason in ("length", "stop")
    assert "<I" not in text and "<S" not in text and "<im_" not in text


@pytest.mark.parametrize("quality", ["low", "medium", "high"])
def test_a_picture_has_all_its_codes_whatever_the_model_wants(live, wanting, vocab, quality) -> None:
    """It wants to stop, to begin again, to write: short, long and mixed grids cannot come out."""
    wanting({vocab.image_end, vocab.image_start, vocab.scale_token(0), 5})
    body = {"prompt": "a dog", "quality": quality, "seed": 1}
    response = live.http.post(DRAW, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["output_tokens"] == {"low": 16, "medium": 36, "high": 144}[quality]
