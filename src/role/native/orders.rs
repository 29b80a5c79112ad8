//! Scaling requests to the controller: more servers, or one fewer. They are repeated with back-off until they
//! are acknowledged. Without a response of the controller the pool keeps its servers.

use super::open_orders::{REPEAT_AFTER, REPEAT_MAX, REPORT_AFTER, ScalingRequest};
use super::primary::{NativePrimary, NativeServer};
use super::{BACK, NativeRole};
use crate::base::batch::Tx;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::autoscale::{self, Decision};
use crate::pool::event::Event;
use crate::pool::health::State;
use crate::wire::{Frame, Header, Kind, RequestOp, Status};

impl NativeRole {
    /// Lets the autoscaler decide and opens a scaling request. Without a controller the pool is not scaled.
    pub(super) fn scale(&mut self, now: Instant, sample: autoscale::Sample) {
        if self.settings.controller.is_none() {
            return;
        }
        let Some(primary) = &mut self.primary else { return };
        let decision = primary.scaler.observe(now, sample);
        if let Ok(mut outlook) = self.stats.scaling.try_lock() {
            *outlook = Some(primary.scaler.outlook()); // if a reader holds the lock, the next tick writes
        }
        let (load, up) = match decision {
            Decision::Hold => return,
            Decision::Grow { load, .. } | Decision::Shrink { load, .. } => (load, sample.up),
        };
        let is_new = match decision {
            Decision::Grow { target, .. } => {
                primary.orders.victims.clear();
                primary.orders.place(now, RequestOp::Grow, target, load, up)
            }
            Decision::Shrink { target, .. } => primary.shrink(now, up.saturating_sub(target), load, up),
            Decision::Hold => false,
        };
        if is_new {
            let what = primary.scaler.outlook().why.to_string();
            primary.pool.report(Event::Scale { what, load, up });
        }
    }

    /// Sends the open scaling request if it is due.
    pub(super) fn send_order(&mut self, now: Instant, tx: &mut Tx) {
        let Some(primary) = &mut self.primary else { return };
        let orders = &mut primary.orders;
        let Some(order) = orders.open.filter(|order| order.due <= now) else { return };
        let (size, Some(to)) = (self.format.size, self.settings.controller) else { return };
        let mut header = Header::new(Kind::ControllerRequest, size);
        header.op = order.op as u8;
        header.attempt = order.attempt.saturating_add(1);
        header.client_id.set(orders.instance);
        header.sequence.set(order.number);
        header.balancer_epoch.set(self.shared.epoch);
        header.cookie.set(orders.cookie);
        header.report.set(order.target);
        header.seq.set((order.load * 1000.0) as u32);
        header.received.set(order.up);
        let pause = REPEAT_AFTER * (1 << u32::from(order.attempt.min(10)));
        let attempt = order.attempt.saturating_add(1);
        orders.open = Some(ScalingRequest { attempt, due: now + pause.min(REPEAT_MAX), ..order });
        if attempt == REPORT_AFTER && !std::mem::replace(&mut orders.silent, true) {
            primary.pool.report(Event::Controller(format!(
                "no response from the controller at {to}; the pool is not scaled"
            )));
        }
        let destination = tx.destination(BACK, to, None);
        if let Some(bytes) = destination.and_then(|d| tx.stage(d, size)) {
            Frame::write(bytes, &header, &[]);
            self.seal(bytes);
        }
    }

    /// Handles an acknowledgement of the controller, or a challenge whose nonce must be echoed.
    pub(super) fn on_answer(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), DropReason> {
        let Some(primary) = &mut self.primary else { return Err(DropReason::Unexpected) };
        let header = &frame.header;
        let op = RequestOp::from_wire(header.op).ok_or(DropReason::Kind)?;
        let status = Status::from_wire(header.status).ok_or(DropReason::Kind)?;
        let orders = &mut primary.orders;
        let open = orders.open.as_mut().ok_or(DropReason::NotOpen)?;
        let ours = header.client_id.get() == orders.instance && header.sequence.get() == open.number;
        if !ours {
            return Err(DropReason::NotOpen);
        }
        match op {
            RequestOp::Challenge => {
                orders.cookie = header.cookie.get();
                // Once. A controller that challenges each repetition gets the next one after its pause.
                if !std::mem::replace(&mut open.is_challenged, true) {
                    open.due = now;
                }
                Ok(())
            }
            RequestOp::Ack => {
                let order = *open;
                orders.open = None;
                orders.silent = false;
                primary.on_ack(now, order, status);
                Ok(())
            }
            RequestOp::Sync | RequestOp::Grow | RequestOp::Shrink => Err(DropReason::Unexpected),
        }
    }
}

impl NativePrimary {
    /// Requests that `count` servers stop, one after the other, the highest ids first. Returns false if no
    /// server can be stopped.
    fn shrink(&mut self, now: Instant, count: u32, load: f64, up: u32) -> bool {
        let may_stop = |s: &NativeServer| s.extra.is_managed && s.state() == State::Up;
        let mut ids: Vec<u32> =
            self.pool.registry().iter().filter(|(_, s)| may_stop(s)).map(|(_, s)| s.id).collect();
        ids.sort_unstable();
        self.orders.victims = ids.split_off(ids.len().saturating_sub(count as usize));
        self.stop_next(now, load, up)
    }

    fn stop_next(&mut self, now: Instant, load: f64, up: u32) -> bool {
        let orders = &mut self.orders;
        orders.victims.pop().is_some_and(|id| orders.place(now, RequestOp::Shrink, id, load, up))
    }

    fn on_ack(&mut self, now: Instant, order: ScalingRequest, status: Status) {
        if order.op == RequestOp::Shrink && status == Status::Unknown {
            // The controller did not start this server and cannot stop it: do not request it again.
            let registry = self.pool.registry_mut();
            if let Some(server) = registry.slot_of(order.target).and_then(|slot| registry.get_mut(slot)) {
                server.extra.is_managed = false;
            }
        }
        if status != Status::Ok {
            let target = order.target;
            self.pool.report(Event::Controller(format!("refused {:?} {target}: {status:?}", order.op)));
        }
        if order.op == RequestOp::Shrink {
            self.stop_next(now, order.load, order.up);
        }
    }
}
