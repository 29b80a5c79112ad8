"""The frame of lbd, version 1, as docs/PROTOCOL.md specifies it, in Python. Standard library only.

`python3 tools/lbd_frame.py --check docs/PROTOCOL.md` checks this file against the vectors of that document.
"""

import dataclasses
import ipaddress
import re
import struct
import sys

MAGIC, VERSION = b"lb", 1
HEADER_LEN, TRAILER_LEN = 112, 32
FRAME_SIZE_MIN, FRAME_SIZE_MAX, DATAGRAM_MAX = 128, 1200, 1472

CLIENT_REQUEST, CLIENT_RESPONSE, CONTROLLER_REQUEST, SERVER_RESPONSE = 1, 2, 3, 4  # kind
OK, BUSY, EXPIRED, UNKNOWN, ERROR = range(5)  # status
IDEMPOTENT, ONE_SHOT, AT_MOST_ONCE = range(3)  # mode
SYNC, CHALLENGE, GROW, SHRINK, ACK = 1, 2, 3, 4, 5  # op of a ControllerRequest
REPLY, REPORT, REGISTER = 0, 1, 2  # op of a ServerResponse
DIRECT = 1  # op of a ClientRequest to which the server must reply directly
READY, DRAINING, STOPPED = 0, 1, 2  # server_state

HEADER = struct.Struct("<2sBBHHBBBBIQQ" "16sHBBIIHHIIQ" "IIIIIIIB3s")
assert HEADER.size == HEADER_LEN


@dataclasses.dataclass
class Header:
    """All fields of a header in the order of the wire, little-endian."""

    # 0..32, written by the client (status: by the responder)
    magic: bytes = MAGIC
    version: int = VERSION
    kind: int = 0
    frame_size: int = 0
    payload_len: int = 0
    status: int = 0
    mode: int = 0
    attempt: int = 0
    op: int = 0
    deadline_us: int = 0
    client_id: int = 0
    sequence: int = 0
    # 32..80, written by the balancer
    client_ip: bytes = bytes(16)
    client_port: int = 0
    listener: int = 0
    worker: int = 0
    balancer_epoch: int = 0
    server_epoch: int = 0
    slot: int = 0
    incomplete: int = 0
    dispatch_seq: int = 0
    dispatch_us: int = 0
    cookie: int = 0
    # 80..112, written by the server
    report: int = 0
    seq: int = 0
    received: int = 0
    done: int = 0
    queue: int = 0
    foreign: int = 0
    service_us: int = 0
    server_state: int = 0
    reserved: bytes = bytes(3)


def encode(header: Header, payload: bytes, frame_size: int) -> bytes:
    """Returns a frame with this header and payload; the rest of it is zero."""
    header = dataclasses.replace(header, frame_size=frame_size, payload_len=len(payload))
    return (HEADER.pack(*dataclasses.astuple(header)) + payload).ljust(frame_size, b"\0")


def decode(frame: bytes, frame_size: int) -> tuple[Header, bytes] | None:
    """Returns header and payload, or None if this is not a frame of that size."""
    if len(frame) != frame_size:
        return None
    header = Header(*HEADER.unpack_from(frame))
    valid = (
        header.magic == MAGIC
        and header.version == VERSION
        and CLIENT_REQUEST <= header.kind <= SERVER_RESPONSE
        and header.frame_size == frame_size
        and header.payload_len <= frame_size - HEADER_LEN
    )
    return (header, frame[HEADER_LEN : HEADER_LEN + header.payload_len]) if valid else None


def frames(datagram: bytes, frame_size: int) -> list[tuple[Header, bytes]]:
    """Returns the valid frames of a datagram; none if it is not a whole number of frames."""
    if not datagram or len(datagram) % frame_size:
        return []
    parts = (datagram[at : at + frame_size] for at in range(0, len(datagram), frame_size))
    return [found for found in (decode(part, frame_size) for part in parts) if found]


def client_address(header: Header) -> tuple[str, int]:
    """Returns the address of the client of a dispatched request."""
    ip = ipaddress.IPv6Address(header.client_ip)
    return str(ip.ipv4_mapped or ip), header.client_port


def registration(server_id: int, queue_capacity: int, report_interval_us: int, weight: int) -> bytes:
    """Returns the payload of a REGISTER."""
    return struct.pack("<IIIH2x", server_id, queue_capacity, report_interval_us, weight)


def siphash24(key: bytes, data: bytes, bits: int = 64) -> bytes:
    """SipHash-2-4 with 64 or 128 bits of output (Aumasson and Bernstein, 2012)."""
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    def output() -> bytes:
        return struct.pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])

    if bits == 128:
        v[1] ^= 0xEE
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE if bits == 128 else 0xFF
    rounds(4)
    first = output()
    if bits == 64:
        return first
    v[1] ^= 0xDD
    rounds(4)
    return first + output()


def seal(frame: bytes, key: bytes, epoch: int, counter: int) -> bytes:
    """Returns the frame with the trailer in its last 32 bytes."""
    covered = frame[:-TRAILER_LEN] + struct.pack("<QQ", epoch, counter)
    return covered + siphash24(key, covered, 128)


def cookie(frame: bytes, key: bytes) -> int:
    """Returns the value that the balancer writes at 72..80 of a request that it dispatches."""
    return int.from_bytes(siphash24(key, frame[16:72]), "little")


def vectors(text: str) -> dict[str, dict[str, str]]:
    """Returns the vectors of docs/PROTOCOL.md: blocks of `name = value` lines that begin with ```vector NAME."""
    found = {}
    for name, block in re.findall(r"```vector (\S+)\n(.*?)```", text, re.DOTALL):
        fields = {}
        for line in block.splitlines():
            key, _, value = line.partition("=")
            fields[key.strip()] = fields.get(key.strip(), "") + value.strip().replace(" ", "")
        found[name] = fields
    return found


def check(path: str) -> int:
    """Checks every vector of the file and returns their number."""
    with open(path, encoding="utf-8") as file:
        all_vectors = vectors(file.read())
    for name, fields in all_vectors.items():
        if name == "nonce":
            parts = [int(fields[f"nonce_{part}"], 0) for part in ("port", "instance", "span")]
            made = siphash24(bytes.fromhex(fields["nonce_key"]), bytes.fromhex(fields["nonce_ip"]) + struct.pack("<HQQ", *parts))
            assert int.from_bytes(made, "little") == int(fields["nonce"], 0), "nonce"
            continue
        frame, size = bytes.fromhex(fields["frame"]), int(fields["frame_size"])
        header = Header()
        for field in dataclasses.fields(Header):
            if field.name in fields and field.name not in ("magic", "reserved"):
                value = fields[field.name]
                setattr(header, field.name, bytes.fromhex(value) if field.type is bytes else int(value, 0))
        made = encode(header, bytes.fromhex(fields.get("payload", "")), size)
        if "tag_key" in fields:
            made = seal(made, bytes.fromhex(fields["tag_key"]), int(fields["tag_epoch"], 0), int(fields["tag_counter"], 0))
        assert made == frame, f"{name}: encoding gives {made.hex()}"
        decoded = decode(frame, size)
        assert decoded and decoded[1].hex() == fields.get("payload", ""), f"{name}: decoding gives {decoded}"
        if "cookie_key" in fields:
            assert cookie(frame, bytes.fromhex(fields["cookie_key"])) == header.cookie, f"{name}: cookie"
    return len(all_vectors)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "--check":
        sys.exit(__doc__)
    print(f"{check(sys.argv[2])} vectors hold")
