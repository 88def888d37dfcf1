"""The command line: parses, calls and prints. Each command lives in `commands/` and is imported when it is called."""

import errno
import io
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from json import dumps
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from opentar import __version__
from opentar.commands.completion import Shell, script
from opentar.commands.options import EMPTY, HYPHEN, STDIN
from opentar.commands.streams import leave, open_streams
from opentar.core import environment, errors

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_COMMANDS = {
    "demo": ("demo:demo", "Draw a picture, describe it and answer questions about it."),
    "generate": ("draw:generate", "Draw a picture from a prompt."),
    "refine": ("draw:refine", "Make a finer version of a picture."),
    "reconstruct": ("draw:reconstruct", "Encode a picture and decode it again."),
    "ask": ("read:ask", "Answer a question about a picture."),
    "describe": ("read:describe", "Describe one or several pictures."),
    "caption": ("caption:caption", "Caption many pictures into a file; goes on where it was interrupted."),
    "chat": ("chat:chat", "Ask and draw in a loop, with a model here or on a server."),
    "tokens": ("read:tokens", "Print the codes of a picture with the words nearest to them."),
    "serve": ("serve:serve", "Serve models over HTTP, in the shapes of OpenAI's API."),
    "ui": ("serve:ui", "Open a page to draw, ask and look at the codes, in a browser."),
    "train": ("work:train", "Train a model with a recipe, every stage or some."),
    "eval": ("work:evaluate", "Measure a model: drawing and reading on held-out combinations."),
    "bench": ("bench:bench", "Measure this machine, and a model on it beside the published way."),
    "import": ("bring:import_published", "Convert the published files of Tar into a model folder."),
    "pull": ("bring:pull", "Fetch a published model by its name and import it."),
    "init": ("init:init", "Make a model of published size with random weights."),
    "quantize": ("quantize:quantize", "Write a copy of a model whose weights have 8 or 4 bits."),
    "info": ("work:info", "Say what a model is made of, its licence and its data, or what it knows."),
    "list": ("models:list_models", "List the bundled models and the fetched ones."),
    "rm": ("models:remove", "Remove a fetched model from the cache."),
    "verify": ("verify:verify", "Hash every file of a model and compare it with the manifest."),
}
_USAGE = {
    "generate": "[OPTIONS] [PROMPT]",
    "ask": "[OPTIONS] IMAGE [MORE...]",
    "describe": "[OPTIONS] IMAGES...",
    "caption": "--out PATH [OPTIONS] SOURCES...",
    "chat": "[OPTIONS] [IMAGES...]",
    "eval": "[OPTIONS] [MODEL]",
    "quantize": "--to STR --out PATH [OPTIONS] [MODEL]",
    "bench": "[OPTIONS] [MODEL]",
    "info": "[OPTIONS] [MODEL]",
    "verify": "[OPTIONS] [MODEL]",
}
"""What follows the name of a command in its usage line, where Cyclopts would only say [ARGS]."""
_TEXTS = {"generate": "prompt"}
"""Commands that take one text: what it is called."""
_UNWRITABLE = (errno.EBADF, errno.ENOSPC, errno.EIO)


def build_app() -> App:
    """The Cyclopts application; commands are import paths, so that building it imports none of them."""
    app = App(
        name="opentar",
        help=(
            "One model that draws and describes pictures. Start with: opentar demo\n\n"
            "On a busy machine OMP_NUM_THREADS=1 may be faster; docs/cli.md lists all environment variables."
        ),
        version=__version__,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    for name, (target, text) in _COMMANDS.items():
        usage = f"Usage: opentar {name} {_USAGE[name]}\n" if name in _USAGE else None
        app.command(f"opentar.commands.{target}", name=name, help=text, usage=usage)
    data = App(name="data", help="Look at the data that nano is trained on.")
    data.command("opentar.commands.data:sheet", name="sheet", help="Draw a contact sheet of scenes.")
    app.command(data)
    export = App(name="export", help="Export a model to the format of other tools.")
    export.command(
        "opentar.commands.export:qwen2",
        name="qwen2",
        help="Write the language model as a plain Qwen2 folder.",
        usage="Usage: opentar export qwen2 --out PATH [OPTIONS] [MODEL]\n",
    )
    export.command(
        "opentar.commands.export:gguf",
        name="gguf",
        help="Write the language model as a GGUF file for llama.cpp.",
        usage="Usage: opentar export gguf --out PATH [OPTIONS] [MODEL]\n",
    )
    app.command(export)

    def completion(shell: Annotated[Shell, Parameter(help="Name of the shell.")], /) -> None:
        """Print the completion script of a shell."""
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

    With --json among the arguments a failure is reported on stdout as well, as the one JSON object
    `{"error": {"type", "message", "exit_code"}}`.
    """
    environment.quiet_libraries()
    environment.share_cores()
    open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console that cannot show Chinese shows escapes; without this it would end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["help"]:
        given = [*given[1:], "--help"]
    tokens = list(_marked(given))
    try:
        command, bound, _ = build_app().parse_args(tokens, exit_on_error=False, print_error=False)
        code = command(*_as_typed(bound.args), **_as_typed(bound.kwargs)) or 0
        # Here a full disk can still be reported; when Python ends, it cannot.
        sys.stdout.flush()
        return code
    except CycloptsError as error:
        return _fail(error, EXIT_USAGE, _usage(error, given), json="--json" in given)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left (`| head`); closing stderr keeps Python from complaining at exit.
        sys.stderr.close()
        return EXIT_FAILED
    except Exception as error:
        # The last line of defence: nobody is shown a traceback who did not ask for it.
        return _report(error, json="--json" in given)


def _marked(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments with marks in place of a lone hyphen and of an empty text, which `_as_typed` takes off again."""
    for argument in arguments:
        if argument == HYPHEN:
            yield STDIN
        elif not argument or (argument.startswith("--") and argument.endswith("=")):
            yield argument + EMPTY
        else:
            yield argument


def _usage(error: CycloptsError, given: Sequence[str]) -> str:
    """What was wrong with the arguments, in one line that ends with what to do."""
    path = [name for name in getattr(error, "command_chain", None) or () if not name.startswith("-")]
    left = list(error.unused_tokens or ()) if isinstance(error, UnusedCliTokensError) else []
    what = _TEXTS.get(" ".join(path))
    see = f"See: {' '.join(['opentar', *path, '--help'])}"
    if not left:
        return f"{_as_typed(_one_line(str(error)))} {see}"
    first = f"{errors.shown(_as_typed(left[0]))} is one argument too many"
    if not what or any(token.startswith("-") for token in left):
        return f"{first}; quote a text or a name that has spaces. {see}"
    place = given.index(left[0]) if left[0] in given else 0
    wanted = _as_typed(" ".join([*given[place - 1 : place], *left]))
    return f"{first}; quote the {what}: {wanted!r}"


def _report(error: Exception, *, json: bool) -> int:
    if isinstance(error, errors.OpenTarError):
        failed = isinstance(error, (errors.WeightsError, errors.DataError, errors.UnsavedError))
        return _fail(error, EXIT_FAILED if failed else EXIT_USAGE, _one_line(str(error)), json=json)
    if isinstance(code := getattr(error, "exit_code", None), int):
        # A stopped training says itself how it went on; that is no fault to explain.
        return _fail(error, code, _one_line(str(error)), json=json, begin="")
    if isinstance(error, MemoryError):
        told = "out of memory; draw fewer pictures at once or close other programs"
        return _fail(error, EXIT_FAILED, told, json=json)
    if isinstance(error, OSError) and error.filename is None and error.errno in _UNWRITABLE:
        leave(sys.stdout)
        told = f"the output cannot be written ({error.strerror}); free the disk, or write to another place"
        return _fail(error, EXIT_FAILED, told, json=json)
    hint = "set OPENTAR_DEBUG=1 to see where"
    return _fail(error, EXIT_FAILED, f"{type(error).__name__}: {_one_line(str(error))} ({hint})", json=json)


def _fail(error: Exception, code: int, text: str, *, json: bool, begin: str = "error: ") -> int:
    # Where nothing can be printed, the exit code still says it.
    with suppress(OSError):
        if environment.debug():
            print(errors.printable("".join(traceback.format_exception(error))), file=sys.stderr)
        print(errors.printable_line(begin + text), file=sys.stderr)
    if json:
        told = {"type": type(error).__name__, "message": text, "exit_code": code}
        with suppress(OSError):
            print(dumps({"error": told}), flush=True)
    return code


def _as_typed(value: Any) -> Any:
    """Arguments as the user typed them. Raises ConfigError where the name of a file or folder is empty."""
    if isinstance(value, str):
        return value.replace(STDIN, HYPHEN).replace(EMPTY, "")
    if isinstance(value, Path):
        if str(value) == EMPTY:
            raise errors.ConfigError(
                "the name of the file or folder is empty; give its path, or . for the current folder"
            )
        return Path(HYPHEN) if str(value) == STDIN else value
    if isinstance(value, (list, tuple)):
        return type(value)(_as_typed(one) for one in value)
    return {key: _as_typed(one) for key, one in value.items()} if isinstance(value, dict) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
