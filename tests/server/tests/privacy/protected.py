"""Tokens and sealed values as docs/formats.md describes them, written without looking at the other implementation: AES, POLYVAL and
GCM-SIV (RFC 8452) from their standards, HMAC and HKDF from the standard library.

Reads JSON from standard input: {"key": line of the key file, "tenant", "wrapped": hexadecimal, "values": [texts and numbers],
"sealed": [[event_id, path, text]]}. Prints {"id", "users": [tokens], "properties": [[tokens of the epochs from 1 on]], "opened": [JSON texts]}.
"""
import base64
import decimal
import hashlib
import hmac
import json
import struct
import sys
import uuid


def multiply(a, b):
    """In the field of AES."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def substitution():
    table = []
    for byte in range(256):
        inverse = next((c for c in range(256) if multiply(byte, c) == 1), 0)
        table.append(0x63)
        for shift in range(5):
            table[byte] ^= (inverse << shift | inverse >> (8 - shift)) & 0xFF
    return table


SBOX = substitution()


def schedule(key):
    words = [key[place:place + 4] for place in range(0, len(key), 4)]
    per_key, constant = len(words), 1
    for place in range(per_key, 4 * (per_key + 7)):
        word = words[-1]
        if place % per_key == 0:
            word = bytes(SBOX[b] for b in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = multiply(constant, 2)
        elif per_key > 6 and place % per_key == 4:
            word = bytes(SBOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(word, words[-per_key])))
    return [b"".join(words[place:place + 4]) for place in range(0, len(words), 4)]


def encrypt_block(keys, block):
    state = bytes(a ^ b for a, b in zip(block, keys[0]))
    for number, key in enumerate(keys[1:], 1):
        state = bytes(SBOX[state[(place + 4 * (place % 4)) % 16]] for place in range(16))
        if number < len(keys) - 1:
            mixed = []
            for column in range(0, 16, 4):
                a, b, c, d = state[column:column + 4]
                mixed += [multiply(a, 2) ^ multiply(b, 3) ^ c ^ d, a ^ multiply(b, 2) ^ multiply(c, 3) ^ d,
                          a ^ b ^ multiply(c, 2) ^ multiply(d, 3), multiply(a, 3) ^ b ^ c ^ multiply(d, 2)]
            state = bytes(mixed)
        state = bytes(a ^ b for a, b in zip(state, key))
    return state


MODULUS = 1 << 128 | 1 << 127 | 1 << 126 | 1 << 121 | 1
INVERSE = 1 << 127 | 1 << 124 | 1 << 121 | 1 << 114 | 1  # of x^128


def field(a, b):
    product = 0
    for place in range(128):
        if b >> place & 1:
            product ^= a << place
    for place in range(254, 127, -1):
        if product >> place & 1:
            product ^= MODULUS << (place - 128)
    return product


def polyval(key, blocks):
    key, total = int.from_bytes(key, "little"), 0
    for place in range(0, len(blocks), 16):
        total = field(field(total ^ int.from_bytes(blocks[place:place + 16], "little"), key), INVERSE)
    return total.to_bytes(16, "little")


def padded(data):
    return data + bytes(-len(data) % 16)


def open_siv(key, nonce, sealed, bound_to):
    """AES-256-GCM-SIV."""
    keys = schedule(key)
    derived = b"".join(encrypt_block(keys, struct.pack("<I", n) + nonce)[:8] for n in range(6))
    authentication, keys = derived[:16], schedule(derived[16:])
    body, tag = sealed[:-16], sealed[-16:]
    counter = tag[:15] + bytes([tag[15] | 0x80])
    stream = b""
    for number in range((len(body) + 15) // 16):
        first = (int.from_bytes(counter[:4], "little") + number) % 2**32
        stream += encrypt_block(keys, struct.pack("<I", first) + counter[4:])
    plain = bytes(a ^ b for a, b in zip(body, stream))
    lengths = struct.pack("<QQ", 8 * len(bound_to), 8 * len(plain))
    total = polyval(authentication, padded(bound_to) + padded(plain) + lengths)
    total = bytes(a ^ b for a, b in zip(total[:12], nonce)) + total[12:]
    if encrypt_block(keys, total[:15] + bytes([total[15] & 0x7F])) != tag:
        raise ValueError("the tag differs")
    return plain


def hkdf(secret, purpose):
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, purpose.encode() + b"\x01", hashlib.sha256).digest()


def joined(*parts):
    parts = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def text(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def untext(data):
    return base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))


def token(epoch, digest):
    return f"tok.{epoch}.{text(digest)}"


def message(value):
    """A byte for the kind in front; of a number, nothing behind its last digit."""
    if isinstance(value, str):
        return b"s" + value.encode()
    return b"n" + format(decimal.Decimal(repr(value)).normalize(), "f").encode()


def main():
    asked = json.load(sys.stdin)
    line, tenant = bytes.fromhex(asked["key"]), asked["tenant"]
    wrapping, wrapped, secrets = hkdf(line, "pg_tally key-encrypting key v1"), bytes.fromhex(asked["wrapped"]), []
    for epoch in range(len(wrapped) // 61):
        one = wrapped[61 * epoch:61 * epoch + 61]
        assert one[0] == 1
        secrets.append(open_siv(wrapping, one[1:13], one[13:], joined("pg_tally wrap v1", tenant, struct.pack(">I", epoch))))
    keys = [hkdf(secret, "pg_tally token v1") for secret in secrets]
    sign = lambda epoch, message: hmac.new(keys[epoch], message, hashlib.sha256).digest()
    properties = []
    for value in asked["values"]:
        digest, tokens = message(value), []
        for epoch in range(1, len(keys)):
            digest = sign(epoch, digest)
            tokens.append(token(epoch, digest))
        properties.append(tokens)
    opened = []
    for event_id, path, sealed in asked["sealed"]:
        _, epoch, body = sealed.split(".")
        body, number = untext(body), struct.pack(">I", int(epoch))
        place = joined("pg_tally seal v1", tenant, number, uuid.UUID(event_id).bytes, path)
        opened.append(open_siv(hkdf(secrets[int(epoch)], "pg_tally seal v1"), body[:12], body[12:], place).decode())
    users = [token(0, sign(0, message(value))) for value in asked["values"]]
    json.dump({"id": hkdf(line, "pg_tally key id v1")[:8].hex(), "users": users, "properties": properties, "opened": opened}, sys.stdout)


main()
