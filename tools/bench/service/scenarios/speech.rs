//! The bytes of requests and answers. Every request names its run, its client and its number. An answer
//! counts only if it is exactly the answer to that request.

use lbd::wire::{Frame, FrameFormat, Header, Kind, Mode, Status};

/// Bytes of a native frame.
const FRAME_SIZE: usize = 256;
const FORMAT: FrameFormat = FrameFormat { size: FRAME_SIZE, tagged: false };
/// Run, client and number.
const NAME_LEN: usize = 16;
/// DNS: header, a label of 32 hex digits, the label "test", the root, type and class.
const QUERY_LEN: usize = 12 + 1 + 2 * NAME_LEN + 5 + 1 + 4;
const LABEL: std::ops::Range<usize> = 13..13 + 2 * NAME_LEN;
/// Offset of the flags of a DNS message, and their bits.
const FLAGS: usize = 2;
const QR: u8 = 0x80;
const RCODE: u8 = 0x0f;

/// The longest request.
pub const LEN_MAX: usize = FRAME_SIZE;

/// The protocol of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// lbd's own frames.
    Native,
    /// Datagrams that servers echo unmodified.
    Datagram,
    /// DNS queries.
    Dns,
}

/// The name of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The run, so that datagrams of an earlier run do not count.
    pub run: u64,
    /// The client, by its socket.
    pub client: u16,
    /// The number, over all clients of the run.
    pub number: u32,
}

/// A parsed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The correct answer to this request.
    Served(Name),
    /// A refusal of this request.
    Refused(Name),
}

impl Name {
    fn bytes(self) -> [u8; NAME_LEN] {
        let mut bytes = [0; NAME_LEN];
        bytes[..8].copy_from_slice(&self.run.to_be_bytes());
        bytes[8..12].copy_from_slice(&u32::from(self.client).to_be_bytes());
        bytes[12..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Name> {
        let whole = u128::from_be_bytes(bytes.try_into().ok()?);
        let client = u16::try_from((whole >> 32) as u32).ok()?;
        Some(Name { run: (whole >> 64) as u64, client, number: whole as u32 })
    }
}

impl Speech {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Speech::Native => "native",
            Speech::Datagram => "datagram",
            Speech::Dns => "dns",
        }
    }

    /// Bytes of a request.
    pub fn len(self) -> usize {
        match self {
            Speech::Native => FRAME_SIZE,
            Speech::Datagram => NAME_LEN,
            Speech::Dns => QUERY_LEN,
        }
    }

    /// Requests per datagram.
    pub fn packed(self) -> usize {
        match self {
            Speech::Native => FORMAT.frames_per_datagram(),
            Speech::Datagram | Speech::Dns => 1,
        }
    }

    /// Writes a request with this deadline, in microseconds.
    pub fn write(self, bytes: &mut [u8], name: Name, deadline_us: u32) {
        match self {
            Speech::Native => {
                let mut header = Header::new(Kind::ClientRequest, FRAME_SIZE);
                header.mode = Mode::Idempotent as u8;
                header.attempt = 1;
                header.deadline_us.set(deadline_us);
                header.client_id.set(client_id(name));
                header.sequence.set(u64::from(name.number) + 1);
                Frame::write(bytes, &header, &name.bytes());
            }
            Speech::Datagram => bytes.copy_from_slice(&name.bytes()),
            Speech::Dns => write_query(bytes, name),
        }
    }

    /// Parses a datagram, or a frame of one. `None` unless every relevant byte is as expected.
    pub fn read(self, bytes: &mut [u8]) -> Option<Answer> {
        match self {
            Speech::Native => read_frame(bytes),
            Speech::Datagram => Name::of(bytes).map(Answer::Served),
            Speech::Dns => read_answer(bytes),
        }
    }

    /// Turns a request into its answer in place, as a server of a datagram pool does.
    pub fn answer(self, bytes: &mut [u8]) {
        if self == Speech::Dns && bytes.len() > FLAGS {
            bytes[FLAGS] |= QR;
        }
    }
}

/// The client id of a native client: the random number of its run plus its index.
fn client_id(name: Name) -> u64 {
    name.run.wrapping_add(u64::from(name.client))
}

/// Parses a native frame. A refusal carries no payload, since the balancer makes it from the header alone.
fn read_frame(bytes: &mut [u8]) -> Option<Answer> {
    let frame = Frame::check(bytes, &FORMAT).ok()?;
    if frame.kind() != Kind::ClientResponse {
        return None;
    }
    let (id, number) = (frame.header.client_id.get(), frame.header.sequence.get().checked_sub(1)?);
    if Status::from_wire(frame.header.status)? == Status::Ok {
        let name = Name::of(frame.payload())?;
        return (client_id(name) == id && u64::from(name.number) == number).then_some(Answer::Served(name));
    }
    // The header has no run: the client id is that of the run's first client plus the index of the client.
    let client = (id & 0xffff) as u16;
    let run = id.wrapping_sub(u64::from(client));
    Some(Answer::Refused(Name { run, client, number: u32::try_from(number).ok()? }))
}

fn write_query(bytes: &mut [u8], name: Name) {
    bytes.fill(0);
    let id = u64::from(name.number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    bytes[..2].copy_from_slice(&(id as u16).to_be_bytes());
    (bytes[FLAGS], bytes[5]) = (1, 1); // recursion desired, one question
    bytes[12] = LABEL.len() as u8;
    for (digits, byte) in bytes[LABEL].chunks_exact_mut(2).zip(name.bytes()) {
        digits[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        digits[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    bytes[LABEL.end..].copy_from_slice(b"\x04test\0\0\x01\0\x01");
}

/// Parses a DNS answer: length, id and the whole question must match.
fn read_answer(bytes: &[u8]) -> Option<Answer> {
    if bytes.len() != QUERY_LEN || bytes[FLAGS] & QR == 0 {
        return None;
    }
    let mut name = [0; NAME_LEN];
    for (byte, digits) in name.iter_mut().zip(bytes[LABEL].chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    let name = Name::of(&name)?;
    let mut asked = [0; QUERY_LEN];
    write_query(&mut asked, name);
    if bytes[..FLAGS] != asked[..FLAGS] || bytes[4..] != asked[4..] {
        return None;
    }
    Some(if bytes[3] & RCODE == 0 { Answer::Served(name) } else { Answer::Refused(name) })
}
