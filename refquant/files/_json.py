"""JSON objects from untrusted bytes: strict where `json` is lenient, and only ValueError comes out."""

import json
from typing import Any

from refquant.files._dtypes import short


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object that `data` holds.

    Args:
      data: UTF-8 text.
      what: its name in error messages ("header").

    Raises:
      ValueError: not UTF-8, not JSON, not an object, a key twice, nested too deeply, or a number that is
        not finite or has more than 20 digits.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_constant
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is not JSON ({error})") from None
    except RecursionError:
        raise ValueError(f"{what} is not usable JSON (nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"{what} is not usable JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} is a JSON {type(value).__name__}, need an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {short(key)} stands twice")
        _encodable(key)
        result[key] = value
    return result


def _encodable(text: str) -> None:
    """Half a surrogate pair passes json.loads, and then fails wherever the text is printed or written."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"key {short(text)} is not Unicode text") from None


def _integer(text: str) -> int:
    if len(text) > 20:  # more than 64 bits; also keeps conversion linear
        raise ValueError(f"number {text[:20]}... has {len(text)} characters, need at most 20")
    return int(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
