"""The models of a service: which names there are, and which of them are in memory."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from opentar.checkpoints import model_folder
from opentar.checkpoints.find import find_model
from opentar.core.disk import human_bytes
from opentar.core.errors import ConfigError, nearest, shown
from opentar.serve.refused import BusyError, UnknownModelError

if TYPE_CHECKING:
    from opentar.checkpoints.settings import ModelConfig
    from opentar.language.tokenizer import TextTokenizer
    from opentar.pipeline import Tar
    from opentar.vocab import Vocab


class ServedModel:
    """A model in memory and the engine that runs its language model.

    Args:
        name: what requests call it.
        tar: the model; its parts are loaded here, so that no request waits for one later. Of de-tokenizers only the
            default one: there may be several large ones.
        batch: answers side by side.
    """

    def __init__(self, name: str, tar: Tar, batch: int) -> None:
        self.name, self.tar, self.batch = name, tar, batch
        self.engine = tar.engine(batch)
        self.builder = tar.parts.builder
        self.tokenizer: TextTokenizer = self.builder.tokenizer
        self.vocab: Vocab = tar.parts.vocab
        self.positions = self.engine.backend.config.max_length
        self.config: ModelConfig = tar.parts.config
        tar.parts.ta_tok.codebook()
        self.sides: dict[str, int] = {}
        """De-tokenizer -> side of its pictures in pixels, of those that are loaded."""
        if self.config.detokenizers:
            self.load_painter(self.config.defaults.draw.detok)

    def load_painter(self, name: str) -> None:
        """Load a de-tokenizer; blocks. Raises ModelError, WeightsError."""
        self.sides[name] = self.tar.parts.detokenizer(name).image_size


class Entry:
    """A model that is served, in memory or not."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.config = model_folder.read_config(folder)
        self.bytes = sum(size for _, size in model_folder.part_files(folder))
        self.created = int(os.stat(folder).st_mtime)
        self.loaded: ServedModel | None = None
        self.users = 0
        self.used = 0.0

    @property
    def abilities(self) -> tuple[str, ...]:
        """What it can be asked for."""
        return abilities(self.config)


def abilities(config: ModelConfig) -> tuple[str, ...]:
    """What a model can be asked for. All read and say; those that have a de-tokenizer draw."""
    return ("draw", "read", "say") if config.detokenizers else ("read", "say")


class Shelf:
    """Loads models when they are asked for and lets those go that were not used for longest, within `memory` bytes.

    Args:
        models: name -> a name or folder as `Tar.from_pretrained` takes it; the first is the default.
        memory: bytes that the files of models in memory may have together, or None.
        batch: answers side by side of each.
        device, dtype, engine, encoder: as in `Tar.from_pretrained`.

    Raises:
        ConfigError: no model, or one that alone is larger than `memory`. And what `find_model` raises.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path],
        *,
        memory: int | None = None,
        batch: int = 16,
        device: str | None = None,
        dtype: str | None = None,
        engine: str | None = None,
        encoder: str = "torch",
    ) -> None:
        if not models:
            raise ConfigError("no model was named; name one to serve")
        self.entries = {name: Entry(name, find_model(place)) for name, place in models.items()}
        self.default = next(iter(self.entries))
        self._memory, self._batch = memory, batch
        self._device, self._dtype, self._engine, self._encoder = device, dtype, engine, encoder
        self._books, self._loading = threading.Lock(), threading.Lock()
        for entry in self.entries.values():
            if memory is not None and entry.bytes > memory:
                raise ConfigError(
                    f"{entry.name} has {human_bytes(entry.bytes)} and memory is {human_bytes(memory)}; give more"
                )

    def entry(self, name: str | None) -> Entry:
        """The model of a name, None the default. Raises UnknownModelError."""
        found = self.entries.get(self.default if name is None else name)
        if found is None:
            listed = ", ".join(self.entries)
            raise UnknownModelError(
                f"the model {shown(name)} is not served here; there is {listed}.{nearest(str(name), self.entries)}"
            )
        return found

    def take(self, entry: Entry) -> ServedModel:
        """The model, loaded where it is not; it stays until `give_back`. Blocks while it loads.

        Raises BusyError where the models that are at work leave no room, and what loading raises.
        """
        if (found := self.take_loaded(entry)) is not None:
            return found
        with self._loading:
            if (found := self.take_loaded(entry)) is not None:
                return found
            self._make_room(entry)
            from opentar.pipeline import Tar

            tar = Tar.from_pretrained(
                entry.folder, device=self._device, dtype=self._dtype, engine=self._engine, encoder=self._encoder
            )
            model = ServedModel(entry.name, tar, self._batch)
            with self._books:
                entry.loaded = model
                entry.users += 1
            return model

    def give_back(self, entry: Entry) -> None:
        """A request that took the model has ended."""
        with self._books:
            entry.users -= 1
            entry.used = time.monotonic()

    def take_loaded(self, entry: Entry) -> ServedModel | None:
        """As `take`, at once; None where the model is not loaded."""
        with self._books:
            if entry.loaded is not None:
                entry.users += 1
            return entry.loaded

    def _make_room(self, entry: Entry) -> None:
        if self._memory is None:
            return
        with self._books:
            held = [one for one in self.entries.values() if one.loaded is not None]
            idle = sorted((one for one in held if not one.users), key=lambda one: one.used)
            room = self._memory - sum(one.bytes for one in held)
            going = []
            while room < entry.bytes and idle:
                going.append(idle.pop(0))
                room += going[-1].bytes
            if room < entry.bytes:
                busy = ", ".join(one.name for one in held if one.users)
                raise BusyError(f"{entry.name} does not fit beside {busy}, which works; try again", 5)
            for one in going:
                one.loaded = None
        if going:
            gc.collect()
