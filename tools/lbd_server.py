#!/usr/bin/env python3
"""A server of lbd: joins a pool, echoes requests in order of arrival, reports, and drains on SIGTERM or Ctrl-C.

It uses frames without a tag, so a pool with a key_file does not accept it. Exit code 0 after a drain.
"""

import argparse
import collections
import dataclasses
import os
import random
import signal
import socket
import sys
import time

import lbd_frame as lbd
from lbd_client import address, frame_size

SEEK_AFTER, SEEK_MAX = 0.02, 0.5
IDLE_INTERVALS = 10
DRAIN_UNHEARD, DRAIN_MAX = 1.0, 30.0
U32 = 0xFFFFFFFF


@dataclasses.dataclass
class Lane:
    """The traffic of one of the balancer's workers. All counters are modulo 2^32."""

    addr: tuple
    seq: int
    received: int = 0
    done: int = 0
    report: int = 0
    drained: bool = False
    reported: tuple = ()
    owes_report: bool = False  # whether a SYNC has called for a report
    reported_at: float = 0.0

    def counters(self) -> tuple:
        return self.seq, self.received, self.done

    def raise_seq(self, to: int) -> None:
        if (to - self.seq) & U32 < 1 << 31:
            self.seq = to


@dataclasses.dataclass
class Job:
    header: lbd.Header
    payload: bytes
    peer: tuple
    arrived: float
    epoch: int | None  # the registration that counts the request; None: an earlier one


class Server:
    def __init__(self, args: argparse.Namespace):
        self.args, self.size = args, args.frame_size
        family = socket.AF_INET6 if ":" in args.balancer[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((args.bind or args.balancer[0], args.port))
        self.instance = int.from_bytes(os.urandom(8), "little") | 1
        self.state = lbd.READY
        self.queue: collections.deque[Job] = collections.deque()
        self.free_at = 0.0  # the end of the request in service, if there is one
        self.received = self.served = 0
        self.last_echo = 0.0
        self.last_request = time.monotonic()
        self.seek(time.monotonic())

    # -- registration and reports -------------------------------------------------------------

    def seek(self, now: float) -> None:
        """Starts a new registration: new epoch, new nonces, no counters."""
        self.epoch = int.from_bytes(os.urandom(4), "little") or 1
        self.nonce = int.from_bytes(os.urandom(8), "little") | 1
        self.report_nonce = int.from_bytes(os.urandom(8), "little") | 1
        self.member: tuple[int, int] | None = None  # balancer epoch, slot
        self.lanes: dict[int, Lane] = {}
        self.report_soon = False  # whether direct replies, which carry no counters, were sent
        self.attempts, self.quiet, self.next_at = 0, 0, now
        self.echo = 0  # the cookie of a challenge, until it is echoed

    def send(self, header: lbd.Header, payload: bytes, to: tuple) -> None:
        self.socket.sendto(lbd.encode(header, payload, self.size), to)

    def register(self, cookie: int) -> None:
        header = lbd.Header(
            kind=lbd.SERVER_RESPONSE,
            op=lbd.REGISTER,
            client_id=self.instance,
            sequence=self.nonce,
            server_epoch=self.epoch,
            cookie=cookie,
            server_state=self.state,
        )
        interval_us = int(self.args.interval_ms * 1000)
        self.send(header, lbd.registration(self.args.id, self.args.queue, interval_us, 1), self.args.balancer)

    def fill_report(self, header: lbd.Header, worker: int) -> None:
        lane = self.lanes[worker]
        lane.report = (lane.report + 1) & U32
        header.report, header.seq, header.received, header.done = lane.report, *lane.counters()
        lane.reported = lane.counters()
        header.queue = len(self.queue)
        header.foreign = sum(job.epoch != self.epoch for job in self.queue)
        header.service_us = int(self.args.service_ms * 1000)
        header.server_state = self.state

    def report(self) -> None:
        self.quiet = 0
        for worker in self.lanes:
            self.report_to(worker)

    def report_changed(self) -> None:
        for worker, lane in self.lanes.items():
            if lane.reported != lane.counters():
                self.report_to(worker)

    def report_owed(self, now: float) -> None:
        """What SYNCs call for, to each worker at most once in an interval."""
        for worker, lane in self.lanes.items():
            if lane.owes_report and now >= lane.reported_at + self.pause():
                self.report_to(worker)

    def pause(self) -> float:
        """The least time between two frames that frames of the balancer call for."""
        return min(self.args.interval_ms / 1000, SEEK_AFTER)

    def report_to(self, worker: int) -> None:
        self.lanes[worker].owes_report, self.lanes[worker].reported_at = False, time.monotonic()
        header = lbd.Header(
            kind=lbd.SERVER_RESPONSE,
            op=lbd.REPORT,
            client_id=self.instance,
            sequence=self.report_nonce,
            worker=worker,
            server_epoch=self.epoch,
            balancer_epoch=self.member[0],
            slot=self.member[1],
        )
        self.fill_report(header, worker)
        self.send(header, b"", self.lanes[worker].addr)

    def on_challenge(self, header: lbd.Header, peer: tuple, now: float) -> None:
        if peer != self.args.balancer or header.sequence != (self.report_nonce if self.member else self.nonce):
            return
        if self.member:  # the balancer has restarted and lost this registration
            self.seek(now)
        self.echo, self.next_at = header.cookie, max(now, self.last_echo + self.pause())

    def on_sync(self, header: lbd.Header, peer: tuple) -> None:
        if (header.sequence, header.server_epoch) != (self.nonce, self.epoch):
            return
        if self.member is None and peer != self.args.balancer:
            return
        self.member = self.member or (header.balancer_epoch, header.slot)
        if self.member != (header.balancer_epoch, header.slot):
            return
        lane = self.lanes.setdefault(header.worker, Lane(addr=peer, seq=header.dispatch_seq))
        if lane.addr != peer:
            return
        lane.raise_seq(header.dispatch_seq)
        lane.drained = header.server_state == lbd.DRAINING
        lane.owes_report |= not lane.drained  # a draining SYNC is an answer itself

    # -- requests -----------------------------------------------------------------------------

    def on_request(self, header: lbd.Header, payload: bytes, peer: tuple, now: float) -> None:
        lane = self.lanes.get(header.worker)
        if lane is None or lane.addr != peer:
            return
        self.last_request = now
        self.received += 1
        current = (header.balancer_epoch, header.server_epoch) == (self.member[0], self.epoch)
        if current:
            lane.received = (lane.received + 1) & U32
            lane.raise_seq(header.dispatch_seq)
        job = Job(header, payload, peer, now, self.epoch if current else None)
        if len(self.queue) >= self.args.queue:
            self.reply(job, lbd.BUSY)
        else:
            self.queue.append(job)
            if len(self.queue) == 1:
                self.free_at = now + self.args.service_ms / 1000

    def reply(self, job: Job, status: int) -> None:
        header = dataclasses.replace(job.header, kind=lbd.SERVER_RESPONSE, op=lbd.REPLY, status=status)
        if status == lbd.BUSY:
            header.deadline_us = int(min(1e6, max(1e3, self.args.service_ms * 1000 * len(self.queue))))
        if job.epoch == self.epoch:
            self.lanes[header.worker].done = (self.lanes[header.worker].done + 1) & U32
        if job.header.op == lbd.DIRECT:
            # To the client, without the internal fields. The counters follow at the end of the turn.
            inside = dict(client_ip=bytes(16), client_port=0, listener=0, worker=0, balancer_epoch=0, server_epoch=0, slot=0)
            inside |= dict(incomplete=0, dispatch_seq=0, dispatch_us=0, cookie=0)
            answer = dataclasses.replace(header, kind=lbd.CLIENT_RESPONSE, op=0, **inside)
            self.report_soon = True
            if job.header.client_port:
                self.send(answer, b"" if status == lbd.EXPIRED else job.payload, lbd.client_address(job.header))
            return
        if header.worker in self.lanes:
            self.fill_report(header, header.worker)
        self.send(header, b"" if status == lbd.EXPIRED else job.payload, job.peer)

    def serve(self, now: float) -> None:
        while self.queue and self.free_at <= now:
            job = self.queue.popleft()
            waited_us = (self.free_at - job.arrived) * 1e6 - self.args.service_ms * 1000
            expired = 0 < job.header.deadline_us < waited_us
            self.served += not expired
            self.reply(job, lbd.EXPIRED if expired else lbd.OK)
            self.free_at += self.args.service_ms / 1000

    # -- time ---------------------------------------------------------------------------------

    def drain(self, now: float) -> None:
        if self.state == lbd.READY:
            self.state, self.drain_since, self.next_at = lbd.DRAINING, now, now

    def is_drained(self, now: float) -> bool:
        told = all(lane.drained for lane in self.lanes.values())
        quiet = now - self.last_request >= self.args.interval_ms / 1000
        waited = now - self.drain_since
        return not self.queue and ((told and quiet) or waited >= DRAIN_UNHEARD) or waited >= DRAIN_MAX

    def upkeep(self, now: float) -> None:
        self.report_owed(now)
        if self.state == lbd.DRAINING and self.is_drained(now):
            self.state = lbd.STOPPED
            self.report()
        elif now >= self.next_at and self.member is None:
            self.register(self.echo)
            self.next_at = now + min(SEEK_AFTER * 2**self.attempts, SEEK_MAX) * (0.5 + random.random() / 2)
            if self.echo:
                self.echo, self.last_echo = 0, now
            else:
                self.attempts = min(self.attempts + 1, 6)
        elif now >= self.next_at:
            self.next_at = now + self.args.interval_ms / 1000
            self.quiet += 1
            changed = any(lane.reported != lane.counters() for lane in self.lanes.values())
            untold = self.state == lbd.DRAINING and not all(lane.drained for lane in self.lanes.values())
            if changed or untold or self.quiet >= IDLE_INTERVALS:
                self.report()

    def turn(self) -> None:
        due = min(self.next_at, self.free_at if self.queue else self.next_at)
        self.socket.settimeout(max(0.0005, due - time.monotonic()))
        try:
            datagram, peer = self.socket.recvfrom(65535)
        except OSError:  # the timeout, or an ICMP error of an earlier datagram
            datagram, peer = b"", ("", 0)
        now, peer = time.monotonic(), peer[:2]
        for header, payload in lbd.frames(datagram, self.size):
            if header.kind == lbd.CLIENT_REQUEST:
                self.on_request(header, payload, peer, now)
            elif (header.kind, header.op) == (lbd.CONTROLLER_REQUEST, lbd.CHALLENGE):
                self.on_challenge(header, peer, now)
            elif (header.kind, header.op) == (lbd.CONTROLLER_REQUEST, lbd.SYNC):
                self.on_sync(header, peer)
        self.serve(now)
        if self.report_soon:
            self.report_soon = False
            self.report_changed()
        self.upkeep(now)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--balancer", type=address, default=("127.0.0.1", 54000), metavar="ADDR", help="address of the balancer's server side (default 127.0.0.1:54000)")
    parser.add_argument("--port", type=int, default=0, metavar="P", help="port to listen on (default: any)")
    parser.add_argument("--bind", metavar="IP", help="address to listen on (default: the balancer's)")
    parser.add_argument("--id", type=int, required=True, metavar="N", help="id of this server, unique in the pool")
    parser.add_argument("--service-ms", type=float, default=0.0, metavar="MS", help="service time of a request in milliseconds (default 0: none)")
    parser.add_argument("--queue", type=int, default=4096, metavar="N", help="requests at this server at most; more are refused with BUSY (default 4096)")
    parser.add_argument("--interval-ms", type=float, default=10.0, metavar="MS", help="report interval in milliseconds, while counters change (default 10)")
    parser.add_argument("--frame-size", type=frame_size, default=256, metavar="BYTES", help="as load_balancer.frame_size (default 256)")
    args = parser.parse_args()
    try:
        server = Server(args)
    except (OSError, OverflowError) as error:
        parser.error(f"--port {args.port}: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.drain(time.monotonic()))
    while server.state != lbd.STOPPED:
        server.turn()
    print(f"server {args.id}: {server.received} received, {server.served} served")
    return 0


if __name__ == "__main__":
    sys.exit(main())
