"""Run a script in this network namespace, which should be its own: `unshare --net --map-root-user python alone.py SCRIPT ARGS`.

Switches the loopback device on first, and at the end prints the bytes that it has sent, as a line "LOOPBACK n": every byte that
the script's processes sent each other, TCP's headers included.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import sys
from pathlib import Path

# linux/sockios.h, linux/if.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def switch_on_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def loopback_bytes() -> int:
    """Return the bytes sent over this network namespace's loopback device."""
    devices = Path("/proc/self/net/dev").read_text()
    return int(devices.partition(" lo:")[2].split()[8])


if __name__ == "__main__":
    switch_on_loopback()
    code = subprocess.run([sys.executable, *sys.argv[1:]], check=False).returncode
    print(f"LOOPBACK {loopback_bytes()}", flush=True)
    sys.exit(code)
