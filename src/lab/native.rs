//! A native pool: its real balancer and its real server.

use std::net::SocketAddr;
use std::time::Duration;

use super::addresses::Endpoint;
use super::contender::PolicyUnderTest;
use super::links::DATAGRAM;
use super::machine::ServerEnd;
use super::setup::{FORMAT, Setup, WAITING_MAX};
use super::world::{Meaning, NewEnd, PoolModel};
use crate::base::batch::SocketId;
use crate::base::time::Instant;
use crate::pool::autoscale;
use crate::pool::health::Rules;
use crate::pool::select::Slot;
use crate::role::native::{self, BACK, FRONT, NativeRole};
use crate::role::server::{self, JobId, ServerRole, Work};
use crate::wire::header::HEADER_LEN;
use crate::wire::{Frame, Header, Kind, Mode, ServerOp, Status};

/// Queue capacity of all servers together, in requests.
const PLACES: usize = 1 << 22;

pub(super) struct NativeModel;

impl PoolModel for NativeModel {
    type Balancer = NativeRole;
    type End = ServerRole;

    const FRONT: SocketId = FRONT;

    fn balancer(
        setup: &Setup,
        contender: PolicyUnderTest,
        number: u32,
        seed: u64,
        now: Instant,
    ) -> NativeRole {
        let never = Duration::from_secs(86_400);
        let settings = native::NativePoolSettings {
            format: FORMAT,
            key: None,
            secret: [seed as u8; 16],
            workers: 1,
            policy: contender.policy,
            reply_path: setup.reply_path,
            servers_max: setup.servers_of_one(),
            max_outstanding: contender.max_outstanding,
            waiting_max: WAITING_MAX,
            interval: setup.staleness,
            controller: None,
            // A constant number of servers, regardless of the load.
            scale: autoscale::Policy {
                threshold: f64::MAX,
                grow_after: never,
                shrink_after: never,
                grow_cool_down: never,
                shrink_cool_down: never,
                grow_max: None,
                shrink_max: 1,
                min: setup.servers as u32,
                max: setup.servers as u32,
            },
            health: Rules::default(),
            own: [FRONT, BACK].map(|socket| SocketAddr::from(Endpoint::Balancer(number, socket))).to_vec(),
            seed,
        };
        NativeRole::workers(settings, now).pop().expect("one worker")
    }

    fn end(setup: &Setup, new: NewEnd, now: Instant) -> ServerRole {
        let NewEnd { balancer, server, weight, seed } = new;
        let ends = setup.servers_of_one() * setup.balancers;
        let settings = server::ServerSettings {
            format: FORMAT,
            key: None,
            id: server as u32,
            weight,
            queue_capacity: (PLACES / ends).clamp(256, 16_384),
            interval: setup.staleness,
            balancer: Endpoint::Balancer(balancer, BACK).into(),
            work: Work::Handlers,
            seed,
        };
        let mut role = ServerRole::new(settings, now);
        if !setup.reports_turns {
            role.report_at_intervals_only();
        }
        role
    }

    fn take_servers(_: &mut NativeRole, _: Instant, _: &[(SocketAddr, u16)]) {
        // Native servers register themselves.
    }

    fn is_ready(balancer: &NativeRole, servers: usize) -> bool {
        (0..servers).all(|slot| balancer.tree().is_eligible(Slot::new(slot)))
    }

    fn write_request(request: usize, bytes: &mut [u8; DATAGRAM]) -> usize {
        let mut header = Header::new(Kind::ClientRequest, FORMAT.size);
        header.mode = Mode::Idempotent as u8;
        header.attempt = 1;
        header.client_id.set(1);
        header.sequence.set(request as u64 + 1);
        Frame::write(bytes, &header, &(request as u64).to_le_bytes());
        FORMAT.size
    }

    fn meaning(bytes: &[u8]) -> Meaning {
        let (header, rest) = <Header as zerocopy::FromBytes>::ref_from_prefix(bytes).expect("a whole frame");
        let is_reply = match Kind::from_wire(header.kind) {
            Some(Kind::ClientRequest) => false,
            Some(Kind::ClientResponse) => true,
            Some(Kind::ServerResponse) if header.op == ServerOp::Reply as u8 => true,
            _ => return Meaning::Other,
        };
        // A refusal has no payload, so the sequence number identifies the request.
        let request = match rest.first_chunk::<8>() {
            Some(payload) if header.payload_len.get() > 0 => u64::from_le_bytes(*payload),
            _ => header.sequence.get() - 1,
        } as usize;
        match is_reply {
            false => Meaning::Request(request),
            true => Meaning::Reply { request, is_ok: header.status == Status::Ok as u8 },
        }
    }

    fn believed(balancer: &NativeRole, _: usize, bytes: &[u8]) -> u32 {
        let (header, _) = <Header as zerocopy::FromBytes>::ref_from_prefix(bytes).expect("a whole frame");
        balancer.tree().len(Slot::new(usize::from(header.slot.get())))
    }
}

impl ServerEnd for ServerRole {
    type Job = JobId;

    fn held(&self) -> usize {
        self.queue_len()
    }

    fn set_elsewhere(&mut self, requests: u32) {
        ServerRole::set_elsewhere(self, requests);
    }

    fn take(&mut self, now: Instant) -> Option<(JobId, usize)> {
        let job = self.take_job(now)?;
        let payload = self.payload(job).first_chunk().expect("every simulated request has its number");
        Some((job, u64::from_le_bytes(*payload) as usize))
    }

    fn finish(&mut self, job: JobId, took: Duration) {
        let payload: [u8; 8] =
            *self.payload(job).first_chunk().expect("the payload is unchanged since it was taken");
        ServerRole::finish(self, job, Status::Ok, &payload, took);
    }
}

// The number of a request fits behind the header.
const _: () = assert!(DATAGRAM - HEADER_LEN >= 8);
