//! Orders to the controller: more servers, or one fewer. Repeated with back-off until acknowledged; without a
//! controller the balancer just works on.

use super::*;
use crate::scale::Decision;
use crate::wire::{Frame, Header, Kind, RequestOp, Status};

/// The first repetition comes after this time, each later one after twice as long.
const REPEAT_AFTER: Duration = Duration::from_millis(50);
/// The longest pause between repetitions.
const REPEAT_MAX: Duration = Duration::from_secs(2);
/// After so many repetitions the silence is told, once.
const TELL_AFTER: u8 = 6;

#[derive(Clone, Copy, Debug)]
struct Order {
    op: RequestOp,
    target: u32,
    number: u64,
    load: f64,
    up: u32,
    attempt: u8,
    due: Instant,
}

/// The order that waits for its acknowledgement; a newer one replaces it.
#[derive(Debug)]
pub(super) struct Orders {
    instance: u64,
    next_number: u64,
    /// The controller's nonce, once it has given one.
    cookie: u64,
    open: Option<Order>,
    silent: bool,
}

impl Orders {
    pub(super) fn new(instance: u64, seed: u64) -> Self {
        // Numbers start anywhere, so that a restarted balancer does not repeat those of the last one.
        Orders { instance, next_number: seed >> 1, cookie: 0, open: None, silent: false }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.open.map(|order| order.due)
    }

    /// Opens an order; false if the same one is open already, and goes on being repeated.
    fn place(&mut self, now: Instant, op: RequestOp, target: u32, load: f64, up: u32) -> bool {
        if self.open.is_some_and(|open| (open.op, open.target) == (op, target)) {
            return false;
        }
        self.next_number += 1;
        let number = self.next_number;
        self.open = Some(Order { op, target, number, load, up, attempt: 0, due: now });
        true
    }

    /// A server that has left needs no order to stop it.
    pub(super) fn server_left(&mut self, id: u32) {
        if self.open.is_some_and(|order| order.op == RequestOp::Shrink && order.target == id) {
            self.open = None;
        }
    }
}

impl Balancer {
    /// Lets the scaler see the pool, and orders what it decides.
    pub(super) fn scale(&mut self, now: Instant, sample: scale::Sample) {
        match self.scaler.observe(now, sample) {
            Decision::Hold => {}
            Decision::Grow { target, load } => {
                if self.orders.place(now, RequestOp::Grow, target, load, sample.up) {
                    let what = format!("grow to {target}");
                    self.tell(Event::Scale { what, load, up: sample.up });
                }
            }
            Decision::Shrink { load } => {
                let victims = self.fleet.iter().filter(|(_, s)| s.managed && s.health.state() == State::Up);
                let Some(id) = victims.map(|(_, s)| s.id).max() else { return };
                if self.orders.place(now, RequestOp::Shrink, id, load, sample.up) {
                    let what = format!("shrink: stop server {id}");
                    self.tell(Event::Scale { what, load, up: sample.up });
                }
            }
        }
    }

    /// Sends the open order if it is due.
    pub(super) fn send_order(&mut self, now: Instant, tx: &mut Tx) {
        let Some(order) = self.orders.open.filter(|order| order.due <= now) else { return };
        let size = self.settings.format.size;
        let mut header = Header::new(Kind::ControllerRequest, size);
        header.op = order.op as u8;
        header.attempt = order.attempt.saturating_add(1);
        header.client_id.set(self.orders.instance);
        header.sequence.set(order.number);
        header.balancer_epoch.set(self.epoch);
        header.cookie.set(self.orders.cookie);
        header.report.set(order.target);
        header.seq.set((order.load * 1000.0) as u32);
        header.received.set(order.up);
        let destination = tx.destination(BACK, self.settings.controller, None);
        if let Some(bytes) = destination.and_then(|d| tx.stage(d, size)) {
            Frame::write(bytes, &header, &[]);
            self.seal(bytes);
        }
        let pause = REPEAT_AFTER * (1 << u32::from(order.attempt.min(10)));
        let attempt = order.attempt.saturating_add(1);
        self.orders.open = Some(Order { attempt, due: now + pause.min(REPEAT_MAX), ..order });
        if attempt == TELL_AFTER && !self.orders.silent {
            self.orders.silent = true;
            let to = self.settings.controller;
            self.tell(Event::Controller(format!(
                "no answer from the controller at {to}: working on without"
            )));
        }
    }

    /// The controller acknowledges, or wants its nonce echoed.
    pub(super) fn on_answer(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), DropReason> {
        let header = frame.header;
        let op = RequestOp::from_wire(header.op).ok_or(DropReason::Kind)?;
        let status = Status::from_wire(header.status).ok_or(DropReason::Kind)?;
        let open = self.orders.open.as_mut().ok_or(DropReason::NotOpen)?;
        let ours = header.client_id.get() == self.orders.instance && header.sequence.get() == open.number;
        if !ours {
            return Err(DropReason::NotOpen);
        }
        match op {
            RequestOp::Challenge => {
                self.orders.cookie = header.cookie.get();
                open.due = now;
                Ok(())
            }
            RequestOp::Ack => {
                let order = *open;
                self.orders.open = None;
                self.orders.silent = false;
                self.on_ack(order, status);
                Ok(())
            }
            RequestOp::Sync | RequestOp::Grow | RequestOp::Shrink => Err(DropReason::Unexpected),
        }
    }

    fn on_ack(&mut self, order: Order, status: Status) {
        if order.op == RequestOp::Shrink && status == Status::Unknown {
            // Started by somebody else: not the controller's to stop, so not ours to ask for again.
            for slot in 0..self.fleet.slot_count() {
                if let Some(server) = self.fleet.get_mut(Slot::new(slot)).filter(|s| s.id == order.target) {
                    server.managed = false;
                }
            }
        }
        if status != Status::Ok {
            let target = order.target;
            self.tell(Event::Controller(format!("refused {:?} {target}: {status:?}", order.op)));
        }
    }
}
