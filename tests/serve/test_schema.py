"""Requests made from the server's own OpenAPI document: every answer is one that the document describes."""

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="schemathesis is not installed")
positive_data_acceptance = pytest.importorskip("schemathesis.specs.openapi.checks").positive_data_acceptance

pytestmark = pytest.mark.slow
KEY = "sesame"
EXAMPLES = 25
"""Requests of each kind to each route."""
BOUNDED = hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


@pytest.fixture(scope="module")
def operations(serving):
    """Every route with its method, of a server that wants a key."""
    with serving(keys=(KEY,)) as live:
        headers = {"Authorization": f"Bearer {KEY}"}
        schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json", headers=headers)
        found = [one.ok() for one in schema.get_all_operations()]
        assert len(found) >= 13
        yield found
        assert live.idle()


def statuses(operation, mode) -> set[int]:
    """Those of many requests to a route. Raises where one is not described, or the body is not."""
    seen = set()

    @BOUNDED
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def check(case) -> None:
        valid = mode is schemathesis.GenerationMode.POSITIVE
        if valid and isinstance(case.body, dict) and "model" in case.body:
            # A name that is not served would hide all that comes after it.
            case.body["model"] = "tiny"
        # Which fields may not be together, no JSON schema says: 400 may be the answer to what fits the schema.
        excluded = [positive_data_acceptance]
        headers = {"Authorization": f"Bearer {KEY}"}
        seen.add(case.call_and_validate(headers=headers, timeout=60, excluded_checks=excluded).status_code)

    check()
    return seen


def test_answers_to_what_fits_the_document(operations) -> None:
    mode = schemathesis.GenerationMode.POSITIVE
    seen = {one.label: statuses(one, mode) for one in operations}
    done = {label for label, found in seen.items() if 200 in found}
    assert done >= {"POST /v1/responses", "POST /v1/images/generations", "GET /v1/models", "GET /health"}, seen


def test_answers_to_what_does_not_fit_it(operations) -> None:
    mode = schemathesis.GenerationMode.NEGATIVE
    # Nothing can be wrong with a request that has nothing in it.
    seen = {one.label: statuses(one, mode) for one in operations if one.body}
    # Where it spoils nothing but the key, which is put right again, the answer is 200: it counts that as no fault.
    assert len(seen) >= 5 and all(400 in found for found in seen.values()), seen
