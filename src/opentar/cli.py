"""The command line: parses, calls and prints. Each command lives in `commands/` and is imported when it is called."""

import io
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from json import dumps
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from opentar import __version__
from opentar.commands.completion import Shell, script
from opentar.commands.options import HYPHEN, STDIN
from opentar.commands.streams import open_streams
from opentar.core import environment, errors

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_COMMANDS = {
    "demo": ("demo:demo", "Draw a picture, describe it and answer questions about it."),
    "generate": ("draw:generate", "Draw a picture from a prompt."),
    "reconstruct": ("draw:reconstruct", "Encode a picture and decode it again."),
    "ask": ("read:ask", "Answer a question about a picture."),
    "describe": ("read:describe", "Describe one or several pictures."),
    "chat": ("chat:chat", "Ask and draw in a loop; the model is loaded once."),
    "tokens": ("read:tokens", "Print the codes of a picture with the words nearest to them."),
    "train": ("work:train", "Train a model with a recipe, every stage or some."),
    "eval": ("work:evaluate", "Measure a model: drawing and reading on held-out combinations."),
    "import": ("bring:import_published", "Convert the published files of Tar into a model folder."),
    "pull": ("bring:pull", "Fetch a published model by its name and import it."),
    "init": ("init:init", "Make a model of published size with random weights."),
    "info": ("work:info", "Say what a model is made of, its licence and its data, or what it knows."),
    "list": ("models:list_models", "List the bundled models and the fetched ones."),
    "rm": ("models:remove", "Remove a fetched model from the cache."),
    "verify": ("verify:verify", "Hash every file of a model and compare it with the manifest."),
}
_TEXTS = {"generate": "prompt", "ask": "question"}
"""Commands whose last argument is a text: what it is called."""


def build_app() -> App:
    """The Cyclopts application; commands are import paths, so that building it imports none of them."""
    app = App(
        name="opentar",
        help="One model that draws and describes pictures. Start with: opentar demo",
        version=__version__,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    for name, (target, text) in _COMMANDS.items():
        app.command(f"opentar.commands.{target}", name=name, help=text)
    data = App(name="data", help="The nano world: look at the data that nano learns from.")
    data.command("opentar.commands.data:sheet", name="sheet", help="Draw a contact sheet of training scenes.")
    app.command(data)
    export = App(name="export", help="Write a model in the format of other tools.")
    export.command("opentar.commands.export:qwen2", name="qwen2", help="The language model as a plain Qwen2 folder.")
    app.command(export)

    def completion(shell: Annotated[Shell, Parameter(help="bash, zsh, fish or powershell.")], /) -> None:
        """Print the script that lets a shell complete commands and options."""
        print(script(app, shell), end="")

    app.command(completion)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, or what the command returns; 2 for wrong usage or input that cannot be taken; 1 for other
        failures; 130 after Ctrl-C; for an exception with an `exit_code` of its own that one, as a training stopped by
        a signal has.

    With --json among the arguments a failure is told on stdout as well, as the one JSON object
    `{"error": {"type", "message", "exit_code"}}`.
    """
    environment.quiet_libraries()
    open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console that cannot show Chinese shows escapes; without this it would end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    tokens = [STDIN if token == HYPHEN else token for token in (sys.argv[1:] if argv is None else argv)]
    try:
        command, bound, _ = build_app().parse_args(tokens, exit_on_error=False, print_error=False)
        return command(*_as_typed(bound.args), **_as_typed(bound.kwargs)) or 0
    except CycloptsError as error:
        return _fail(error, EXIT_USAGE, _usage(error, tokens), json="--json" in tokens)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left (`| head`); closing stderr keeps Python from complaining at exit.
        sys.stderr.close()
        return EXIT_FAILED
    except Exception as error:
        # The last line of defence: nobody is shown a traceback who did not ask for it.
        return _report(error, json="--json" in tokens)


def _usage(error: CycloptsError, tokens: Sequence[str]) -> str:
    """What was wrong with the arguments, in one line that ends with where to look."""
    command = next((token for token in tokens if not token.startswith("-")), "")
    left = getattr(error, "unused_tokens", None)
    if left and command in _TEXTS and not any(token.startswith("-") for token in left):
        wanted = " ".join([*_typed_text(tokens, left), *left])
        return f"{errors.shown(left[0])} is one argument too many; quote the {_TEXTS[command]}: {wanted!r}"
    return f"{_as_typed(_one_line(str(error)))} See: opentar --help"


def _typed_text(tokens: Sequence[str], left: Sequence[str]) -> list[str]:
    """The last argument before those that were too many."""
    place = tokens.index(left[0])
    return [tokens[place - 1]] if place > 1 else []


def _report(error: Exception, *, json: bool) -> int:
    if isinstance(error, errors.OpenTarError):
        failed = isinstance(error, (errors.WeightsError, errors.DataError, errors.UnsavedError))
        return _fail(error, EXIT_FAILED if failed else EXIT_USAGE, _one_line(str(error)), json=json)
    if isinstance(code := getattr(error, "exit_code", None), int):
        # A stopped training says itself how it went on; that is no fault to explain.
        print(errors.printable(_one_line(str(error))), file=sys.stderr)
        return code
    if isinstance(error, MemoryError):
        told = "out of memory; draw fewer pictures at once or close other programs"
        return _fail(error, EXIT_FAILED, told, json=json)
    hint = "set OPENTAR_DEBUG=1 to see where"
    return _fail(error, EXIT_FAILED, f"{type(error).__name__}: {_one_line(str(error))} ({hint})", json=json)


def _fail(error: Exception, code: int, text: str, *, json: bool) -> int:
    if environment.debug():
        traceback.print_exception(error)
    # Where nobody can be told, the exit code still is.
    with suppress(OSError):
        print(f"error: {errors.printable(text)}", file=sys.stderr)
    if json:
        told = {"type": type(error).__name__, "message": text, "exit_code": code}
        with suppress(OSError):
            print(dumps({"error": told}), flush=True)
    return code


def _as_typed(value: Any) -> Any:
    """Arguments with the hyphens that the user typed."""
    if isinstance(value, str):
        return value.replace(STDIN, HYPHEN)
    if isinstance(value, Path):
        return Path(HYPHEN) if str(value) == STDIN else value
    if isinstance(value, (list, tuple)):
        return type(value)(_as_typed(one) for one in value)
    return {key: _as_typed(one) for key, one in value.items()} if isinstance(value, dict) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
