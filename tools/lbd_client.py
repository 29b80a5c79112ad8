#!/usr/bin/env python3
"""A client of lbd: sends requests one after another, retries unanswered ones, and prints a summary.

Exit codes: 0 all requests were answered; 1 some were not; 2 a mistake in the arguments.
"""

import argparse
import os
import random
import socket
import sys
import time

import lbd_frame as lbd


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address like 127.0.0.1:54001")
    return host.strip("[]"), int(port)


def frame_size(text: str) -> int:
    if not text.isdigit() or not lbd.FRAME_SIZE_MIN <= int(text) <= lbd.FRAME_SIZE_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not from {lbd.FRAME_SIZE_MIN} to {lbd.FRAME_SIZE_MAX}")
    return int(text)


class Client:
    def __init__(self, to: tuple[str, int], size: int, timeout: float, deadline: float):
        family = socket.getaddrinfo(*to, type=socket.SOCK_DGRAM)[0][0]
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.to, self.size, self.timeout, self.deadline = to, size, timeout, deadline
        self.client_id = int.from_bytes(os.urandom(8), "little") | 1
        self.sequence = self.retried = 0

    def call(self, payload: bytes) -> bytes | None:
        """Returns the answer, or None if there is none before the deadline or the request is refused permanently."""
        self.sequence += 1
        end = time.monotonic() + self.deadline
        attempt = 0
        while (now := time.monotonic()) < end:
            attempt = min(attempt + 1, 255)
            self.retried += attempt > 1
            request = lbd.Header(
                kind=lbd.CLIENT_REQUEST,
                mode=lbd.IDEMPOTENT,
                attempt=attempt,
                deadline_us=max(1, int((end - now) * 1e6)),
                client_id=self.client_id,
                sequence=self.sequence,
            )
            self.socket.sendto(lbd.encode(request, payload, self.size), self.to)
            wait = min(end, now + self.timeout * 2 ** min(attempt - 1, 5))
            answer = self.receive(wait)
            if answer is None:
                continue
            header, payload_back = answer
            if header.status == lbd.OK:
                return payload_back
            if header.status != lbd.BUSY:
                return None
            # BUSY: retry after the time in the response plus a random part of that time.
            pause = header.deadline_us / 1e6 * (1 + random.random())
            time.sleep(max(0.0, min(pause, end - time.monotonic())))
        return None

    def receive(self, until: float) -> tuple[lbd.Header, bytes] | None:
        """Returns the answer to the open request, and ignores late and forged frames. None at the end of the time."""
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                datagram = self.socket.recv(65535)
            except OSError:  # the timeout, or an ICMP error of an earlier request
                continue
            for header, payload in lbd.frames(datagram, self.size):
                mine = (header.kind, header.client_id, header.sequence)
                if mine == (lbd.CLIENT_RESPONSE, self.client_id, self.sequence):
                    return header, payload
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=address, default=("127.0.0.1", 54001), metavar="ADDR", help="address of the balancer's client side (default 127.0.0.1:54001)")
    parser.add_argument("--requests", type=int, default=1, metavar="N", help="number of requests (default 1)")
    parser.add_argument("--payload", default="hello", help="text to send (default hello)")
    parser.add_argument("--timeout", type=float, default=0.1, metavar="S", help="seconds until the first retry (default 0.1)")
    parser.add_argument("--deadline", type=float, default=2.0, metavar="S", help="seconds until a request is given up (default 2)")
    parser.add_argument("--frame-size", type=frame_size, default=256, metavar="BYTES", help="as load_balancer.frame_size (default 256)")
    args = parser.parse_args()
    payload = args.payload.encode()
    room = args.frame_size - lbd.HEADER_LEN
    if len(payload) > room:
        parser.error(f"--payload has {len(payload)} bytes, a frame carries {room}")
    client = Client(args.to, args.frame_size, args.timeout, args.deadline)
    answered = sum(client.call(payload) is not None for _ in range(args.requests))
    print(f"{args.requests} sent, {answered} answered, {client.retried} retried, {args.requests - answered} lost")
    return 0 if answered == args.requests else 1


if __name__ == "__main__":
    sys.exit(main())
