"""Each link of the chain on its own: a bundle, which keeps of the autoencoder only what paints, has one link less."""

import numpy as np

from opentar.nano.benchmarks.links import through_autoencoder
from opentar.pipeline import Tar


def test_an_autoencoder_is_scored_where_there_is_a_whole_one(tar):
    pictures = [np.full((128, 128, 3), 200, np.uint8)] * 2
    made = through_autoencoder(tar, pictures)
    assert made is not None and [picture.shape for picture in made] == [(128, 128, 3)] * 2
    assert through_autoencoder(Tar.from_pretrained("nano", device="cpu"), pictures) is None
