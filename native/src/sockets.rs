//! The set of sockets that is watched (epoll(7)), which the standard library does not have.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What a client's address is told apart by: sixteen bytes, an IPv4 address in its mapped form.
pub type Peer = [u8; 16];

pub fn peer_of(address: IpAddr) -> Peer {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// What a read or a write came to: `None` where nothing can be done at the moment.
pub fn once(mut work: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match work() {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The kernel's structure. On x86-64 it has no room between its fields.
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy)]
struct Told {
    events: u32,
    token: u64,
}

const IN: u32 = 0x001;
const OUT: u32 = 0x004;
const ERROR: u32 = 0x008;
const HANG_UP: u32 = 0x010;
const READ_HANG_UP: u32 = 0x2000;
const EDGE: u32 = 1 << 31;
const ADD: i32 = 1;
const REMOVE: i32 = 2;
const CLOSE_ON_EXEC: i32 = 0o2_000_000;

extern "C" {
    fn epoll_create1(flags: i32) -> i32;
    fn epoll_ctl(set: i32, operation: i32, fd: i32, event: *mut Told) -> i32;
    fn epoll_wait(set: i32, events: *mut Told, most: i32, timeout: i32) -> i32;
}

pub struct Watch {
    set: OwnedFd,
    told: [Told; MOST_AT_ONCE],
}

/// What is new of one socket. That it takes more to be written is told by its being named at all.
#[derive(Clone, Copy)]
pub struct News {
    pub token: u64,
    pub readable: bool,
    pub over: bool,
}

const MOST_AT_ONCE: usize = 256;

impl Watch {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let set = unsafe { epoll_create1(CLOSE_ON_EXEC) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(Self { set: unsafe { OwnedFd::from_raw_fd(set) }, told: [Told { events: 0, token: 0 }; MOST_AT_ONCE] })
    }

    pub fn fd(&self) -> RawFd {
        self.set.as_raw_fd()
    }

    /// Tells once of everything that becomes possible on a connection.
    pub fn add(&self, socket: &impl AsRawFd, token: u64) -> io::Result<()> {
        self.control(ADD, socket, IN | OUT | READ_HANG_UP | EDGE, token)
    }

    /// Tells of connections that wait, for as long as they do.
    pub fn add_listener(&self, socket: &impl AsRawFd, token: u64) -> io::Result<()> {
        self.control(ADD, socket, IN, token)
    }

    pub fn remove(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.control(REMOVE, socket, 0, 0)
    }

    fn control(&self, operation: i32, socket: &impl AsRawFd, events: u32, token: u64) -> io::Result<()> {
        let mut event = Told { events, token };
        // SAFETY: the pointer is to a live event.
        match unsafe { epoll_ctl(self.fd(), operation, socket.as_raw_fd(), &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What is new, without waiting for it; whether there may be more.
    pub fn look(&mut self, news: &mut Vec<News>) -> bool {
        // SAFETY: the pointer is to as many live events as are asked for.
        let count = unsafe { epoll_wait(self.fd(), self.told.as_mut_ptr(), MOST_AT_ONCE as i32, 0) };
        let count = usize::try_from(count).unwrap_or(0);
        for Told { events, token } in self.told.iter().take(count).copied() {
            let over = events & (READ_HANG_UP | HANG_UP | ERROR) != 0;
            news.push(News { token, readable: events & IN != 0 || over, over });
        }
        count == MOST_AT_ONCE
    }
}
