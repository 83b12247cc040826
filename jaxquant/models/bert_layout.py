"""The files of a BERT folder: its config, and where each tensor of model.safetensors lives in the module.  No JAX here.

A file keeps a dense weight as [out, in]; an `nnx.Linear` keeps its kernel as [in, out].  One table of slots says which
tensor goes where and whether it is transposed, so that a quantized file can be written back under the source's names.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from refquant.files import TensorInfo, UnreadableFile

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
DTYPES = ("F32", "F16", "BF16")
PREFIXES = ("", "bert.")
_SHOWN = 6

# file name inside one layer                module path inside one layer     in → out sizes
_DENSE = (
    ("attention.self.query",                ("attention", "query"),          "hidden", "hidden"),
    ("attention.self.key",                  ("attention", "key"),            "hidden", "hidden"),
    ("attention.self.value",                ("attention", "value"),          "hidden", "hidden"),
    ("attention.output.dense",              ("attention", "output"),         "hidden", "hidden"),
    ("intermediate.dense",                  ("intermediate",),               "hidden", "inner"),
    ("output.dense",                        ("output",),                     "inner", "hidden"),
)  # fmt: skip
_NORMS = (
    ("attention.output.LayerNorm", ("attention_norm",)),
    ("output.LayerNorm", ("output_norm",)),
)
_EMBEDDINGS = (
    ("word_embeddings", "vocab_size"),
    ("position_embeddings", "max_position_embeddings"),
    ("token_type_embeddings", "type_vocab_size"),
)


@dataclass(frozen=True)
class BertConfig:
    """The sizes in config.json that the encoder needs, under the file's own names, plus the names' prefix.

    Attributes:
      prefix: what the tensor names in the file begin with: "" or "bert.".
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    prefix: str = ""

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class Slot:
    """Where one tensor of the file lives in the module.

    Attributes:
      path: keys from the root of the NNX state to the parameter, e.g. ("layers", 0, "attention", "query", "kernel").
      shape: its shape in the module.
      transposed: whether the file stores the transpose (every dense weight).
    """

    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def text(self) -> str:
        """The path as a person writes it: `layers[0].attention.query.kernel`."""
        return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path)[1:]

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape that the file must have."""
        return self.shape[::-1] if self.transposed else self.shape


def read_config(folder: Path) -> BertConfig:
    """The BertConfig of a folder's config.json.

    Raises:
      FileNotFoundError: there is no config.json.
      UnreadableFile: it is no JSON.
      ValueError: no object, another model_type, missing keys (all are listed), or a setting not supported here.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"open_folder: {folder} holds no config.json, need config.json and model.safetensors")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnreadableFile(f"open_folder: {path} is no JSON ({error})") from None
    if not isinstance(raw, dict) or raw.get("model_type") != "bert":
        kind = raw.get("model_type") if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(f"open_folder: {path} has model_type {kind!r}, need 'bert' (the one architecture built in)")
    return _checked(raw, path)


def _checked(raw: dict, path: Path) -> BertConfig:
    """The config, once every key is there and every setting is one the encoder implements."""
    needed = [field.name for field in fields(BertConfig)[:7]]
    if missing := [name for name in needed if not isinstance(raw.get(name), int) or raw[name] < 1]:
        raise ValueError(f"open_folder: {path} lacks {', '.join(missing)}, need positive integers (the model's sizes)")
    if raw["hidden_size"] % raw["num_attention_heads"]:
        sizes = f"hidden_size {raw['hidden_size']} and num_attention_heads {raw['num_attention_heads']}"
        raise ValueError(f"open_folder: {path} has {sizes}, need a whole number of features a head")
    if raw.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise ValueError(f"open_folder: {path} has hidden_act {raw['hidden_act']!r}, need one of {ACTIVATIONS}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        kind = raw["position_embedding_type"]
        raise ValueError(f"open_folder: {path} has position_embedding_type {kind!r}, need 'absolute'")
    if raw.get("is_decoder"):
        raise ValueError(f"open_folder: {path} has is_decoder true, need an encoder (attention is not causal here)")
    names = [field.name for field in fields(BertConfig) if field.name in raw]
    return BertConfig(**{name: raw[name] for name in names if name != "prefix"})


def tensor_map(config: BertConfig) -> dict[str, Slot]:
    """Each tensor name of the file → its slot in the module, in the order of the model's data flow."""
    found = {f"embeddings.{name}.weight": _embedding(config, name, size) for name, size in _EMBEDDINGS}
    found |= _norm("embeddings.LayerNorm", ("embeddings_norm",), config)
    for index in range(config.num_hidden_layers):
        start, root = f"encoder.layer.{index}.", ("layers", index)
        for name, path, size_in, size_out in _DENSE:
            found |= _dense(start + name, root + path, config, size_in, size_out)
        for name, path in _NORMS:
            found |= _norm(start + name, root + path, config)
    return {config.prefix + name: slot for name, slot in found.items()}


def file_names(config: BertConfig) -> dict[tuple[str | int, ...], str]:
    """The other direction of `tensor_map`: each path in the module → the tensor's name in the file."""
    return {slot.path: name for name, slot in tensor_map(config).items()}


def _embedding(config: BertConfig, name: str, size: str) -> Slot:
    return Slot((name, "embedding"), (getattr(config, size), config.hidden_size))


def _norm(name: str, path: tuple, config: BertConfig) -> dict[str, Slot]:
    shape = (config.hidden_size,)
    return {f"{name}.weight": Slot((*path, "scale"), shape), f"{name}.bias": Slot((*path, "bias"), shape)}


def _dense(name: str, path: tuple, config: BertConfig, size_in: str, size_out: str) -> dict[str, Slot]:
    sizes = {"hidden": config.hidden_size, "inner": config.intermediate_size}
    kernel = Slot((*path, "kernel"), (sizes[size_in], sizes[size_out]), transposed=True)
    return {f"{name}.weight": kernel, f"{name}.bias": Slot((*path, "bias"), (sizes[size_out],))}


def find_prefix(names: Iterable[str]) -> str:
    """The prefix under which a file keeps its encoder: "" or "bert." ("" where neither fits)."""
    have = set(names)
    return next((prefix for prefix in PREFIXES if f"{prefix}embeddings.word_embeddings.weight" in have), "")


def check_tensors(infos: Mapping[str, TensorInfo], config: BertConfig, path: Path) -> None:
    """Raises ValueError unless every tensor of the model is in `infos` (name → header entry) and fits.

    Tensors that the encoder does not use (a pooler, position ids) are no error.
    """
    slots = tensor_map(config)
    if missing := [name for name in slots if name not in infos]:
        raise ValueError(f"open_folder: {path} lacks {len(missing)} of {len(slots)} tensors: {_some(missing)}")
    wrong = [str(infos[name]) for name in slots if infos[name].dtype not in DTYPES]
    if wrong:
        raise ValueError(f"open_folder: {path} has {len(wrong)} weights of dtypes other than {DTYPES}: {_some(wrong)}")
    wrong = [
        f"{name} has shape {infos[name].shape}, need {slot.file_shape}"
        for name, slot in slots.items()
        if tuple(infos[name].shape) != slot.file_shape
    ]
    if wrong:
        raise ValueError(f"open_folder: {path} does not fit config.json in {len(wrong)} tensors: {_some(wrong)}")


def _some(items: list[str]) -> str:
    """The first few items, and how many more there are."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more
