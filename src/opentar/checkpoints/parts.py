"""The parts of one model folder, each loaded when it is first needed and kept: start-up costs only what is used."""

import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from opentar.checkpoints import model_folder, settings
from opentar.checkpoints.needs import check_room
from opentar.core.device import resolve_device
from opentar.core.errors import ModelError, WeightsError
from opentar.core.folder import CONFIG, changed_parts, folder_hash, is_quantized, read_listed, verify
from opentar.core.headers import read_header
from opentar.core.manifest import read_manifest
from opentar.core.precision import DtypeWarning, choose_types, device_facts
from opentar.core.storage import resolve_dtype
from opentar.vocab import Vocab

if TYPE_CHECKING:
    from opentar.core.storage import LoadDtype
    from opentar.image_to_tokens.ta_tok import TATok
    from opentar.language.folder import Language
    from opentar.language.openvino_model import OpenVINOLanguage
    from opentar.language.prompt import PromptBuilder
    from opentar.tokens_to_image.detokenizer import Detokenizer


class ModelParts:
    """Config, alphabet and parts of a model folder.

    Args:
        folder: as `model_folder` describes it.
        device: "cpu", "cuda", "mps" or None for the best there is.
        dtype: "float32" or "bfloat16" for the language model, the image tokenizer, and the transformers of AR and SANA
            de-tokenizers; "float16" (cuda and mps) for the language model and the AR transformer, with float32 for the
            others; None runs them in the type they are stored in (int8 in float32, but on a CPU what opentar quantize
            wrote is computed as it is), or in the nearest that the device has. The codebook and whatever paints pixels
            are float32 in any case. Weights that need not change their type are mapped from the disk.
        encoder: what runs the encoder of pictures: "torch", or OpenVINO ("openvino-float32", "openvino-bfloat16",
            "openvino-int8").

    Raises:
        WeightsError, ConfigError, ModelError: the folder is damaged or no model.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        encoder: str = "torch",
    ) -> None:
        self.folder, self._encoder = Path(folder), encoder
        # Files of parts are compared by whoever loads the part; it may have been saved again by its own class, which
        # gives the model another hash.
        verify(self.folder, deep=False, parts=False)
        self.config = model_folder.read_config(self.folder)
        model_folder.check_parts(self.folder, self.config)
        self.hash = folder_hash(self.folder)
        if changed := changed_parts(self.folder):
            warnings.warn(
                f"{', '.join(changed)} changed since this model was put together; its hash is now {self.hash}",
                stacklevel=3,
            )
        self.device = resolve_device(device)
        self._types, remark = choose_types(device_facts(self.device), self._stored_bfloat16, resolve_dtype(dtype))
        if remark:
            warnings.warn(remark, DtypeWarning, stacklevel=3)
        self._detokenizers: dict[str, Detokenizer] = {}
        self.ar_in_openvino = False
        """Whether OpenVINO runs AR de-tokenizers that are loaded from now on; for a model on a CPU."""

    @property
    def running(self) -> dict[str, str]:
        """Part -> the type it runs in; "stored" is that of its file, int8 in float32; "packed" computes quantized."""
        parts = [part for part in self.config.parts if part not in settings.REQUIRED_PARTS]
        types = {part: self._type(part) for part in (*settings.REQUIRED_PARTS, *parts)}
        for part in parts:
            if part.startswith("detok_diffusion") and not (self.folder / part / "model_index.json").is_file():
                types[part] = torch.float32
        return {part: str(dtype).removeprefix("torch.") for part, dtype in types.items()}

    def check_memory(self, *parts: str, rows: int = 1) -> None:
        """Refuse a task that needs these parts where they will not fit into memory, before any of them is loaded.

        `rows`: sequences side by side. On other devices than the CPU nothing is said. Raises ModelError.
        """
        here = self.__dict__
        loaded = [part for part in parts if part in here or part.removeprefix("detok_") in self._detokenizers]
        if self.device.type == "cpu" and len(loaded) < len(parts):
            running = self.running
            check_room(self.folder, {part: running[part] for part in parts}, loaded, rows=rows)

    def _type(self, part: str) -> "LoadDtype":
        dtype = self._types[next(kind for kind in self._types if part.startswith(kind))]
        quantized = dtype == "stored" and self.device.type == "cpu" and is_quantized(self.folder / part)
        return "packed" if quantized else dtype

    def _stored_bfloat16(self, kind: str) -> bool:
        """Whether weights of a kind of part are bfloat16, by the headers of their files; flow runs in float32."""
        folders = [self.folder / part for part in self.config.parts if part.startswith(kind)]
        if kind == "detok_diffusion":
            folders = [folder for folder in folders if (folder / "model_index.json").is_file()]
        files = [
            path
            for folder in folders
            for path in (*folder.glob("*.safetensors"), *folder.glob("transformer/*.safetensors"))
        ]
        return any(tensor.dtype == "BF16" for path in files for tensor in read_header(path).values())

    @cached_property
    def vocab(self) -> Vocab:
        """The alphabet: ids of words and codes, and the three grids."""
        read_listed(self.folder / "language", CONFIG)
        return model_folder.read_vocab(self.folder)

    @cached_property
    def ta_tok(self) -> "TATok":
        """Picture <-> codes <-> features. Raises WeightsError when it does not fit the language part."""
        from opentar.image_to_tokens.ta_tok import TATok

        ta_tok = TATok.from_folder(self.folder / "ta_tok", self._type("ta_tok"), self._encoder)
        own = (ta_tok.config.quantizer.codebook_size, ta_tok.config.vision.grid_side)
        spoken = (self.vocab.codebook_size, self.vocab.grid_side)
        if own != spoken:
            raise WeightsError(
                f"ta_tok has {own[0]} codes on a grid of side {own[1]}, the language part {spoken[0]} and {spoken[1]}; "
                "put parts together that were trained together"
            )
        self._check_hash("ta_tok")
        return ta_tok.to(self.device)

    @property
    def language_in_gguf(self) -> bool:
        """Whether the language model lies in a GGUF file, which llama.cpp runs."""
        from opentar.language.gguf_facts import GGUF_FILE

        return GGUF_FILE in read_manifest(self.folder / "language")

    @property
    def language_engine(self) -> str | None:
        """What the language folder was made to be run by, where it says so."""
        from opentar.language.folder import made_for

        return made_for(self.folder / "language")

    @cached_property
    def language_in_openvino(self) -> "OpenVINOLanguage":
        """The language model in OpenVINO. Raises ModelError where that is not installed."""
        from opentar.language.openvino_model import load_openvino

        language = load_openvino(self.folder / "language", self._type("language"))
        self._check_hash("language")
        return language

    @cached_property
    def builder(self) -> "PromptBuilder":
        """The builder of sequences, with the tokenizer; the language model is not loaded for it."""
        if "language" in self.__dict__:
            return self.language.builder
        from opentar.language.folder import load_builder

        verify(self.folder / "language", remember=True)
        return load_builder(self.folder / "language")

    @cached_property
    def language(self) -> "Language":
        """Tokens -> tokens: the language model and the builder of its sequences."""
        from opentar.language.folder import load_language

        language = load_language(self.folder / "language", self._type("language"), self.__dict__.get("builder"))
        self._check_hash("language")
        language.model.to(self.device)
        return language

    def detokenizer(self, name: str) -> "Detokenizer":
        """The de-tokenizer "diffusion" or "ar". Raises ModelError for one that the model has not or cannot feed."""
        part = model_folder.detok_part(self.config, name)
        if name not in self._detokenizers:
            from opentar.tokens_to_image.detokenizer import load_detokenizer

            detokenizer = load_detokenizer(self.folder / part, self._type(part), openvino=self.ar_in_openvino)
            self._check_hash(part)
            width = self.ta_tok.config.decoder.output_size
            if detokenizer.feature_size != width:
                raise ModelError(
                    f"{part} takes features of width {detokenizer.feature_size}, ta_tok gives {width}; "
                    "put parts together that were trained together"
                )
            if isinstance(detokenizer, nn.Module):
                detokenizer.to(self.device)
            self._detokenizers[name] = detokenizer
        return self._detokenizers[name]

    @cached_property
    def words(self) -> list[str]:
        """The word each row of the codebook comes from; empty where the model does not say.

        Raises:
            WeightsError: the list has another length than the codebook.
        """
        words = model_folder.read_words(self.folder)
        self._check_hash("ta_tok")
        if words and len(words) != self.vocab.codebook_size:
            raise WeightsError(
                f"ta_tok/words.txt has {len(words)} lines for {self.vocab.codebook_size} codes; copy the model again"
            )
        return words

    def _check_hash(self, part: str) -> None:
        """Refuse a part that was saved again while this model was open: it would run under the old hash."""
        if folder_hash(self.folder) != self.hash:
            raise WeightsError(f"{self.folder} was changed while {part} was loaded; load the model again")
