"""The harness that plants mutants (benchmarks/trials.py, caches.py): between two trials nothing is remembered."""

from pathlib import Path

import numpy as np

from refquant import codec, encode
from refquant.formats import ALL


def test_forget_property_leaves_no_cache(monkeypatch):
    """What a function behind a cache or a cached property computed before it was changed must not outlive that."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import caches

    x = np.linspace(-1, 1, 7, dtype=np.float32)
    codes = encode(x, fmt=ALL["nf4"])
    assert {"ordered_codes", "threshold_keys"} <= set(vars(ALL["nf4"])) and codec.value_table(ALL["nf4"]).size
    caches.forget()
    assert not {"ordered_codes", "threshold_keys"} & set(vars(ALL["nf4"]))
    assert codec.value_table.cache_info().currsize == 0
    assert (encode(x, fmt=ALL["nf4"]) == codes).all()
