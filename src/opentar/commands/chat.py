"""`opentar chat`: one start, many questions and drawings, with a model here or on a server."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from opentar.checkpoints.settings import MAX_SEED, check_range
from opentar.commands import options
from opentar.commands.draw import tell
from opentar.commands.files import check_one_stdin, check_quotes, open_source, picture_source
from opentar.commands.model import load
from opentar.commands.output import Output
from opentar.commands.remote import Remote
from opentar.commands.saving import picture_places, save
from opentar.core import environment
from opentar.core.errors import ConfigError, ImageError, OpenTarError, PromptError, nearest, shown

if TYPE_CHECKING:
    from opentar.pipeline import Tar

_HELP = """A line is a question about the current picture, or one of:
  /draw PROMPT   draw, save, and make it the current picture
  /open FILE     make it the current picture
  /seed N        seed of the next drawing; the ones after it count up
  /help          show this
  /quit          leave, as Ctrl-D does; Ctrl-C ends what is being done"""
_MAX_LINE_BYTES = 100_000


def chat(
    *images: Annotated[str, Parameter(help="Pictures to start with, shown together.")],
    seed: options.Seed = 0,
    server: Annotated[
        str | None, Parameter(help="Address of a running server whose model is used, such as http://127.0.0.1:8000.")
    ] = None,
    api_key: Annotated[str | None, Parameter(help="Key of that server. Better: the variable OPENTAR_API_KEY.")] = None,
    model: Annotated[
        str | None,
        Parameter(
            name=["--model", "-m"],
            help="Name of a bundled or fetched model, a model folder, or a model of the server. "
            "Default: nano, or the first of the server.",
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.LanguageEngine = None,
) -> None:
    """Ask about pictures and draw them in a loop; the model is loaded once. /help lists the commands.

    With --server the model of a running `opentar serve` answers, and none is loaded here.
    """
    output = Output()
    if "-" in images:
        raise ImageError("a picture cannot come from stdin here, where the questions come from; name picture files")
    check_range("seed", seed, 0, MAX_SEED, whole=True)
    check_quotes(images)
    _check_place(server, api_key, {"device": device, "dtype": dtype, "engine": engine})
    with output.working():
        pictures = [open_source(picture_source(name)) for name in images]
        tar: Tar | Remote
        if server is None:
            tar = load("nano" if model is None else model, device, dtype, engine)
            name = tar.parts.config.name
        else:
            tar = Remote(server, environment.api_key() if api_key is None else api_key, model)
            name = f"{tar.name} on {server}"
    talk = _Talk(output, tar, pictures, seed)
    try:
        for line in _lines(output, f"{name}: a question, /draw PROMPT or /help; Ctrl-D leaves"):
            with _going_on(output):
                if talk.turn(line):
                    return
    finally:
        if isinstance(tar, Remote):
            tar.close()


def _check_place(server: str | None, api_key: str | None, own: dict[str, str | None]) -> None:
    """Raises ConfigError for options that mean nothing where the model is."""
    if server is None:
        if api_key is not None:
            raise ConfigError("--api-key is the key of a server; name it with --server, or leave the key out")
        return
    for name, value in own.items():
        if value is not None:
            raise ConfigError(f"--{name} is chosen where the server is started; leave it out beside --server")


class _Talk:
    """The current picture and seed, and what a line does."""

    def __init__(self, output: Output, tar: "Tar | Remote", pictures: list[Any], seed: int) -> None:
        self.output, self.tar, self.pictures, self.seed = output, tar, pictures, seed
        self.commands: dict[str, Callable[[str], None]] = {
            "draw": self.draw,
            "open": self.open,
            "seed": self.set_seed,
            "help": lambda _: output.lines(_HELP),
        }

    def turn(self, line: str) -> bool:
        """Do what a line says; True when it says to leave. Raises OpenTarError for what cannot be done."""
        if not line:
            return False
        if not line.startswith("/"):
            self.ask(line)
            return False
        name, _, rest = line[1:].partition(" ")
        if name in ("quit", "exit"):
            return True
        if name not in self.commands:
            names = ("quit", *self.commands)
            listed = ", ".join(f"/{one}" for one in (*self.commands, "quit"))
            raise PromptError(f"{shown('/' + name)} is unknown; the commands are {listed}.{nearest(name, names)}")
        self.commands[name](rest.strip())
        return False

    def ask(self, question: str) -> None:
        if not self.pictures:
            raise ImageError("there is no picture yet; draw one with /draw PROMPT or open one with /open FILE")
        with self.output.working():
            answer = self.tar.ask(self.pictures, question)
        self.output.lines(answer)

    def draw(self, prompt: str) -> None:
        if not prompt:
            raise PromptError("/draw needs a prompt, as in /draw a red apple")
        place = picture_places(None, 1, "opentar", overwrite=False)[0]
        with self.output.working(), self.output.progress() as progress:
            image = self.tar.generate(prompt, seed=self.seed, callback_on_step_end=progress)[0]
        tell(self.output, image, save(self.output, image, place))
        self.pictures = [image]
        self.seed = min(self.seed + 1, MAX_SEED)

    def open(self, name: str) -> None:
        if not name:
            raise ImageError("/open needs the name of a picture file")
        check_one_stdin(name)
        with self.output.working():
            self.pictures = [open_source(name)]
        self.output.line(f"{name}: {self.pictures[0].width} x {self.pictures[0].height}")

    def set_seed(self, text: str) -> None:
        if not text.isdecimal():
            raise ConfigError(f"/seed {shown(text)} is not a whole number; give one from 0, as in /seed 7")
        check_range("seed", int(text), 0, MAX_SEED, whole=True)
        self.seed = int(text)


def _lines(output: Output, greeting: str) -> Iterator[str]:
    """Lines without their ends, until the end of stdin; one that is no UTF-8 text is told and left out."""
    if sys.stdin is None:
        return
    asks = sys.stdin.isatty()
    if asks:
        with contextlib.suppress(ImportError):
            # Where it is there (not on Windows), input() gets line editing and a history by it.
            import readline  # noqa: F401
        output.note(greeting)
    while True:
        try:
            raw = input("> ").encode("utf-8", "surrogateescape") if asks else sys.stdin.buffer.readline(_MAX_LINE_BYTES)
        except EOFError:
            output.line()
            return
        except KeyboardInterrupt:
            if not asks:
                raise
            output.line()
            continue
        if not raw and not asks:
            return
        try:
            yield raw.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            output.note("error: the line is not UTF-8 text; send UTF-8")


@contextlib.contextmanager
def _going_on(output: Output) -> Iterator[None]:
    """Tell what fails, in one line, and go on with the next."""
    try:
        yield
    except KeyboardInterrupt:
        output.note("interrupted; Ctrl-D or /quit leaves")
    except OpenTarError as error:
        output.note(f"error: {error}")
    except BrokenPipeError:
        raise
    except Exception as error:
        if environment.debug():
            raise
        output.note(f"error: {type(error).__name__}: {' '.join(str(error).split())}")
