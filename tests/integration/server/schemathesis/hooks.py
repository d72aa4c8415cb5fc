"""What a schema cannot say, for schemathesis: which keys there are, and which parameters do not go together."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from account_socket.devnode import shipped_recording

KNOWN = sorted({write.account.pubkey for write in shipped_recording().writes})
ANY = st.binary(min_size=32, max_size=32).map(lambda raw: str(Pubkey(raw)))

schemathesis.openapi.format("solana-pubkey", st.sampled_from(KNOWN) | ANY)


@schemathesis.hook
def filter_case(_: Any, case: schemathesis.Case) -> bool:
    """Leave out what is refused for what stands beside it."""
    names = set(case.query or ())
    together = {"slot", "derived"} <= names
    return not together and not ("account_type" in names and any(name.startswith("where") for name in names))
