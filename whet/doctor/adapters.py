"""Looks at an adapter folder of PEFT's or mlx-lm's: does it act, how strongly, on which base, and what a conversion loses."""

from pathlib import Path
from typing import Any

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.errors import InputError, counted
from whet.export.fit import check_fit, untrained_layers
from whet.models.base_model import open_base
from whet.models.described import read_description
from whet.models.lora import CONFIG, PICKLES, WEIGHTS, Lora
from whet.models.mlx_adapter import MLX_WEIGHTS, is_mlx, read_adapter


def look(folder: Path, context: Context) -> Findings:
    """All findings about an adapter folder."""
    pickled = [name for name in PICKLES if (folder / name).exists()]
    if pickled:
        yield error(
            "pickle",
            folder / pickled[0],
            "weights are pickled",
            "Opening them can run code that somebody put there.",
            "Save as safetensors where it was made: save_pretrained(..., safe_serialization=True)",
        )
        if not (folder / WEIGHTS).is_file() and not (folder / MLX_WEIGHTS).is_file():
            return
    config = read_description(folder / CONFIG)
    if config.get("fine_tune_type") == "full":
        return
    yield from _described(folder, config)
    try:
        lora = read_adapter(folder)
    except InputError as fault:
        yield error(
            "an adapter that is not whole",
            fault.place,
            fault.what,
            "A loader takes what it knows of it and leaves the rest, or stops.",
            fault.remedy or "Save it again",
        )
        return
    context.adapters.append(folder)
    saved = sorted(path.name for path in folder.glob("[0-9]*_adapters.safetensors"))
    if saved:
        yield note(
            "a resume that forgets",
            folder,
            f"{counted(len(saved), 'checkpoint')} of it ({saved[-1]}) with weights alone",
            "mlx-lm takes a run up again (resume_adapter_file) with a fresh optimiser and schedule, from step 1.",
            "Train in one go, or expect a leap of the loss",
        )
    yield from _trained(folder, lora)
    yield from _strength(folder, lora, context)
    yield from _fit(folder, context)


def _described(folder: Path, config: dict[str, Any]) -> Findings:
    parameters = config.get("lora_parameters")
    if isinstance(parameters, dict) and "alpha" in parameters:
        yield error(
            "a setting that does nothing",
            folder / CONFIG,
            f"lora_parameters.alpha: {parameters['alpha']} is not read by mlx-lm",
            f"It takes scale, here {parameters.get('scale', 'none')}.",
            "Write scale = alpha / rank",
        )


def _trained(folder: Path, lora: Lora) -> Findings:
    zero = untrained_layers(lora)
    if lora.layers and len(zero) == len(lora.layers) and not lora.whole:
        yield error(
            "nothing was trained",
            folder,
            f"all {counted(len(zero), 'layer', 'is as it was', 'are as they were')} before the first step (B is zero)",
            "The adapter changes nothing: the base answers.",
            "Look whether its weights moved, and train it again",
        )
    elif zero:
        yield warning(
            "layers that were not trained",
            folder,
            f"{len(zero)} of {len(lora.layers)} layers change nothing (B is zero), such as {zero[0]}",
            "They were adapted and no gradient reached them.",
            "Is their part of the model used at all?",
        )
    bad = [name for name, layer in lora.layers.items() if not _is_finite(layer)]
    if bad:
        yield error(
            "numbers that are none",
            folder,
            f"{counted(len(bad), 'layer', 'holds', 'hold')} NaN or infinity, such as {bad[0]}",
            "Training diverged and was carried on.",
            "Take an earlier checkpoint, and a lower learning rate",
        )


def _is_finite(layer: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(layer.a.read()).all() and np.isfinite(layer.b.read()).all())


def _strength(folder: Path, lora: Lora, context: Context) -> Findings:
    scales = {layer.scale for layer in lora.layers.values()}
    if not scales:
        return
    scale = max(scales)
    context.strengths[str(folder.resolve())] = scale
    if is_mlx(folder) and scale != 1:
        yield warning(
            "strength that Ollama does not read",
            folder,
            f"it acts at strength {scale:g} (scale), and names no alpha",
            f"Ollama reads alpha alone: imported as it is, the adapter runs at strength 1.0 instead of {scale:g}.",
            "Convert or fuse it first: whet adapter convert ADAPTER --to peft, or whet fuse",
        )
    lost = [
        words
        for key, words in (
            ("rank_pattern", "other ranks for some layers (rank_pattern)"),
            ("alpha_pattern", "other strengths for some layers (alpha_pattern)"),
            ("use_rslora", "rsLoRA's strength alpha / sqrt(rank)"),
            ("use_dora", "DoRA's lengths"),
        )
        if lora.config.get(key)
    ]
    if lora.whole:
        lost.append(f"{counted(len(lora.whole), 'tensor')} trained whole ({', '.join(sorted(lora.whole)[:2])})")
    if lost:
        yield note(
            "what a conversion can lose",
            folder,
            f"it has {', '.join(lost)}",
            "Converters of adapters (GGUF, Ollama, MLX) leave these out without a word.",
            "Fuse it and export the model: whet fuse",
        )


def _fit(folder: Path, context: Context) -> Findings:
    if context.base is None:
        return
    try:
        notes = check_fit(folder, open_base(context.base))
    except InputError as fault:
        yield error(
            "an adapter of another base",
            fault.place,
            fault.what,
            "On another base it is noise.",
            fault.remedy or "Use the base that it was trained on",
        )
        return
    for words in notes:
        if words.startswith("NOT PROVED: it names"):
            yield warning(
                "an adapter of another base",
                folder,
                words.removeprefix("NOT PROVED: "),
                "On another base it is noise.",
                "Use the base that it was trained on",
            )
