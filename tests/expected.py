"""
What the accounts of ../shared/data and tests/data must decode to, by values that this project did not compute.

Their `decoded` is from Anchor's own coder; here it is brought into the forms of docs/protocol.md: u256 as a decimal
string, padding left out, the base fee block as its mode's fields.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

PUBLIC = Path(__file__).parent / "data" / "public.jsonl.gz"
MAINNET = Path(__file__).parents[2] / "shared" / "data" / "mainnet.jsonl"

MODES = [
    "FeeTimeSchedulerLinear",
    "FeeTimeSchedulerExponential",
    "RateLimiter",
    "FeeMarketCapSchedulerLinear",
    "FeeMarketCapSchedulerExponential",
]
U256 = {
    "fee_a_per_liquidity",
    "fee_b_per_liquidity",
    "fee_a_per_token_checkpoint",
    "fee_b_per_token_checkpoint",
    "reward_per_token_stored",
    "reward_per_token_checkpoint",
}


def records(path: Path) -> list[dict[str, Any]]:
    """Return the states of accounts that are open, in order."""
    lines = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [record for record in map(json.loads, lines.splitlines()) if not record.get("closed")]


def without_padding(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if not re.match(r"^_*padding_?\d*$", key)}


def contract_form(value: Any, key: str = "") -> Any:
    """Turn Anchor's decoded values into the contract's: u256 in decimal, padding left out."""
    if isinstance(value, dict):
        return {name: contract_form(inner, name) for name, inner in without_padding(value).items()}
    if isinstance(value, list):
        return [contract_form(inner, key) for inner in value]
    return str(int.from_bytes(bytes.fromhex(value), "little")) if key in U256 else value


def expected(record: dict[str, Any]) -> dict[str, Any]:
    """Return the `data_json` that a record must decode to."""
    fields: dict[str, Any] = contract_form(record["decoded"])
    if "base_fee" in record:
        own = without_padding(record["base_fee"]["fields"])
        mode = own.pop("base_fee_mode")
        fields["pool_fees"]["base_fee"] = {"mode": MODES[mode], "base_fee_mode": mode, **own}
    return fields
