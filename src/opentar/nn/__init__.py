"""Small shared layers and the samplers, used by all three machines."""
