"""`opentar verify`: compare every file of a model with its manifest, and its hash with one that was written down."""

import re
from typing import Annotated

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.output import Output
from opentar.core.disk import human_bytes
from opentar.core.errors import ConfigError, WeightsError, shown

_HASH = re.compile(r"[0-9a-f]{12}")


def verify(
    model: Annotated[str, Parameter(help="A bundled model's name or a model folder.")] = "nano",
    /,
    *,
    expected: Annotated[
        str | None, Parameter(name="--hash", help="The hash that the model must have, 12 hexadecimal digits.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Hash every file of a model and compare it with the manifest; exit code 1 where anything differs."""
    from opentar.checkpoints import find, model_folder
    from opentar.core import folder as checkpoint

    output = Output(json)
    wanted = None if expected is None else expected.strip().lower()
    if wanted is not None and not _HASH.fullmatch(wanted):
        raise ConfigError(f"the hash is {shown(expected)}; give the 12 hexadecimal digits that opentar info prints")
    folder = find.find_model(model)
    with output.working():
        # Parts of a model, such as its language folder, and checkpoints of a training are taken as well.
        if checkpoint.read_config(folder).get("kind") == "opentar":
            model_folder.check_parts(folder, model_folder.read_config(folder))
        checkpoint.verify(folder, parts=False)
    digest = checkpoint.folder_hash(folder)
    changed = checkpoint.changed_parts(folder)
    if wanted is not None and wanted != digest:
        raise WeightsError(f"{shown(folder)} has the hash {digest}, not {wanted}; it is another model, or was changed")
    if changed and wanted is None:
        raise WeightsError(
            f"{', '.join(changed)} changed since {shown(folder)} was put together, though no file of it is damaged; "
            f"if that was you, write down the new hash and check with --hash {digest}"
        )
    sizes = dict(model_folder.part_files(folder))
    output.line(f"intact   {folder}")
    output.line(f"files    {len(sizes)}, {human_bytes(sum(sizes.values()))}, all hashed now")
    output.line(f"hash     {digest}{', as expected' if wanted else ''}")
    if changed:
        output.line(f"changed  {', '.join(changed)} since the model was put together")
    described = {"folder": str(folder), "hash": digest, "files": len(sizes), "bytes": sum(sizes.values())}
    output.result(described | {"changed": changed, "expected": wanted})
