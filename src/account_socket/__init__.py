"""Live, decoded Solana account state over WebSocket."""

__version__ = "0.1.0"
