"""
Time of an account from bytes to JSON bytes, against `json.dumps` of the same object, alternating in one process.

Three kinds of input, because parts of an account that did not change are kept as JSON:
  recorded    recorded states as they follow each other
  new amounts recorded states, each integer of 64 bits and more that is not zero drawn anew
  all new     every byte drawn anew, public keys too: nothing kept is ever found again
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import Figure

from account_socket.decode import layout as layouts
from account_socket.programs import load_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from figures import Options

    from account_socket.decode.decoder import ProgramDecoder
    from account_socket.decode.layout import Layout

RECORDED = Path(__file__).parents[1] / "tests" / "data" / "public.jsonl.gz"
INPUTS = 5_000
"""More than a memo keeps, so that inputs drawn anew are never found in it."""
ROUNDS = 7
WIDE = {f"{sign}{bits}" for sign in "ui" for bits in (64, 128, 256)}
TAG_VALUES = 5
TARGETS = {("Pool", "recorded"): 0.5, ("Pool", "new amounts"): 0.5}


def measure(options: Options) -> Iterator[Figure]:
    states = recorded_states(RECORDED)
    (decoder,) = load_programs().programs.values()
    chance = random.Random(1)
    for name, layout in decoder.layouts.items():
        recorded = states[name]
        inputs = {
            "recorded": recorded,
            "new amounts": [new_amounts(chance.choice(recorded), layout, chance) for _ in range(INPUTS)],
            "all new": [all_new(chance.choice(recorded), layout, chance) for _ in range(INPUTS)],
        }
        for kind, items in inputs.items():
            dumps, decode = compare(decoder, items, max(1, round(ROUNDS * options.scale)))
            ratios = [ours / theirs for ours, theirs in zip(decode, dumps, strict=True)]
            case = f"{name} ({layout.size:,} bytes), {kind}"
            yield Figure(f"{case}: decode", "µs", decode)
            yield Figure(f"{case}: ratio to json.dumps", "", ratios, TARGETS.get((name, kind)))


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


def compare(decoder: ProgramDecoder, items: Sequence[bytes], rounds: int) -> tuple[list[float], list[float]]:
    """Return each round's µs an item: json.dumps, decode."""
    objects = [json.loads(decoder.decode(item).data_json) for item in items]
    dumps, decode = [], []
    for _ in range(rounds):
        dumps.append(per_item(json.dumps, objects))
        if len(items) == INPUTS:
            layouts._pubkeys.clear()
        decode.append(per_item(decoder.decode, items))
    return dumps, decode


def per_item(call: Callable[[Any], object], items: Sequence[Any]) -> float:
    repeat = max(1, INPUTS // len(items))
    start = time.perf_counter()
    for _ in range(repeat):
        for item in items:
            call(item)
    return (time.perf_counter() - start) * 1e6 / (repeat * len(items))
