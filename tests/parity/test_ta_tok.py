"""TA-Tok's encoder against transformers' own SigLIP on the same weights."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from reference import Reference
from transformers import SiglipVisionConfig, SiglipVisionModel

from opentar.core.torch_files import model_of
from opentar.image_to_tokens.preprocess import to_pixels

pytestmark = pytest.mark.parity


def test_encoder_equals_transformers(reference: Reference) -> None:
    """Same weights through transformers' whole SiglipVisionModel: our features are its hidden_states[-2]."""
    vision = json.loads((reference.folder / "siglip-tiny-config.json").read_text())["vision_config"]
    theirs = SiglipVisionModel(SiglipVisionConfig(**vision)).eval()
    state = model_of(reference.checkpoint("ta_tok"), "an image tokenizer", "ta_tok.pth")["sd"]
    theirs.load_state_dict({name[8:]: tensor for name, tensor in state.items() if name.startswith("encoder.")})
    pixels = to_pixels(Image.fromarray(reference.picture("sq384")), vision["image_size"])[None]
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(reference.ta_tok().encoder(pixels), expected, atol=1e-5, rtol=0)
