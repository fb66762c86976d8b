"""Free ports of this machine for servers that cannot choose one themselves."""

import random
import socket


def free_port() -> int:
    """A port that nobody has now, and that the system gives to nobody who asks for any."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
