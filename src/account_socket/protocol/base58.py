"""Base58 of short byte strings, as Bitcoin's alphabet has it. Quadratic: for at most a few hundred bytes."""

from __future__ import annotations

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {character: digit for digit, character in enumerate(_ALPHABET)}


def encode(data: bytes) -> str:
    """Return `data` in base58; a leading zero byte becomes a leading "1"."""
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def decode(text: str) -> bytes:
    """Return the bytes that `text` stands for. Raises ValueError: a character that is no base58 digit."""
    number = 0
    for index, character in enumerate(text):
        if character not in _DIGITS:
            raise ValueError(f"{character!r} at {index} is not a base58 digit")
        number = number * 58 + _DIGITS[character]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def is_base58(text: str) -> bool:
    """Say whether `text` has only base58 digits."""
    return all(character in _DIGITS for character in text)
