"""`account-socket`, and `python -m account_socket`: the command line, or what to install for it."""

from __future__ import annotations

import sys

PACKAGE = "account_socket"


def main() -> None:
    """Run the command line; exit 1 where only the client is installed, and say what brings the rest."""
    try:
        from account_socket.cli import main as run  # noqa: PLC0415  (it may not be there)

        run()
    except ModuleNotFoundError as error:
        if (error.name or PACKAGE).partition(".")[0] == PACKAGE:
            raise  # a fault of ours
        sys.exit(
            f"account-socket: {error.name} is not installed; only the Python client is.\n"
            "For the server and its commands: pip install '.[server]' where its source is."
        )


if __name__ == "__main__":
    main()
