"""What each value of each field of a convention means, in a few words.  DATA (specs/25, specs/50)."""

Words = dict[str, dict[str, str]]

BINARY = {"f32": "binary32", "f64": "binary64", "f16": "binary16"}
NEAREST = {
    "even": "nearest, midway to even",
    "away": "nearest, midway away from zero",
    "up": "nearest, midway toward +inf",
    "down": "nearest, midway toward -inf",
}

AFFINE: Words = {
    "op": {
        "div": "divides by the scale",
        "inv": "multiplies by the reciprocal of the scale, rounded by itself",
        "given": "multiplies by its argument: the caller stores the reciprocal",
    },
    "prec": {key: f"that step in {word}" for key, word in BINARY.items()},
    "zero": {
        "int": "the zero point is added after rounding, as an integer",
        "add": "the zero point is added before rounding, with a rounding of its own",
        "fma": "the zero point is added before rounding, in one fused step",
        "bias": "a real offset is subtracted from x first",
    },
    "ties": NEAREST | {"trunc": "the fraction is dropped"},
    "overflow": {
        "sat": "clamped before any cast",
        "i32": "cast to int32 first: out of range becomes the smallest",
        "i64": "cast to int64 first: out of range becomes the smallest",
        "wrap32": "so is NaN, and the zero point is added to it with wrapping",
        "magic": "rounded by adding 1.5 * 2^23, the low bits taken",
    },
    "nan": {"qmin": "NaN gives the lowest code", "qmax": "NaN gives the highest", "zero": "NaN gives the zero point"},
}
CAST_WORDS: Words = {
    "overflow": {
        "saturate": "all that is too large gives the largest, inf too",
        "finite": "finite numbers saturate; inf stays inf, or NaN",
        "special": "all that is too large gives inf, or NaN",
    },
    "ties": {"own": "nearest, midway as the format says"} | NEAREST | {"zero": "nearest, midway toward zero"},
    "nan": {
        "canonical": "NaN gives the format's positive NaN",
        "signed": "NaN keeps its sign",
        "zero": "NaN gives +0",
        "max": "NaN gives the largest value",
    },
    "zero": {"keep": "-0 stays where there is one", "positive": "-0 becomes +0"},
}
RESCALE_WORDS: Words = {
    "multiplier": {
        "f32": "a binary32 multiplier",
        "f64": "a binary64 multiplier",
        "q31": "31 fraction bits and a power of two",
        "q15": "15 fraction bits and a power of two",
        "q8": "8 fraction bits, no power",
    },
    "steps": {"single": "rounded once", "double": "rounded twice: the product's high half, then the shift"},
    "ties": {key: NEAREST[key] for key in ("even", "away", "up")},
    "overflow": {key: AFFINE["overflow"][key] for key in ("sat", "i32")},
}
DEQUANT: Words = {
    "form": {
        "sub_mul": "(code - zero point) * scale",
        "mul_add": "code * scale, then an offset is added",
        "fma": "code * scale + offset in one fused step",
    },
    "prec": {key: f"those steps in {word}" for key, word in BINARY.items()},
    "out": {key: f"the result is {key}" for key in ("float32", "float16", "bfloat16")},
}
