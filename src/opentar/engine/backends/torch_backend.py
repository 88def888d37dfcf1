"""The language model in PyTorch, as its folder holds it: the backend that every other one is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from opentar.core.errors import PromptError
from opentar.engine.backends.protocol import Prompts
from opentar.language.model import TarLanguageModel
from opentar.nn.half import product


class TorchBackend:
    """`TarLanguageModel` behind the backend's protocol."""

    def __init__(self, model: TarLanguageModel) -> None:
        self.model, self.config = model, model.config

    @torch.no_grad()
    def prefill(self, prompts: Prompts) -> TorchRows:
        """Read prompts; see the protocol."""
        return TorchRows(self.model, prompts)

    @torch.no_grad()
    def log_probabilities(self, prompts: Prompts, answers: Prompts, allowed: Tensor) -> Tensor:
        """How likely answers are; see the protocol."""
        config, device = self.config, self.model.device
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        ids_BT, real_BT = pad_left(rows, config.padding)
        ids_BT, real_BT = ids_BT.to(device), real_BT.to(device)
        # Rows end together, so the last ids of each row are its answer and the positions before them predict it.
        longest = max(len(answer) for answer in answers)
        hidden_BAH = self.model.hidden(ids_BT, None if bool(real_BT.all()) else real_BT)[:, -longest - 1 : -1]
        lengths_B = torch.tensor([len(answer) for answer in answers], device=device)
        inside_BA = torch.arange(longest, device=device)[None] >= longest - lengths_B[:, None]
        # Before a short answer stand ids of the prompt, codes perhaps; they are looked up as an id that is allowed.
        said_BA = ids_BT[:, -longest:].masked_fill(~inside_BA, config.end)
        logits_BAR = _linear(self.model, hidden_BAH, range(len(allowed))).float()
        logs_BAR = logits_BAR.masked_fill(~allowed.to(device), float("-inf")).log_softmax(-1)
        logs_BA = logs_BAR.gather(-1, said_BA[..., None])[..., 0]
        return logs_BA.masked_fill(~inside_BA, 0.0).sum(1).cpu()


class TorchRows:
    """Rows over one cache. Prompts of different lengths are filled up on the left and masked."""

    def __init__(self, model: TarLanguageModel, prompts: Prompts) -> None:
        if not prompts or not all(prompts):
            raise PromptError("no prompt was given, or an empty one; give at least one id each")
        self._model = model
        # Appending to this cache copies it, which costs little beside reading the weights; a preallocated one makes
        # every step attend over all positions and needs a mask each time.
        self._cache = DynamicCache()
        ids_BT, real_BT = pad_left(prompts, model.config.padding)
        self._real_BS = None if bool(real_BT.all()) else real_BT.to(model.device)
        self._hidden_BH = model.hidden(ids_BT.to(model.device), self._real_BS, self._cache)[:, -1]

    @torch.no_grad()
    def logits(self, ids: range) -> Tensor:
        """Logits (B, len(ids)) of the next id of each row: only these rows of the head are computed."""
        return _linear(self._model, self._hidden_BH, ids)

    @torch.no_grad()
    def step(self, tokens_B: Tensor) -> None:
        """Append one id to each row."""
        if self._real_BS is not None:
            self._real_BS = torch.cat([self._real_BS, self._real_BS.new_ones(len(tokens_B), 1)], 1)
        ids_B1 = tokens_B.to(self._model.device)[:, None]
        self._hidden_BH = self._model.hidden(ids_B1, self._real_BS, self._cache)[:, -1]

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        chosen = torch.tensor(rows, device=self._model.device)
        self._cache.batch_select_indices(chosen)
        self._hidden_BH = self._hidden_BH[chosen]
        if self._real_BS is not None:
            self._real_BS = self._real_BS[chosen]


def _linear(model: TarLanguageModel, hidden: Tensor, ids: range) -> Tensor:
    return product(hidden, model.qwen.lm_head.weight[ids.start : ids.stop])


def pad_left(prompts: Prompts, padding: int) -> tuple[Tensor, Tensor]:
    """Ids (B, T) int64 filled up on the left with `padding`, and where they are real (B, T) bool."""
    longest = max(len(prompt) for prompt in prompts)
    rows = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return torch.tensor(rows), torch.arange(longest)[None] >= longest - lengths[:, None]
