"""`python -m account_socket` is `account-socket`."""

from account_socket.cli import main

if __name__ == "__main__":
    main()
