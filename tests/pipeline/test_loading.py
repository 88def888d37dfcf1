"""Models that take their weights over from the disk give bit for bit what models give that copied them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opentar.checkpoints.parts import ModelParts
from opentar.checkpoints.sizes import TarSize, size_of
from opentar.core.errors import ConfigError, WeightsError
from opentar.core.folder import assemble, load_part, strict_load
from opentar.image_to_tokens.encoder import VisionConfig
from opentar.image_to_tokens.quantizer import QuantizerConfig
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig
from opentar.language.folder import load_language, save_language
from opentar.language.model import TarLanguageModel
from opentar.tokens_to_image.ar import ARDetokenizer, ARTransformer
from opentar.tokens_to_image.autoencoder import Autoencoder, AutoencoderConfig
from opentar.tokens_to_image.flow import FlowConfig, FlowTransformer
from opentar.tokens_to_image.vqgan import VQGAN, LatentVQ, LatentVQConfig
from opentar.vocab import Vocab

TINY: TarSize = size_of("tar-tiny")
CANVAS = AutoencoderConfig(
    image_size=32,
    latent_channels=2,
    encoder_channels=(4, 8),
    decoder_channels=(8, 4),
    encoder_blocks=(0, 1),
    decoder_blocks=(1, 0),
)


def _conv_ta_tok() -> TATok:
    """With a convolution stem, whose weights lie channels last, a learned temperature and counted rows."""
    vision = VisionConfig(
        image_size=24, grid_side=12, stem="conv", stem_widths=(8,), hidden_size=16, layers=1, heads=2, mlp_size=32
    )
    quantizer = QuantizerConfig(codebook_size=64, width=16, row_width=16, kind="learned_restart", temperature=0.0)
    return TATok(TATokConfig(vision=vision, quantizer=quantizer, decoder=TINY.ta_tok.decoder))


def _ta_tok_output(model: nn.Module) -> Tensor:
    assert isinstance(model, TATok)
    pixels = torch.linspace(-1, 1, 2 * 3 * 24 * 24).view(2, 3, 24, 24)
    scale = Vocab(text_size=1, codebook_size=64, grid_side=12).scale(1)
    codes = model.encode(pixels, scale)
    return torch.cat(
        [model.decode(codes).flatten().double(), model.encoder(pixels).flatten().double(), codes.flatten()]
    )


def _ar_output(model: nn.Module) -> Tensor:
    return model(torch.linspace(-1, 1, 2 * 9 * 16).view(2, 9, 16), torch.arange(8).view(2, 4))


def _flow_output(model: nn.Module) -> Tensor:
    latents = torch.linspace(-1, 1, 2 * 2 * 16).view(2, 2, 4, 4)
    assert isinstance(model, FlowTransformer)
    return model(latents, torch.tensor([0.2, 0.9]), model.condition(torch.linspace(-1, 1, 2 * 16 * 16).view(2, 16, 16)))


def _canvas_output(model: nn.Module) -> Tensor:
    assert isinstance(model, (VQGAN, LatentVQ))
    pixels = model.decode_codes(torch.arange(128).view(2, 64) % 32)
    return torch.cat([pixels.flatten(), model.encode(pixels * 2 - 1).flatten()])


def _autoencoder_output(model: nn.Module) -> Tensor:
    return model(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32))[0]


CASES: dict[str, tuple[Callable[[], Any], Callable[[nn.Module], Tensor]]] = {
    "ta_tok": (lambda: TATok(TINY.ta_tok), _ta_tok_output),
    "ta_tok_conv": (_conv_ta_tok, _ta_tok_output),
    "ar": (lambda: ARTransformer(TINY.ar), _ar_output),
    "vqgan": (lambda: VQGAN(TINY.vqgan), _canvas_output),
    "latent_vq": (lambda: LatentVQ(LatentVQConfig(autoencoder=CANVAS, codebook_size=32)), _canvas_output),
    "autoencoder": (lambda: Autoencoder(CANVAS), _autoencoder_output),
    "flow": (
        lambda: FlowTransformer(
            FlowConfig(feature_size=16, feature_sides=(4,), latent_channels=2, latent_side=4, hidden_size=16, heads=2)
        ),
        _flow_output,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_taking_over_equals_copying(name: str, tmp_path: Path) -> None:
    build, run = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = build().eval()
    model.save(tmp_path / "part")
    copied = build()
    strict_load(copied, load_part(tmp_path / "part")[1], name)
    before = torch.get_rng_state()
    taken = type(model).from_folder(tmp_path / "part")
    # Building it drew no numbers, so loading a model changes no other result.
    assert torch.equal(torch.get_rng_state(), before)
    assert not taken.training
    with torch.no_grad():
        assert torch.equal(run(taken), run(copied.eval()))
    own = dict(copied.named_parameters())
    for key, parameter in taken.named_parameters():
        assert parameter.stride() == own[key].stride()
        assert parameter.requires_grad == own[key].requires_grad
    assert dict(taken.named_buffers()).keys() == dict(copied.named_buffers()).keys()


@pytest.mark.parametrize("tie", [True, False])
def test_the_language_model_with_its_computed_buffers(tmp_path: Path, tie: bool) -> None:
    import dataclasses

    from opentar.language.prompt import PromptBuilder
    from opentar.language.tokenizer import train_bpe

    config = dataclasses.replace(TINY.language, tie=tie)
    model = TarLanguageModel(config).eval()
    save_language(tmp_path / "part", model, PromptBuilder(train_bpe((), 259), config.vocab))
    taken = load_language(tmp_path / "part").model
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        assert torch.equal(taken.logits(taken.hidden(ids)), model.logits(model.hidden(ids)))
    buffers = dict(taken.named_buffers())
    assert any("inv_freq" in name for name in buffers)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    assert (taken.qwen.lm_head.weight is taken.qwen.model.embed_tokens.weight) == tie


def test_bfloat16_is_kept_and_can_be_undone(tmp_path: Path) -> None:
    TATok(TINY.ta_tok).save(tmp_path / "ta_tok", "bfloat16")
    kept = TATok.from_folder(tmp_path / "ta_tok")
    narrow = [tensor for name, tensor in kept.named_parameters() if not name.startswith(("in_linear", "encode_task"))]
    assert {tensor.dtype for tensor in narrow} == {torch.bfloat16}
    assert kept.in_linear.weight.dtype == torch.float32, "rounding there would move codes"
    assert kept.codebook().dtype == torch.float32
    wide = TATok.from_folder(tmp_path / "ta_tok", torch.float32)
    assert {tensor.dtype for tensor in wide.parameters()} == {torch.float32}
    assert torch.equal(wide.codebook(), kept.codebook())
    half = TATok.from_folder(tmp_path / "ta_tok", torch.bfloat16)
    assert torch.equal(_ta_tok_output(half), _ta_tok_output(kept))


def test_a_float32_codebook_is_never_rounded(tmp_path: Path) -> None:
    model = TATok(TINY.ta_tok).eval()
    model.save(tmp_path / "ta_tok")
    half = TATok.from_folder(tmp_path / "ta_tok", torch.bfloat16)
    assert half.encoder.position_ND.dtype == torch.bfloat16
    assert torch.equal(half.in_linear.weight, model.in_linear.weight)
    assert half.quantizer.embedding.weight.dtype == torch.float32
    assert torch.equal(half.codebook(), model.codebook())
    assert half.decode(torch.arange(36).view(1, 36)).dtype == torch.bfloat16


def test_int8_runs_in_float32_and_the_canvas_always_does(tmp_path: Path) -> None:
    painter = ARDetokenizer(ARTransformer(TINY.ar), VQGAN(TINY.vqgan))
    features = torch.linspace(-1, 1, 9 * 16).view(1, 9, 16)
    for storage, dtype in (("int8", torch.float32), ("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        painter.save(tmp_path / storage, storage)
        loaded = ARDetokenizer.from_folder(tmp_path / storage)
        assert {tensor.dtype for tensor in loaded.transformer.parameters()} == {dtype}
        assert {tensor.dtype for tensor in loaded.canvas.parameters()} == {torch.float32}
        # Features of any type are taken, and pixels are float32.
        for kind in (torch.float32, torch.bfloat16):
            assert loaded.decode(features.to(kind)).dtype == torch.float32


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    state = VQGAN(TINY.vqgan).state_dict()
    state["more"] = state.pop("codebook")
    with pytest.raises(WeightsError, match=r"1 missing: codebook; 1 not known here: more"):
        assemble(lambda: VQGAN(TINY.vqgan), state, "tiny")


def test_a_model_that_computes_at_its_start_cannot_be_assembled() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.arange(3), persistent=False)

    with pytest.raises(AssertionError, match="computes places"):
        assemble(Counts, {}, "counts")


def test_the_type_is_checked_before_anything_is_loaded(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"dtype 'float12' is unknown.*float16, fp16"):
        ModelParts(tiny_model, dtype="float12")
    with pytest.raises(ConfigError, match="float16 is for cuda and mps"):
        ModelParts(tiny_model, device="cpu", dtype="float16")
    assert ModelParts(tiny_model, device="cpu", dtype="bf16").language.model.dtype == torch.bfloat16


def test_a_device_without_bfloat16(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored as bfloat16 runs in float16 or float32, and one warning says so; the rest is as it was."""
    import warnings

    from PIL import Image

    from opentar import Tar
    from opentar.checkpoints import parts as model_parts
    from opentar.checkpoints.random_init import init_random
    from opentar.core.precision import DeviceFacts, DtypeWarning

    init_random(TINY, tmp_path / "bf16", parts=("language", "ta_tok", "detok_ar"))
    # The CPU stands for it: it can do all that such a card can.
    monkeypatch.setattr(model_parts, "device_facts", lambda _: DeviceFacts("cuda", False, "Tesla T4"))
    with pytest.warns(DtypeWarning, match="Tesla T4 has no bfloat16.*ta_tok in float32, language in float16") as told:
        tar = Tar.from_pretrained(tmp_path / "bf16", device="cpu")
    assert len(told) == 1 and told[0].filename == __file__
    assert repr(tar) == "<Tar 'tar-tiny-random' on cpu: ta_tok float32, language float16, detok_ar float16>"
    assert tar.parts.language.model.qwen.lm_head.weight.dtype == torch.float16
    assert tar.parts.detokenizer("ar").transformer.logits.weight.dtype == torch.float16
    assert {weight.dtype for weight in tar.parts.ta_tok.parameters()} == {torch.float32}
    assert tar.generate("a dog", scale=2)[0].size == (16, 16)
    assert isinstance(tar.ask(Image.new("RGB", (30, 30)), "a dog?", max_new_tokens=3), str)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DtypeWarning)
        stored = Tar.from_pretrained(tiny_model, device="cpu")
        asked = Tar.from_pretrained(tiny_model, device="cpu", dtype="float16")
    names = "ta_tok {0}, language {1}, detok_diffusion float32, detok_ar {1}"
    assert repr(stored) == f"<Tar 'tiny' on cpu: {names.format('stored', 'stored')}>"
    assert repr(asked) == f"<Tar 'tiny' on cpu: {names.format('float32', 'float16')}>"
    assert asked.generate("a dog", scale=2, detok="ar")[0].size == (32, 32)


def test_float16_of_another_program_runs_in_float32(tmp_path: Path) -> None:
    import json

    from safetensors.torch import save_file

    from opentar.core import atomic
    from opentar.core import folder as folders

    ARTransformer(TINY.ar).save(tmp_path / "part")
    _, state = load_part(tmp_path / "part")
    halves = {name: tensor.half() for name, tensor in state.items()}
    save_file(halves, tmp_path / "part" / folders.WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "part" / folders.MANIFEST).unlink()
    atomic._write_manifest(tmp_path / "part")
    assert json.loads((tmp_path / "part" / folders.CONFIG).read_text())["storage"] == "float32"
    read = load_part(tmp_path / "part", "stored")[1]
    assert all(torch.equal(read[name], halves[name].float()) for name in halves)
