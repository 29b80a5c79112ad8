//! shim
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Front,
    Back,
    Tcp,
    Admin,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub pool: String,
    pub kind: Kind,
    pub worker: u16,
    pub addr: SocketAddr,
}
#[derive(Debug, Default)]
pub struct SocketSet(Vec<(Label, OwnedFd)>);
impl SocketSet {
    fn find(&self, pool: &str, kind: Kind, worker: u16, addr: SocketAddr) -> Option<usize> {
        self.0.iter().position(|(l, _)| {
            l.pool == pool && l.kind == kind && l.worker == worker && (l.addr == addr || addr.port() == 0)
        })
    }
    pub fn has(&self, pool: &str, kind: Kind, worker: u16, addr: SocketAddr) -> bool {
        self.find(pool, kind, worker, addr).is_some()
    }
    pub fn take(&mut self, pool: &str, kind: Kind, worker: u16, addr: SocketAddr) -> Option<OwnedFd> {
        self.find(pool, kind, worker, addr).map(|at| self.0.remove(at).1)
    }
    pub fn add(&mut self, label: Label, fd: OwnedFd) {
        self.0.push((label, fd));
    }
    pub fn append(&mut self, mut other: SocketSet) {
        self.0.append(&mut other.0);
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
