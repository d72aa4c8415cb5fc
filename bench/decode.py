"""
Time of an account from bytes to JSON bytes, against `json.dumps` of the same object, alternating in one process.

Three kinds of input, because parts of an account that did not change are kept as JSON:
  recorded    recorded states as they follow each other
  new amounts recorded states, each integer of 64 bits and more that is not zero drawn anew
  all new     every byte drawn anew, public keys too: nothing kept is ever found again

Run: python bench/decode.py [--data FILE]
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from account_socket.decode import layout as layouts
from account_socket.programs import load_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from account_socket.decode.decoder import ProgramDecoder
    from account_socket.decode.layout import Layout

RECORDED = Path(__file__).parents[1] / "tests" / "data" / "public.jsonl.gz"
INPUTS = 5_000
"""More than a memo keeps, so that inputs drawn anew are never found in it."""
ROUNDS = 7
WIDE = {f"{sign}{bits}" for sign in "ui" for bits in (64, 128, 256)}
TAG_VALUES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=RECORDED, help="JSON lines (gzip) with account_type and data")
    states = recorded_states(parser.parse_args().data)
    (decoder,) = load_programs().programs.values()
    chance = random.Random(1)
    print(f"{'account type':17} {'input':12} {'bytes':>6} {'json.dumps µs':>14} {'decode µs':>10} {'ratio':>6}")
    for name, layout in decoder.layouts.items():
        recorded = states[name]
        inputs = {
            "recorded": recorded,
            "new amounts": [new_amounts(chance.choice(recorded), layout, chance) for _ in range(INPUTS)],
            "all new": [all_new(chance.choice(recorded), layout, chance) for _ in range(INPUTS)],
        }
        for kind, items in inputs.items():
            dumps, decode = compare(decoder, items)
            print(f"{name:17} {kind:12} {layout.size:6} {dumps:14.2f} {decode:10.2f} {decode / dumps:6.2f}")


def recorded_states(path: Path) -> dict[str, list[bytes]]:
    states = defaultdict(list)
    with gzip.open(path) as lines:
        for line in lines:
            record = json.loads(line)
            if not record["closed"]:
                states[record["account_type"]].append(base64.b64decode(record["data"]))
    return states


def new_amounts(data: bytes, layout: Layout, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for place in layout.places:
        end = place.offset + place.size
        if place.type in WIDE and not place.is_padding and any(data[place.offset : end]):
            width = place.size * 3 // 4
            changed[place.offset : place.offset + width] = chance.randbytes(width)
    return bytes(changed)


def all_new(data: bytes, layout: Layout, chance: random.Random) -> bytes:
    changed = bytearray(data[: len(layout.discriminator)] + chance.randbytes(layout.size - len(layout.discriminator)))
    for place in layout.places:
        if place.type == "BaseFeeInfo":
            changed[place.offset + 8] = chance.randrange(TAG_VALUES)
    return bytes(changed)


def compare(decoder: ProgramDecoder, items: Sequence[bytes]) -> tuple[float, float]:
    """Return the best round of each, µs an item: json.dumps, decode."""
    objects = [json.loads(decoder.decode(item).data_json) for item in items]
    best = [float("inf")] * 2
    for _ in range(ROUNDS):
        best[0] = min(best[0], per_item(json.dumps, objects))
        if len(items) == INPUTS:
            layouts._pubkeys.clear()
        best[1] = min(best[1], per_item(decoder.decode, items))
    return best[0], best[1]


def per_item(call: Callable[[Any], object], items: Sequence[Any]) -> float:
    repeat = max(1, INPUTS // len(items))
    start = time.perf_counter()
    for _ in range(repeat):
        for item in items:
            call(item)
    return (time.perf_counter() - start) * 1e6 / (repeat * len(items))


if __name__ == "__main__":
    main()
