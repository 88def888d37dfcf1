"""The nano world: names, drawings and texts that ship with the package, and what is made of them."""
