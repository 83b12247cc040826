"""How a quantized model lies in a safetensors file: which tensors there are, their names and their exact bytes.

A quantized tensor NAME becomes NAME.codes (uint8, packed by PCK-1), NAME.scale and, where the rule has one,
NAME.zero_point; the file's metadata holds its scheme, shape and axes under "refquant:NAME".  All else is copied.
No arithmetic on values here: shapes, names and counts only (specs/65-files.md, FIL-1..FIL-4).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from refquant import formats
from refquant.files.errors import UnreadableFile
from refquant.files.safetensors import Header, TensorInfo, tensor_bytes
from refquant.files.safetensors_writer import predicted_size
from refquant.files.stacked import told_axes
from refquant.granularity import PerAxis, PerGroup, PerToken
from refquant.schemes import GRAIN, Scheme, TensorScheme, parse_tensor
from refquant.spec import SCALE_BITS, QuantSpec

Kind = Literal["linear", "embedding", "conv", "other"]
Channels = int | tuple[int, ...]
FLOATS = ("F64", "F32", "F16", "BF16")
QUANTIZABLE = ("F32", "F16", "BF16")
STORED_SCALE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "e4m3fn": "F8_E4M3"}
PREFIX = "refquant:"
VERSION = "1"
_EMBEDDING = re.compile(r"embed|(^|\.)(wte|wpe)(\.|$)|tok_emb|(^|\.)shared\.weight$", re.IGNORECASE)


@dataclass(frozen=True)
class Stored:
    """One tensor that a file will have: what `predicted_size` and `Writer` need."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What becomes of one tensor of the source.

    Attributes:
      info: the tensor as it is.
      kind: its class by name and shape.
      scheme: how it is quantized, None where it is copied.
      why: why it is copied ("" where it is quantized).
      given: its channel and group axes, where they are not those of the name and shape.
      stacked: how many leading axes count layers (FIL-8).
    """

    info: TensorInfo
    kind: Kind
    scheme: TensorScheme | None
    why: str = ""
    given: tuple[Channels, int] | None = None
    stacked: int = 0

    @property
    def axes(self) -> tuple[Channels, int]:
        """(channel axis, group axis): [out, in] as PyTorch stores it, [in, out] where the name ends in "kernel"."""
        if self.given is not None:
            return self.given
        flax = self.info.name.rsplit(".", 1)[-1].rsplit("/", 1)[-1] == "kernel"
        if self.kind == "embedding" or not flax:
            return 0, 1
        return len(self.info.shape) - 1, len(self.info.shape) - 2

    @property
    def spec(self) -> QuantSpec:
        """The QuantSpec of the tensor as it lies in the file (only where it is quantized)."""
        if self.scheme is None:
            raise ValueError(f"Plan: {self.info.name} is copied, need a scheme for it to have a spec ({self.why})")
        channel, group = self.axes
        return self.scheme.spec(channel_axis=channel, group_axis=group)

    def stored(self) -> tuple[Stored, ...]:
        """The tensors it becomes, in file order."""
        name, shape = self.info.name, self.info.shape
        if self.scheme is None:
            return (Stored(name, self.info.dtype, shape),)
        return stored_parts(name, shape, self.spec)

    def metadata(self) -> dict[str, str]:
        """The file's metadata entry that lets the tensor be restored; empty where it is copied."""
        if self.scheme is None:
            return {}
        channel, group = self.axes
        entry = {
            "scheme": str(self.scheme),
            "shape": list(self.info.shape),
            "dtype": self.info.dtype,
            "channel_axis": channel,
            "group_axis": group,
            **({"stacked": self.stacked} if self.stacked else {}),
        }
        return {PREFIX + self.info.name: json.dumps(entry, separators=(",", ":"))}

    @property
    def bits(self) -> int:
        """Bits of the stored form: codes, scales and zero points, or the tensor as it is."""
        if self.scheme is None:
            return self.info.nbytes * 8
        scales = math.prod(self.spec.granularity.scale_shape(self.info.shape))
        width = SCALE_BITS[self.spec.scale.storage]
        zero = {"none": 0, "float": 32, "int": 8 if self.spec.fmt.bits <= 8 else 16}[self.spec.scale.zero]
        return math.ceil(self.info.size * self.spec.fmt.bits / 8) * 8 + scales * (width + zero)


def plan_of(info: TensorInfo, spec: QuantSpec | None) -> Plan:
    """The plan of a tensor that is quantized by a spec already (None: copied).

    Args:
      info: its name and shape; the dtype is the source's.
      spec: the spec of its codes.
    Raises:
      ValueError: a spec that the metadata does not hold: a format that is not as `formats.ALL` has it, scales per token
        or per block of other than two axes, or a convention that is not the default.
    """
    if spec is None:
        return Plan(info, "other", None, "not quantized")
    grain = spec.granularity
    channel = grain.axis if isinstance(grain, PerAxis) else 0
    group = grain.axis if isinstance(grain, PerGroup) else 0
    scheme = TensorScheme(spec.fmt, "channel" if isinstance(grain, PerAxis) else str(grain), spec.scale)
    _check_format("plan_of", info.name, spec.fmt)
    made = Plan(info, classify(info.name, info.shape, info.dtype), scheme, given=(channel, group))
    if grain == PerToken() or not GRAIN.fullmatch(scheme.grain) or made.spec != spec:
        raise ValueError(
            f"plan_of: {info.name!r} has {spec}, need scales per tensor, channel, group or block of two axes and the "
            "default convention (FIL-3: the scheme and its axes are all that a file tells)"
        )
    return made


def _check_format(function: str, name: str, fmt: formats.Format) -> None:
    """A file tells a format by its name, so it must be the one that has the name.

    Raises:
      ValueError: another format, of a name of its own or of a known one.
    """
    if formats.ALL.get(fmt.name) != fmt:
        raise ValueError(
            f"{function}: {name!r} has a format {fmt.name!r} of its own, need one as formats.ALL has it (FIL-3: a file "
            "tells a format by its name)"
        )


def check_stored(header: Header, name: str, spec: QuantSpec, shape: tuple[int, ...]) -> None:
    """The tensors of a file are those that the metadata entry of NAME promises.

    Raises:
      UnreadableFile: one is missing, or has another dtype or shape.
    """
    for part in stored_parts(name, shape, spec):
        found = header.by_name.get(part.name)
        if found is None or (found.dtype, found.shape) != (part.dtype, part.shape):
            have = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise UnreadableFile(
                f"{header.path}: metadata of {name!r} promises {part.name!r} as {part.dtype} {list(part.shape)}, "
                f"found {have}"
            )


def stored_parts(name: str, shape: tuple[int, ...], spec: QuantSpec) -> tuple[Stored, ...]:
    """The tensors that a quantized tensor becomes, in file order (FIL-2)."""
    scales = spec.granularity.scale_shape(shape)
    codes = Stored(f"{name}.codes", "U8", (-(-math.prod(shape) * spec.fmt.bits // 8),))
    scale = Stored(f"{name}.scale", STORED_SCALE.get(spec.scale.storage, "U8"), scales)
    if spec.scale.zero == "none":
        return codes, scale
    zero = "F32" if spec.scale.zero == "float" else {8: "U8", 16: "U16"}[8 if spec.fmt.bits <= 8 else 16]
    return codes, scale, Stored(f"{name}.zero_point", zero, scales)


def classify(name: str, shape: tuple[int, ...], dtype: str) -> Kind:
    """The class of a tensor, from its name and shape: what a scheme's w= and e= apply to."""
    if dtype not in FLOATS or math.prod(shape) == 0:
        return "other"
    if len(shape) == 2:
        return "embedding" if _EMBEDDING.search(name) else "linear"
    return "conv" if len(shape) in (3, 4) and min(shape[:2]) >= 1 and math.prod(shape) > 64 else "other"


def plan(tensors: Iterable[TensorInfo], scheme: Scheme) -> tuple[Plan, ...]:
    """What a scheme makes of each tensor of a file, in file order (FIL-1).

    Raises:
      ValueError: a scheme of formats or grains that no file tells (FIL-3).
    """
    return tuple(_plan_one(info, scheme) for info in tensors)


def _plan_one(info: TensorInfo, scheme: Scheme) -> Plan:
    kind = classify(info.name, info.shape, info.dtype)
    chosen = {"linear": scheme.weights, "conv": scheme.weights, "embedding": scheme.embeddings, "other": None}[kind]
    if kind == "other":
        return Plan(info, kind, None, "neither a matrix nor a convolution kernel")
    if chosen is None:
        return Plan(info, kind, None, f"the scheme leaves {kind} tensors in float")
    if info.dtype not in QUANTIZABLE:
        return Plan(info, kind, None, f"dtype {info.dtype}, need one of {', '.join(QUANTIZABLE)}")
    _check_format("plan", info.name, chosen.fmt)
    if chosen.grain == "token" or not GRAIN.fullmatch(chosen.grain):
        raise ValueError(
            f"plan: weights have grain {chosen.grain!r}, need tensor, channel, gN or bRxC (tokens are rows of a "
            "layer's inputs)"
        )
    return Plan(info, kind, chosen)


def file_metadata(plans: Iterable[Plan], source: Mapping[str, str] | None = None) -> dict[str, str]:
    """The output's metadata: the source's own, the format's version, and one entry a quantized tensor (FIL-3).

    Raises:
      ValueError: a key of the source, or a quantized tensor's name, that would be read as something else.
    """
    found, plans = dict(source or {}), tuple(plans)
    ours = next((key for key in found if key.startswith(PREFIX)), None)
    if ours is not None:
        raise ValueError(f"metadata has the key {ours!r}, need none with {PREFIX!r} (FIL-3: it tells of codes)")
    if any(entry.scheme and entry.info.name == "version" for entry in plans):
        raise ValueError("a tensor to quantize is named 'version', need another name (FIL-3: the layout's own entry)")
    if any(entry.scheme for entry in plans):
        found[PREFIX + "version"] = VERSION
    for entry in plans:
        found.update(entry.metadata())
    return found


def predicted_bytes(plans: Iterable[Plan], source: Mapping[str, str] | None = None) -> int:
    """Exact bytes of the file that `jaxquant quantize` would write (FIL-4)."""
    plans = tuple(plans)
    return predicted_size([part for entry in plans for part in entry.stored()], file_metadata(plans, source))


def entries(header: Header) -> list[str]:
    """The name of each quantized tensor of a file; empty for a file of floats.

    Raises:
      UnreadableFile: another version of the layout.
    """
    if (version := header.metadata.get(PREFIX + "version", VERSION)) != VERSION:
        raise UnreadableFile(f"{header.path} has version {version!r}, need {VERSION!r} (FIL-3)")
    names = (key.removeprefix(PREFIX) for key in header.metadata if key.startswith(PREFIX))
    return [name for name in names if name != "version"]


def stored_plans(header: Header) -> tuple[Plan, ...]:
    """What was made of each tensor of the source of a file; of a file of floats: copied, each.

    Raises:
      UnreadableFile: metadata that does not fit the tensors.
    """
    made = []
    for name in entries(header):
        spec, shape, dtype, stacked = read_entry(header, name)
        check_stored(header, name, spec, shape)
        one = plan_of(TensorInfo(name, dtype, shape, 0, tensor_bytes(name, dtype, shape)), spec)
        made.append(replace(one, stacked=stacked))
    parts = {part.name for one in made for part in one.stored()}
    copied = (info for info in header.tensors if info.name not in parts)
    return *made, *(Plan(t, classify(t.name, t.shape, t.dtype), None, "not quantized") for t in copied)


def read_entry(header: Header, name: str) -> tuple[QuantSpec, tuple[int, ...], str, int]:
    """The (spec, shape, source dtype, axes that count layers) of a quantized tensor from its metadata entry.

    Raises:
      UnreadableFile: the entry is not what `Plan.metadata` writes.
    """
    text = header.metadata[PREFIX + name]
    try:
        entry = json.loads(text)
        channel = entry["channel_axis"]
        channel = tuple(channel) if isinstance(channel, list) else channel
        numbers = [*entry["shape"], *(channel if isinstance(channel, tuple) else (channel,)), entry["group_axis"]]
        if not all(type(n) is int for n in numbers) or min(entry["shape"], default=0) < 0:
            raise ValueError("shape and axes must be whole numbers")
        shape = tuple(entry["shape"])
        scheme = parse_tensor(entry["scheme"])
        spec = scheme.spec(channel_axis=channel, group_axis=entry["group_axis"])
        spec.granularity.scale_shape(shape)
        tensor_bytes(name, entry["dtype"], shape)
        return spec, shape, entry["dtype"], told_axes(entry.get("stacked", 0), spec, shape)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UnreadableFile(
            f"{header.path}: metadata of {name!r} is {text[:80]!r}, need scheme, shape, dtype and axes ({error})"
        ) from None
