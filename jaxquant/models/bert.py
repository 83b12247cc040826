"""BERT sentence encoder in Flax NNX, opened from a folder with config.json and model.safetensors.

Post-layer-norm encoder (Devlin et al., 2018, arXiv:1810.04805): embeddings, then per layer attention and a
feed-forward net, each followed by residual add and layer norm.  The embedding of a text is the mean over its tokens,
L2-normalized (Reimers and Gurevych, 2019, arXiv:1908.10084).  All of it is float glue, class bounded.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxquant.models import bert_layout
from jaxquant.models.bert_layout import BertConfig
from refquant.files import Header, read_header, read_tensor

_ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


class Attention(nnx.Module):
    """Multi-head self-attention: four dense layers and a softmax over the unmasked tokens."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        """Layers of the sizes in `config`; weights come from `open_folder` or from training."""
        self.heads, self.head_size = config.num_attention_heads, config.head_size
        self.query, self.key, self.value, self.output = (
            nnx.Linear(config.hidden_size, config.hidden_size, rngs=rngs) for _ in range(4)
        )

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """float32 [B, T, hidden] from x float32 [B, T, hidden] and mask bool [B, T] (True = a real token)."""
        split = (*x.shape[:2], self.heads, self.head_size)
        query, key, value = (layer(x).reshape(split) for layer in (self.query, self.key, self.value))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query * self.head_size**-0.5, key)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)
        return self.output(mixed.reshape(x.shape))


class Layer(nnx.Module):
    """One encoder layer, layer norm after each residual add."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        """Layers of the sizes in `config`."""
        self.activation = config.hidden_act
        self.attention = Attention(config, rngs=rngs)
        self.attention_norm = _norm(config, rngs)
        self.intermediate = nnx.Linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.output = nnx.Linear(config.intermediate_size, config.hidden_size, rngs=rngs)
        self.output_norm = _norm(config, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """float32 [B, T, hidden] from x float32 [B, T, hidden] and mask bool [B, T]."""
        x = self.attention_norm(x + self.attention(x, mask))
        inner = _ACTIVATIONS[self.activation](self.intermediate(x))
        return self.output_norm(x + self.output(inner))


class Bert(nnx.Module):
    """Encoder of texts: token ids → one unit vector a text."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        """Embeddings and layers of the sizes in `config`."""
        hidden = config.hidden_size
        self.word_embeddings = nnx.Embed(config.vocab_size, hidden, rngs=rngs)
        self.position_embeddings = nnx.Embed(config.max_position_embeddings, hidden, rngs=rngs)
        self.token_type_embeddings = nnx.Embed(config.type_vocab_size, hidden, rngs=rngs)
        self.embeddings_norm = _norm(config, rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_hidden_layers)])

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Mean-pooled, L2-normalized embeddings.

        Args:
          ids: int32 [B, T], token ids; T at most max_position_embeddings.  All tokens are of type 0.
          mask: int32 or bool [B, T], nonzero where a token is real.

        Returns:
          float32 [B, hidden], unit vectors; zeros for a row without any real token.

        Raises:
          ValueError: the shapes differ, are not [B, T], or T is longer than the model's positions.
        """
        self._check(ids, mask)
        real = mask != 0
        positions = jnp.arange(ids.shape[1], dtype=jnp.int32)
        x = self.word_embeddings(ids) + self.position_embeddings(positions)[None]
        x = self.embeddings_norm(x + self.token_type_embeddings(jnp.zeros((1, 1), jnp.int32)))
        for layer in self.layers:
            x = layer(x, real)
        return _unit(jnp.einsum("bth,bt->bh", x, real.astype(x.dtype)))

    def _check(self, ids: jax.Array, mask: jax.Array) -> None:
        longest = self.position_embeddings.num_embeddings
        if ids.ndim != 2 or mask.shape != ids.shape:
            raise ValueError(f"Bert: ids is {ids.shape} and mask {mask.shape}, need the same [batch, tokens] twice")
        if ids.shape[1] > longest:
            raise ValueError(f"Bert: ids is {ids.shape}, need at most {longest} tokens (max_position_embeddings)")


def _norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm in two passes: the one-pass variance cancels where a few features dominate, as they do in BERT."""
    return nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs)


def _unit(total: jax.Array) -> jax.Array:
    """Rows of unit length.  The sum over tokens serves as well as their mean: the count cancels in the length."""
    squares = jnp.einsum("bh,bh->b", total, total)
    return total * lax.rsqrt(jnp.maximum(squares, 1e-24))[:, None]


def open_folder(folder: str | Path) -> tuple[Bert, BertConfig]:
    """The encoder in a folder with config.json (model_type bert) and model.safetensors.

    Weights of 16 bits are widened to float32.  The files are only read.

    Returns:
      the model with its weights, and its config (`bert_layout.tensor_map(config)` names each weight in the file).

    Raises:
      FileNotFoundError: a file is absent.
      ValueError: another model_type, an unsupported setting, no safetensors file, or tensors that are missing or of
        another shape or dtype; all are listed.
    """
    config = bert_layout.read_config(Path(folder))
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"open_folder: {folder} holds no model.safetensors, need config.json and its weights")
    header = read_header(path)
    config = replace(config, prefix=bert_layout.find_prefix(header.by_name))
    bert_layout.check_tensors(header.by_name, config, path)
    return _filled(header, config), config


def _filled(header: Header, config: BertConfig) -> Bert:
    """The model with the tensors in their slots; built abstractly, so that no random weights are drawn first."""
    model = nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0)))
    slots = bert_layout.tensor_map(config).items()
    params = {slot.path: nnx.Param(_value(header, name, slot)) for name, slot in slots}
    nnx.update(model, nnx.from_flat_state(params))
    return model


def _value(header: Header, name: str, slot: bert_layout.Slot) -> jax.Array:
    """One parameter: float32, [in, out] where the file has [out, in]."""
    value = read_tensor(header, name)
    if header.by_name[name].dtype == "BF16":  # codes: the upper half of a float32
        value = (value.astype(np.uint32) << 16).view(np.float32)
    return jnp.asarray(np.ascontiguousarray(value.T if slot.transposed else value, np.float32))
