"""
A Milvus server that this machine alone can reach: `milvus_worker.py FOLDER PORT_FILE`, until its input ends.

The server listens on every interface, whatever its configuration says. Therefore it runs in a network of its own, in
which there is nothing but a loopback (Linux, with user namespaces), and this process passes on what comes to a port of
127.0.0.1 outside. The port is written to PORT_FILE when the server is ready.
"""

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP
_SERVICES = ("proxy", "rootCoord", "queryCoord", "queryNode", "dataCoord", "dataNode", "indexCoord", "indexNode")


def raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))


def pass_on(source, target):
    try:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
    finally:
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def serve(listener, port):
    while True:
        outside, _ = listener.accept()
        inside = socket.create_connection(("127.0.0.1", port))
        for pair in ((outside, inside), (inside, outside)):
            threading.Thread(target=pass_on, args=pair, daemon=True).start()


def inner(folder, port_file, descriptor):
    """In the new network. A socket belongs to the network that it was made in, so that `listener` is outside."""
    import milvus

    raise_loopback()
    listener = socket.socket(fileno=descriptor)
    config = milvus.MilvusServerConfig(data_dir=str(folder))
    config.set("etcd_log_level", "error")
    config.set("proxy.timeTickInterval", 20)  # ms: how long a read waits for what was written before
    config.set("common.session.ttl", 3600)  # s: with 30, a machine that halts for longer loses the server
    for service in _SERVICES:
        config.set(f"{service}.ip", "127.0.0.1")  # there is no other address, which they would look for
    etcd = folder / "etcd.yaml"
    etcd.write_text("unsafe-no-fsync: true\n")  # nothing here outlives the tests, and a slow disk holds everything up
    os.environ["ETCD_CONFIG_PATH"] = str(etcd)
    server = milvus.MilvusServer(config)
    try:
        server.start()
        threading.Thread(target=serve, args=(listener, server.listen_port), daemon=True).start()
        port_file.with_suffix(".tmp").write_text(f"{listener.getsockname()[1]} {server.server_proc.pid}")
        port_file.with_suffix(".tmp").rename(port_file)
        sys.stdin.read()
    finally:
        server.stop()


def outer(folder, port_file):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, __file__, folder, port_file]
        sys.exit(subprocess.run([*command, str(descriptor)], pass_fds=[descriptor]).returncode)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        outer(*sys.argv[1:])
    else:
        inner(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
        os._exit(0)  # threads are still passing on
