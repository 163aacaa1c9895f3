#!/usr/bin/env python3
"""The paper's client or server, written from the paper and from what its programs put on the wire.

    paper_peer.py client HOST PORT own_private.pem peer_public.pem [DELAY]   stdin's lines are sent
    paper_peer.py server HOST PORT own_private.pem peer_public.pem [DELAY]   the texts go to stdout

It shares no code with securechat and keeps the programs' faults, for they are what must be lived with: one recv(4096) is
one message, there is no framing, padding is left out where the length is a multiple of 16 and always taken off.
The server serves one client; with port 0 it takes a free one. It says "listening PORT" on stderr.
Exit: 0 after secure-close, 1 for anything else. Needs python3-cryptography.
"""

import base64
import hashlib
import os
import secrets
import socket
import sys
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK, SEALED = 128, 256
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=222)


class Refused(Exception):
    pass


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def rsa_cbc_encrypt(public, message):
    n = BLOCK - len(message) % BLOCK
    message += bytes([n]) * n
    first = iv = os.urandom(BLOCK)
    out = b""
    for i in range(0, len(message), BLOCK):
        block = public.encrypt(xor(message[i : i + BLOCK], iv), OAEP)
        out += block
        iv = block[:BLOCK]
    return out + first


def rsa_cbc_decrypt(private, sealed):
    sealed, iv = sealed[:-BLOCK], sealed[-BLOCK:]
    out = b""
    for i in range(0, len(sealed), SEALED):
        block = sealed[i : i + SEALED]
        out += xor(private.decrypt(block, OAEP), iv)
        iv = block[:BLOCK]
    return out[: -out[-1]]


def seal(private, public, message):
    return rsa_cbc_encrypt(public, private.sign(message, PSS, hashes.SHA256()) + message)


def unseal(private, public, sealed):
    try:
        opened = rsa_cbc_decrypt(private, sealed)
        public.verify(opened[:256], opened[256:], PSS, hashes.SHA256())
    except (ValueError, IndexError, InvalidSignature):
        raise Refused("possible man-in-the-middle attack: a message does not verify")
    return opened[256:]


def digits(number, width):
    return format(number, "0%db" % width).encode()


def expect(what, got, want):
    if got != want:
        raise Refused("possible man-in-the-middle attack: wrong " + what)


def client_handshake(s, me, peer, delay):
    serial_a = digits(secrets.randbits(32), 32)
    s.send(seal(me, peer, digits(1, 8) + serial_a))
    time.sleep(delay)
    m = unseal(me, peer, s.recv(4096))
    expect("seq_id", m[:8], digits(2, 8))
    expect("serial", m[8:40], serial_a)
    s.send(seal(me, peer, digits(3, 8) + m[40:]))
    time.sleep(delay)
    return unseal(me, peer, base64.b64decode(s.recv(4096)))


def server_handshake(s, me, peer, delay):
    m = unseal(me, peer, s.recv(4096))
    expect("seq_id", m[:8], digits(1, 8))
    serial_b = digits(secrets.randbits(32), 32)
    s.send(seal(me, peer, digits(2, 8) + m[8:] + serial_b))
    time.sleep(delay)
    m = unseal(me, peer, s.recv(4096))
    expect("seq_id", m[:8], digits(3, 8))
    expect("serial", m[8:], serial_b)
    key = os.urandom(32)
    s.send(base64.b64encode(seal(me, peer, key)))
    return key


def send_text(s, key, text):
    message = text.encode()
    packet = hashlib.sha512(key).hexdigest().encode() + digits(len(message), 32) + message
    if len(packet) % 16 != 0:
        n = 16 - len(packet) % 16
        packet += bytes([n]) * n
    e = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    s.send(e.update(packet) + e.finalize())


def recv_text(s, key):
    data = s.recv(4096)
    if not data:
        raise Refused("the client left without secure-close")
    d = Cipher(algorithms.AES(key), modes.ECB()).decryptor()
    packet = d.update(data) + d.finalize()
    packet = packet[: -packet[-1]]
    expect("digest", packet[:128], hashlib.sha512(key).hexdigest().encode())
    return packet[160:].decode()


def main(role, host, port, own, peer, delay="1"):
    with open(own, "rb") as f:
        me = serialization.load_pem_private_key(f.read(), None)
    with open(peer, "rb") as f:
        peer = serialization.load_pem_public_key(f.read())
    if role == "client":
        s = socket.create_connection((host, int(port)))
        key = client_handshake(s, me, peer, float(delay))
        for line in sys.stdin:
            line = line.rstrip("\n")
            if not line:
                break
            send_text(s, key, line)
        send_text(s, key, "secure-close")
        s.close()
        return
    listener = socket.create_server((host, int(port)))
    print("listening", listener.getsockname()[1], file=sys.stderr, flush=True)
    s, _ = listener.accept()
    key = server_handshake(s, me, peer, float(delay))
    while True:
        text = recv_text(s, key)
        if text == "secure-close":
            return
        print(text, flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Refused, OSError, ValueError) as e:
        sys.exit("paper_peer: %s" % e)
