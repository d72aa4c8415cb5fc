"""What accounts may become: closed, reopened, another program's, cut short, of no known kind, very large."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from tests.faults.fault import fault
from tests.faults.stack import Stack
from tests.faults.traffic import VERSIONS

from account_socket.model import SYSTEM_PROGRAM

MAX_ACCOUNT_BYTES = 10 * 1024 * 1024


@fault("an account is closed")
async def closed(stack: Stack) -> AsyncGenerator[None, None]:
    """And stays so, unless something is written by chance."""
    stack.traffic.write(stack.traffic.closed(stack.traffic.some()))
    yield


@fault("accounts are closed while nobody hears")
async def closed_while_away(stack: Stack) -> AsyncGenerator[None, None]:
    """The server is cut off, then accounts are closed, one of them opened again."""
    traffic = stack.traffic
    stack.node.refuse()
    stack.node.drop_connections()
    gone = stack.random.sample(traffic.pubkeys, 3)
    traffic.write(*map(traffic.closed, gone))
    traffic.write(traffic.state(gone[0]))
    yield
    stack.node.refuse(False)


@fault("an account is closed and reopened in one slot")
async def reopened(stack: Stack) -> AsyncGenerator[None, None]:
    """Open is what it is at the slot's end."""
    traffic = stack.traffic
    pubkey = traffic.some()
    traffic.write(traffic.closed(pubkey), traffic.state(pubkey))
    yield


@fault("an account is opened and closed in one slot")
async def opened_and_closed(stack: Stack) -> AsyncGenerator[None, None]:
    """Closed is what it is at the slot's end."""
    traffic = stack.traffic
    pubkey = traffic.some()
    traffic.write(traffic.state(pubkey), traffic.closed(pubkey))
    yield


@fault("an account changes hands")
async def owner_changed(stack: Stack) -> AsyncGenerator[None, None]:
    """It belongs to another program for a while."""
    traffic = stack.traffic
    pubkey = traffic.some()
    traffic.write(traffic.state(pubkey, owner=SYSTEM_PROGRAM))
    yield
    if stack.random.random() < 0.5:
        traffic.write(traffic.state(pubkey))


@fault("an account is cut short")
async def truncated(stack: Stack) -> AsyncGenerator[None, None]:
    """Shorter than its layout, down to nothing."""
    traffic = stack.traffic
    pubkey = traffic.some()
    data = stack.random.choice(VERSIONS[pubkey])
    for size in (len(data) - 1, 9, 1):
        traffic.write(traffic.state(pubkey, data=data[:size]))
    yield


@fault("an account of no known kind")
async def unknown(stack: Stack) -> AsyncGenerator[None, None]:
    """Its discriminator is nobody's."""
    traffic = stack.traffic
    traffic.write(traffic.state(traffic.some(), data=stack.random.randbytes(300)))
    yield


@fault("a very large account", rare=True)
async def huge(stack: Stack) -> AsyncGenerator[None, None]:
    """As large as Solana allows."""
    traffic = stack.traffic
    traffic.write(traffic.state(traffic.some(), data=stack.random.randbytes(1 << 16) * (MAX_ACCOUNT_BYTES >> 16)))
    yield
