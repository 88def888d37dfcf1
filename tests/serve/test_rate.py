"""How often a key may ask."""

import openai
import pytest

from opentar.commands.serve import _keys
from opentar.core.errors import ConfigError
from opentar.serve.rate import Rate


def test_a_key_that_asks_too_often_waits_and_others_do_not(serving) -> None:
    with serving(keys=("one", "two"), rate=Rate(3)) as live, live.openai("one") as one, live.openai("two") as two:
        for _ in range(3):
            assert [model.id for model in one.models.list()] == ["tiny"]
        with pytest.raises(openai.RateLimitError) as told:
            one.models.list()
        assert (told.value.code, told.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert 1 <= int(told.value.response.headers["retry-after"]) <= 20
        assert [model.id for model in two.models.list()] == ["tiny"]
        # Wrong keys and the open paths are not counted, and not held up.
        assert live.http.get("/v1/models", headers={"authorization": "Bearer three"}).status_code == 401
        assert live.http.get("/health").status_code == 200
        metrics = live.http.get("/metrics", headers={"authorization": "Bearer two"}).text
        assert 'opentar_refusals_total{reason="429"} 1.0' in metrics


def test_the_bucket_fills_again() -> None:
    times = [0.0]
    rate = Rate(2, clock=lambda: times[0])
    assert [rate.wait(b"a") for _ in range(3)] == [0, 0, 30]
    times[0] = 29.0
    assert (rate.wait(b"a"), rate.wait(b"b")) == (1, 0)
    times[0] = 30.0
    assert [rate.wait(b"a") for _ in range(2)] == [0, 30]
    times[0] = 10_000.0
    assert [rate.wait(b"a") for _ in range(3)] == [0, 0, 30], "no more is saved up than a minute's"


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_that_is_none(rate) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        Rate(rate)


def test_several_keys(monkeypatch) -> None:
    monkeypatch.delenv("OPENTAR_API_KEY", raising=False)
    assert _keys(None) == []
    assert _keys(["a", "b"]) == ["a", "b"]
    monkeypatch.setenv("OPENTAR_API_KEY", " a  b ")
    assert _keys(None) == ["a", "b"]
    assert _keys(["c"]) == ["c"], "the command line comes first"
    monkeypatch.setenv("OPENTAR_API_KEY", "  ")
    with pytest.raises(ConfigError, match="empty"):
        _keys(None)
