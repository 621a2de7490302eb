"""Puts what is trained on a base and takes it off again: LoRA adapters through PEFT, and full fine-tuning."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from whet.backends.base import FullSettings, LoraSettings
from whet.backends.on_torch.targets import decoder_layers, find_targets, is_tied, last_layers, name_of
from whet.errors import InputError, counted
from whet.models.base_model import COMPANIONS, BaseModel, open_base
from whet.storage import read_json, write_json

# Ways to start an adapter that leave the base as it is; others (pissa, olora, loftq, corda) rewrite its weights.
HARMLESS_STARTS = (True, False, "gaussian", "orthogonal")
SHAPES = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "tie_word_embeddings")


def adapt(model: Any, settings: LoraSettings, num_tokens: int = 0) -> Any:
    """A fresh LoRA adapter on a model; A random, B zero, so that nothing changes before the first step.

    Trained weights are fp32, whatever the base is held in. num_tokens: entries of the tokenizer; where they are more than the
    embedding has rows, the table grows, which needs the embedding (and an untied head) in `save_modules`.
    """
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    if num_tokens > num_rows(model):
        _check_growth(model, settings, num_tokens)
        resize(model, num_tokens)
    found = find_targets(model, settings)
    outer = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  (PEFT takes any number)
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        target_modules=list(found.target_modules),
        layers_to_transform=found.layers,
        layers_pattern=found.layers_name or None,
        rank_pattern=dict(settings.rank_pattern),
        alpha_pattern=dict(settings.alpha_pattern),
        modules_to_save=list(found.modules_to_save) or None,
        # Tied weights stay one: training the embedding trains the head.
        ensure_weight_tying=is_tied(model) and any(name_of(model, module) in found.saved for module in outer),
        fan_in_fan_out=isinstance(model.get_submodule(found.adapted[0]), Conv1D),
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return _put_on(model, config)
    except ValueError as error:
        raise InputError("train.lora", f"PEFT refuses this adapter ({str(error).splitlines()[0][:160]})") from None


def load_adapter(model: Any, folder: Path, name: str = "default") -> Any:
    """The adapter in a folder, put on a model; every tensor of the file must find its place and every place a tensor.

    name: PEFT's for it. Under another name than the usual one it may stand beside others, on a model that PEFT has already.
    """
    from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = PeftConfig.from_pretrained(str(folder))
        stored = load_file(folder / "adapter_model.safetensors")
        _check_kind(folder, config, LoraConfig)
        config.inference_mode = False
        if (rows := _stored_rows(model, stored)) > num_rows(model):
            if name != "default":
                raise InputError(str(folder), "brings new tokens, so it can't stand beside other adapters", "Attach it alone")
            resize(model, rows)
        loaded = _put_on(model, config, name)
        wanted = set(get_peft_model_state_dict(loaded, adapter_name=name, save_embedding_layers=False))
        if set(stored) == wanted:
            set_peft_model_state_dict(loaded, stored, adapter_name=name)
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(
            str(folder),
            f"PEFT can't load this adapter ({str(error).splitlines()[0][:200]})",
            "Is it whole, and trained on this base?",
        ) from None
    if set(stored) != wanted:
        odd = sorted(set(stored) ^ wanted)
        raise InputError(
            str(folder),
            f"{counted(len(odd), 'tensor', 'does', 'do')} not match this base, such as {', '.join(odd[:3])}",
            "It belongs to another base or another version of PEFT",
        )
    return loaded


def save_adapter(peft_model: Any, folder: Path) -> None:
    """Write an adapter in PEFT's layout into an existing folder; equal adapters give equal bytes."""
    with writing(folder):
        # Asking a hub whether the vocabulary changed is what the default would do.
        peft_model.save_pretrained(str(folder), save_embedding_layers=False)
    path = folder / "adapter_config.json"
    # PEFT keeps names in sets, whose order changes from process to process.
    config = {
        key: sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value
        for key, value in read_json(path).items()
    }
    write_json(path, config)


def remove_adapter(peft_model: Any, rows: int) -> Any:
    """The bare base below an adapter, frozen; its embedding is cut back to the rows that it had."""
    from peft.utils import ModulesToSaveWrapper

    for module in peft_model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.set_adapter([])  # PEFT would leave the active, trained copy in the base's place
    model = peft_model.unload()
    model.requires_grad_(False)
    if num_rows(model) != rows:
        resize(model, rows)
    return model


def num_rows(model: Any) -> int:
    """Rows of a model's embedding: ids that it knows."""
    return int(model.get_input_embeddings().weight.shape[0])


@torch.no_grad()
def resize(model: Any, rows: int) -> None:
    """Cut the embedding (and head) to a number of rows, or add rows: each the mean of those there were, nothing random
    (Hewitt 2021, "Initializing new word embeddings for pretrained language models").
    """
    before = num_rows(model)
    state = torch.get_rng_state()
    model.resize_token_embeddings(rows, mean_resizing=False)
    torch.set_rng_state(state)  # transformers draws rows that are written over below
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None:
            module.requires_grad_(False)
            if rows > before:
                module.weight[before:] = module.weight[:before].float().mean(0).to(module.weight.dtype)


def adapt_fully(model: Any, settings: FullSettings) -> Any:
    """Make a base's own weights trainable: all, or those of the last n layers (embedding, last norm and head stay then).

    The model must be loaded in fp32: smaller numbers swallow small steps. bf16 is for autocast to compute in.
    """
    weights = dict(model.named_parameters())
    if not all(weight.is_floating_point() for weight in weights.values()):
        raise InputError("device.quantize", "a quantised base can't be trained in full", "Leave it out, or train an adapter")
    if any(weight.dtype != torch.float32 for weight in weights.values()):
        raise InputError("device.dtype", "full fine-tuning needs the base's weights in fp32", "Set device.dtype=fp32")
    trained: Any = model
    if settings.last_layers is not None:
        _, stack = decoder_layers(model)
        trained = stack[last_layers(len(stack), settings.last_layers, "train.full.last_layers")[0] :]
    trained.requires_grad_(True)
    return model


def save_full(model: Any, base: BaseModel, folder: Path) -> None:
    """Write a model that was trained in full as a base of its own into an existing folder: weights in fp32, the base's config,
    tokenizer and template.
    """
    with writing(folder):
        model.save_pretrained(str(folder), safe_serialization=True)
    for name in COMPANIONS:
        (folder / name).unlink(missing_ok=True)
        if (base.folder / name).is_file():
            shutil.copy(base.folder / name, folder / name)
    # The base's config word for word: other programs read keys that transformers writes no more (rope_theta, for one).
    dtype = "torch_dtype" if "torch_dtype" in base.config else "dtype"
    write_json(folder / "config.json", base.config | {dtype: "float32"})


def load_full(
    base: BaseModel,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    quantize: Literal["nf4", "int8"] | None = None,
) -> Any:
    """The model that `save_full` wrote, to stand in the base's place; `load_model(base)` gives the base back, bit for bit.

    Not copied into the loaded base: names on disk may differ from those in memory, and both would be held at once.
    """
    from whet.backends.on_torch.load import load_model

    found = open_base(folder)
    for key in SHAPES:
        if found.config.get(key) != base.config.get(key):
            raise InputError(
                str(folder),
                f"is no model trained from {base.folder.name}: {key} is {found.config.get(key)}, not {base.config.get(key)}",
                "Use the base that it was trained on",
            )
    return load_model(found, dtype, device, quantize)


def _put_on(model: Any, config: Any, name: str = "default") -> Any:
    """A model under PEFT with a fresh adapter, its trained weights in fp32."""
    from peft import PeftModel, get_peft_model
    from peft.utils import ModulesToSaveWrapper

    with warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers has renamed; not for our users to see.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # A base may lie elsewhere than in training; that it is the same one was checked by its fingerprint.
        warnings.filterwarnings("ignore", message=".*base_model_name_or_path", category=UserWarning)
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            peft_model = model
        else:
            peft_model = get_peft_model(model, config, adapter_name=name)
    for module in peft_model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            _train_in_fp32(module)
    return peft_model


def _train_in_fp32(wrapper: Any) -> None:
    """Raise the trained copy of a module to fp32, and pass its inputs and outputs on in the numbers of the original."""
    dtype = next(wrapper.original_module.parameters()).dtype
    if dtype == torch.float32:
        return
    for trained in wrapper.modules_to_save.values():
        trained.float()
        trained.register_forward_pre_hook(lambda _, given: tuple(_cast(value, torch.float32) for value in given))
        trained.register_forward_hook(lambda _, given, made: _cast(made, dtype))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _check_growth(model: Any, settings: LoraSettings, num_tokens: int) -> None:
    """New rows that nobody trains would be noise in every text that holds their tokens."""
    names = [name_of(model, model.get_input_embeddings())]
    if not is_tied(model) and model.get_output_embeddings() is not None:
        names.append(name_of(model, model.get_output_embeddings()))
    missing = [n for n in names if not any(n == s or n.endswith(f".{s}") for s in settings.save_modules)]
    if missing:
        wanted = ", ".join(name.rpartition(".")[2] for name in names)
        raise InputError(
            "train.lora.save_modules",
            f"the tokenizer has {num_tokens} entries and the base's embedding {num_rows(model)}: "
            f"{num_tokens - num_rows(model)} tokens have no weights, and they would not be trained",
            f"Train them with the adapter: train.lora.save_modules=[{wanted}]; or take the new tokens out of tokenizer.json",
        )


def _check_kind(folder: Path, config: Any, kind: type) -> None:
    if not isinstance(config, kind):
        raise InputError(str(folder), f"is a {config.peft_type} adapter; whet runs LoRA adapters", "Train it again")
    start = getattr(config, "init_lora_weights", True)
    if start not in HARMLESS_STARTS:
        raise InputError(
            str(folder),
            f"starts from {start}, which rewrites the base's own weights",
            "Convert it to a plain LoRA with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )


def _stored_rows(model: Any, stored: dict[str, torch.Tensor]) -> int:
    """Rows of the embedding that an adapter's file holds; 0 where it holds none."""
    name = name_of(model, model.get_input_embeddings())
    found = [tensor.shape[0] for key, tensor in stored.items() if key.endswith(f"{name}.weight")]
    return int(found[0]) if found else 0


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Weights that can't be written become one line."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise InputError(
            str(folder.parent), f"the weights can't be written ({error})", "Free some space or choose another place"
        ) from None
