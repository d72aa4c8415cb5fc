"""
What the accounts of ../shared/data and tests/data must decode to, by values that this project did not compute.

Their `decoded` is from Anchor's own coder; here it is brought into the forms of docs/protocol.md: u256 as a decimal
string, padding left out, the base fee block as its mode's fields.
"""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PUBLIC = Path(__file__).parent / "data" / "public.jsonl.gz"
MAINNET = Path(__file__).parents[2] / "shared" / "data" / "mainnet.jsonl"
