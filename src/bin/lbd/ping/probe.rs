//! One round trip: sends a request, recognises its response and measures the time between them.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lbd::Client;
use lbd::config::Config;
use lbd::io::socket::any_port_towards;
use lbd::role::client::Ending;
use lbd::wire::Mode;
use lbd::wire::dns;

/// Longest wait between two checks for a stop signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Maximum size of a response, in bytes.
const ANSWER_MAX: usize = 65_535;

/// The outcome of one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Trip {
    /// A response arrived.
    Back {
        /// Size of the response, in bytes.
        bytes: usize,
        /// Round-trip time.
        time: Duration,
        /// The refusal, such as `BUSY` or `SERVFAIL`; `None` for a normal response.
        trouble: Option<String>,
    },
    /// No response arrived in time.
    Lost,
    /// The network reported that no socket listens at the target.
    Unreachable(String),
}

/// The request to send.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeRequest {
    /// A frame with this payload.
    Native(Vec<u8>),
    /// A query for a name in wire format and a type.
    Dns { name: Vec<u8>, kind: u16 },
    /// A datagram; any datagram from the target is its response.
    Raw(Vec<u8>),
}

/// Sends one request at a time to one balancer.
pub struct Probe {
    target: SocketAddr,
    timeout: Duration,
    means: Means,
}

enum Means {
    Frames { client: Box<Client>, payload: Vec<u8>, size: usize },
    Datagrams { question: ProbeRequest, socket: UdpSocket, answer: Vec<u8> },
}

impl Probe {
    pub fn new(
        target: SocketAddr,
        question: ProbeRequest,
        timeout: Duration,
        config: &Config,
    ) -> Result<Probe> {
        let means = match question {
            ProbeRequest::Native(payload) => {
                let format = config.frame_format();
                if payload.len() > format.payload_max() {
                    bail!(
                        "--payload has {} bytes, but a frame carries at most {}; shorten it",
                        payload.len(),
                        format.payload_max()
                    );
                }
                let client = Client::builder()
                    .frame_size(format.size)
                    .keyed_deployment(format.tagged)
                    .timeout(timeout)
                    .deadline(timeout)
                    .retries(0)
                    .in_flight_max(4)
                    .connect(target)?;
                Means::Frames { client: Box::new(client), payload, size: format.size }
            }
            question => Means::Datagrams { question, socket: open(target)?, answer: vec![0; ANSWER_MAX] },
        };
        Ok(Probe { target, timeout, means })
    }

    /// Size of a request, in bytes.
    pub fn sent_bytes(&self) -> usize {
        match &self.means {
            Means::Frames { size, .. } => *size,
            Means::Datagrams { question, .. } => bytes(question, 0).len(),
        }
    }

    /// Sends a request and waits for its response; `None` if a stop signal arrives meanwhile.
    pub fn ask(&mut self, is_stopped: &impl Fn() -> bool) -> Result<Option<Trip>> {
        let (target, timeout) = (self.target, self.timeout);
        match &mut self.means {
            Means::Frames { client, payload, size } => {
                let sequence = client.submit(payload, Mode::OneShot)?;
                while !is_stopped() {
                    let Some(outcome) = client.poll(LOOK_EVERY)? else { continue };
                    if outcome.sequence != sequence {
                        continue;
                    }
                    let trouble = match outcome.ending {
                        Ending::Answered => None,
                        Ending::Busy => Some("BUSY".to_owned()),
                        Ending::Refused(status) => Some(format!("{status:?}").to_uppercase()),
                        Ending::Lost => return Ok(Some(Trip::Lost)),
                    };
                    return Ok(Some(Trip::Back { bytes: *size, time: outcome.latency, trouble }));
                }
                Ok(None)
            }
            Means::Datagrams { question, socket, answer } => {
                let trip = exchange(socket, question, answer, timeout, is_stopped)?;
                if !matches!(trip, Some(Trip::Back { .. })) {
                    // A late response must not count for the next request. A new socket sends it to a
                    // closed port.
                    *socket = open(target)?;
                }
                Ok(trip)
            }
        }
    }
}

fn open(target: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(any_port_towards(target)).context("cannot open a socket")?;
    socket.connect(target).with_context(|| format!("cannot reach {target}"))?;
    Ok(socket)
}

fn bytes(question: &ProbeRequest, id: u16) -> Vec<u8> {
    match question {
        ProbeRequest::Native(payload) | ProbeRequest::Raw(payload) => payload.clone(),
        ProbeRequest::Dns { name, kind } => {
            let mut message = vec![0; dns::QUERY_MAX];
            let len = dns::write_query(&mut message, id, name, *kind);
            message.truncate(len);
            message
        }
    }
}

/// The refusal in a response, if any; `Err` if the datagram is no response to this request.
fn judge(question: &ProbeRequest, sent: &[u8], answer: &[u8]) -> Result<Option<String>, ()> {
    if !matches!(question, ProbeRequest::Dns { .. }) {
        return Ok(None);
    }
    let (asked, told) = (dns::query(sent).map_err(drop)?, dns::response(answer).map_err(drop)?);
    if asked != told || dns::id(sent) != dns::id(answer) {
        return Err(());
    }
    Ok(match answer[3] & 0x0f {
        0 => None,
        1 => Some("FORMERR".to_owned()),
        2 => Some("SERVFAIL".to_owned()),
        3 => Some("NXDOMAIN".to_owned()),
        4 => Some("NOTIMP".to_owned()),
        5 => Some("REFUSED".to_owned()),
        code => Some(format!("RCODE {code}")),
    })
}

fn exchange(
    socket: &UdpSocket,
    question: &ProbeRequest,
    answer: &mut [u8],
    timeout: Duration,
    is_stopped: &impl Fn() -> bool,
) -> Result<Option<Trip>> {
    let sent = bytes(question, rand::random());
    let start = Instant::now();
    match socket.send(&sent) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            return Ok(Some(Trip::Unreachable(e.to_string())));
        }
        Err(e) => return Err(e).context("cannot send"),
    }
    while !is_stopped() {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(Some(Trip::Lost));
        }
        socket.set_read_timeout(Some(left.min(LOOK_EVERY)))?;
        match socket.recv(answer) {
            Ok(len) => {
                let time = start.elapsed();
                if let Ok(trouble) = judge(question, &sent, &answer[..len]) {
                    return Ok(Some(Trip::Back { bytes: len, time, trouble }));
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(e) => return Ok(Some(Trip::Unreachable(e.to_string()))),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_dns_has_the_id_and_the_question() {
        let question = ProbeRequest::Dns { name: b"\x07example\x03com\0".to_vec(), kind: 1 };
        let sent = bytes(&question, 7);
        let answer = |change: fn(&mut Vec<u8>)| {
            let mut answer = sent.clone();
            answer[2] |= 0x80;
            change(&mut answer);
            judge(&question, &sent, &answer)
        };
        assert_eq!(answer(|_| ()), Ok(None));
        assert_eq!(answer(|a| a[13] = b'E'), Ok(None), "case is ignored");
        assert_eq!(answer(|a| a[3] |= 2), Ok(Some("SERVFAIL".to_owned())));
        assert_eq!(answer(|a| a[3] |= 9), Ok(Some("RCODE 9".to_owned())));
        assert_eq!(answer(|a| a[1] = 8), Err(()), "another id");
        assert_eq!(answer(|a| a[13] = b'f'), Err(()), "another name");
        assert_eq!(answer(|a| a[2] = 1), Err(()), "a query");
        assert_eq!(answer(|a| a.truncate(11)), Err(()), "too short");
        assert_eq!(judge(&ProbeRequest::Raw(vec![1]), &[1], &[]), Ok(None));
    }

    #[test]
    fn a_late_answer_does_not_pass_for_the_next_one() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let target = server.local_addr().unwrap();
        let question = ProbeRequest::Raw(b"x".to_vec());
        let mut probe = Probe::new(target, question, Duration::from_millis(20), &Config::default()).unwrap();
        assert_eq!(probe.ask(&|| false).unwrap(), Some(Trip::Lost));
        let first = server.recv_from(&mut [0; 9]).unwrap().1;
        server.send_to(b"late", first).unwrap();
        assert_eq!(probe.ask(&|| false).unwrap(), Some(Trip::Lost));
        assert_ne!(server.recv_from(&mut [0; 9]).unwrap().1, first, "another port");
        assert_eq!(probe.ask(&|| true).unwrap(), None, "a stop signal arrived");
    }
}
