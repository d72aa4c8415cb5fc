import os

# gRPC's newer I/O engine hands each message from thread to thread: 35 µs a message in Python, the older one takes 22.
# gRPC reads this once, when it is first imported; this package is imported before.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")
