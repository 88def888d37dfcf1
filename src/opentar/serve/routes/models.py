"""`/v1/models`."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request

from opentar.serve.context import service_of
from opentar.serve.models import Entry
from opentar.serve.schemas import ERRORS, FEW_ERRORS, Told

router = APIRouter(tags=["models"])


class ModelFacts(Told):
    """A model that is served; the fields from `abilities` on are our own."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    abilities: list[str]
    loaded: bool
    licence: str


class ModelList(Told):
    """All of them, the default first."""

    object: Literal["list"] = "list"
    data: list[ModelFacts]


@router.get("/v1/models", responses=FEW_ERRORS, summary="List the models")
async def models(request: Request) -> ModelList:
    """The models that are served, in memory or not."""
    return ModelList(data=[_facts(entry) for entry in service_of(request).shelf.entries.values()])


@router.get("/v1/models/{model:path}", responses={**FEW_ERRORS, 404: ERRORS[404]}, summary="One model")
async def model(model: str, request: Request) -> ModelFacts:
    """One model by its name."""
    return _facts(service_of(request).shelf.entry(model))


def _facts(entry: Entry) -> ModelFacts:
    return ModelFacts(
        id=entry.name,
        created=entry.created,
        owned_by="opentar",
        abilities=list(entry.abilities),
        loaded=entry.loaded is not None,
        licence=entry.config.licence,
    )
