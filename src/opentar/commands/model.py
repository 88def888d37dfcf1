"""Load the model of a command, after everything that can be checked without torch: a typing error is told at once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentar.pipeline import Tar


def load(name: str, device: str | None, dtype: str | None = None, engine: str | None = None) -> "Tar":
    """The model called `name`. Raises ModelError, WeightsError or ConfigError as `Tar.from_pretrained` does."""
    from opentar.checkpoints.find import find_model
    from opentar.checkpoints.model_folder import read_config

    read_config(find_model(name))
    # Importing torch and the parts takes seconds on a small machine.
    from opentar.pipeline import Tar

    return Tar.from_pretrained(name, device=device, dtype=dtype, engine=engine)
