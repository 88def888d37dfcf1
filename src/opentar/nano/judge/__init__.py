"""The judge of drawn pictures: ImageNet features that never saw our models, and a probe on them."""
