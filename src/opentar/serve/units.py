"""One answer while it is made: what an engine's events mean for whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from opentar.core.errors import OpenTarError
from opentar.engine.events import CodeDrawn, Done, Failed, TokenSaid
from opentar.engine.events import Event as Told
from opentar.engine.jobs import Job
from opentar.engine.request import Text
from opentar.engine.running import most_said
from opentar.serve.events import Chosen, Code, Ended, Event, Preview, Token
from opentar.serve.speech import Speech
from opentar.serve.work import Draw, Say, Work

if TYPE_CHECKING:
    from PIL import Image

    from opentar.serve.models import ServedModel

Post = Callable[["Unit", "Event | OpenTarError"], object]
"""Takes what happens to an answer, from any thread."""


class Unit:
    """One answer.

    Args:
        index: its number among the answers of the request.
        work: what is wanted.
        job: the same as ids, under a ticket that no other answer of the service has.
        model: what makes it.
        post: is told what happens.
    """

    def __init__(self, index: int, work: Work, job: Job, model: ServedModel, post: Post) -> None:
        self.index, self.work, self.job, self.model, self._post = index, work, job, model, post
        self.gone = False
        """Nobody waits for it any longer."""
        self.codes: tuple[int, ...] = ()
        """Of a drawing, when it is drawn."""
        self.so_far: list[int | None] = []
        """The same while it is drawn; None where none is drawn yet."""
        self.looks = 0
        """Previews that were told."""
        self._asked = 0
        self.speech: Speech | None = None
        self._told = 0
        self.restart()

    def restart(self) -> None:
        """The engine begins again; what was told already is not told a second time, for it will be the same."""
        self._skip, self._answered, self._most = self._told, 0, 0
        self.so_far = []
        if isinstance(self.work, Say):
            self.speech = Speech(self.model.tokenizer, self.work.stop)
            self._most = most_said(self.job, self.model.positions)

    def post(self, what: Event | OpenTarError) -> None:
        """Tell whoever waits."""
        if not self.gone:
            self._post(self, what)

    def take(self, event: Told) -> bool:
        """Tell what an event of the engine means; True when the engine has no more to do for this answer."""
        match event:
            case Failed(error=error):
                self.post(error)
                return True
            case CodeDrawn(code=code, step=step, total=total, place=place):
                self.so_far = self.so_far or [None] * total
                self.so_far[place] = code
                self._tell(Code(index=self.index, code=code, step=step, total=total, place=place))
                return False
            case TokenSaid():
                return self._said(event)
            case Done(ids=ids, probabilities=probabilities):
                if isinstance(self.work, Draw):
                    self.codes = ids
                elif isinstance(self.work, Say):
                    self._end_text("length" if len(ids) >= self._most else "stop")
                else:
                    self._tell(Chosen(index=self.index, probabilities=probabilities))
                    self.end(0)
                return True
        raise AssertionError(event)

    def preview(self, picture: Image.Image) -> None:
        """Show the picture as it stands."""
        self.post(Preview(index=self.index, picture=picture, number=self.looks))
        self.looks += 1

    def sketch_is_due(self) -> bool:
        """Whether enough codes are drawn for the next look at them; each look is due once.

        The first of few comes early: after a third of the codes, or a quarter where there are two.
        """
        wanted = self.work.sketches if isinstance(self.work, Draw) else 0
        drawn = len(self.so_far) - self.so_far.count(None)
        if self._asked >= wanted or drawn * (wanted + 2) < len(self.so_far) * (self._asked + 1):
            return False
        self._asked += 1
        return True

    def end(self, answered: int, reason: str = "stop") -> None:
        """The answer is complete."""
        vocab = self.model.vocab
        codes = sum(1 for number in self.job.prefix if vocab.is_code(number))
        self.post(
            Ended(
                index=self.index,
                reason="length" if reason == "length" else "stop",
                prompt_tokens=len(self.job.prefix),
                answer_tokens=answered,
                prompt_codes=codes,
            )
        )

    @property
    def is_text(self) -> bool:
        """Whether the answer is a text."""
        return isinstance(self.job.request.grammar, Text)

    def _said(self, event: TokenSaid) -> bool:
        assert self.speech is not None
        self._answered += 1
        text = self.speech.push(event.token)
        self._tell(Token(index=self.index, text=text, token=event.token, log=event.log, likeliest=event.likeliest))
        if self.speech.stopped:
            self.end(self._answered)
        return self.speech.stopped

    def _end_text(self, reason: str) -> None:
        assert self.speech is not None
        if rest := self.speech.finish():
            self._tell(Token(index=self.index, text=rest))
        self.end(self._answered, "stop" if self.speech.stopped else reason)

    def _tell(self, event: Event) -> None:
        if self._skip:
            self._skip -= 1
            return
        self._told += 1
        self.post(event)
