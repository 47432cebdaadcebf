//! The key-value store at which the ranks of a process group meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::ptr::{self, NonNull};
use std::time::Duration;

use crate::checks::{refuse, timeout_ms};
use crate::error::{LibtorchError, Result};
use crate::ffi;

/// One connection to a c10d `TCPStore`, and the server itself in the process that hosts it.
///
/// The server lives until the host's `TcpStore` and every process group made from it are gone.
#[derive(Debug)]
pub struct TcpStore {
    raw: NonNull<ffi::Store>,
    port: u16,
}

// SAFETY: c10d's TCPStore guards its connection with a lock and has no thread affinity.
unsafe impl Send for TcpStore {}
// SAFETY: as above; a shared reference only lets a process group open a connection of its own.
unsafe impl Sync for TcpStore {}

// === impl TcpStore ===

impl TcpStore {
    /// Starts a store that listens on the address `bind` and the port `port`, 0 for a free one.
    ///
    /// # Errors
    /// [`LibtorchError::Listen`] when the address is taken or not this machine's.
    pub fn host(bind: &str, port: u16, timeout: Duration) -> Result<Self> {
        const OP: &str = "TcpStore::host";
        let timeout_ms = timeout_ms(OP, timeout)?;
        let Ok(ip) = bind.parse::<IpAddr>() else {
            return refuse(OP, "bind", format!("{bind:?} is not an IP address"));
        };
        let address = SocketAddr::new(ip, port);
        let listen = |source| LibtorchError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        let host = ffi::c_string(OP, "bind", &own_address(ip).to_string())?;
        let mut raw = ptr::null_mut();
        ffi::call(OP, |message| {
            // SAFETY: `host` and `raw` outlive the call, and the descriptor is given away. When
            // the call fails it may be open or closed, so it is left alone.
            unsafe {
                ffi::prospect_store_host(
                    listener.into_raw_fd(),
                    host.as_ptr(),
                    port,
                    timeout_ms,
                    &mut raw,
                    message,
                )
            }
        })?;
        Ok(Self::from_raw(raw, port))
    }

    /// Connects to the store at `host:port`, trying again until `timeout`, which afterwards
    /// bounds every wait for a key.
    ///
    /// # Errors
    /// [`LibtorchError::Timeout`] when nothing listens there in time.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        const OP: &str = "TcpStore::connect";
        let timeout_ms = timeout_ms(OP, timeout)?;
        let host = ffi::c_string(OP, "host", host)?;
        let mut raw = ptr::null_mut();
        ffi::call(OP, |message| {
            // SAFETY: `host` and `raw` outlive the call.
            unsafe {
                ffi::prospect_store_connect(host.as_ptr(), port, timeout_ms, &mut raw, message)
            }
        })?;
        Ok(Self::from_raw(raw, port))
    }

    /// The port the store listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn as_ptr(&self) -> *const ffi::Store {
        self.raw.as_ptr()
    }

    fn from_raw(raw: *mut ffi::Store, port: u16) -> Self {
        let raw = NonNull::new(raw).expect("the shim stores a handle when it reports success");
        Self { raw, port }
    }
}

impl Drop for TcpStore {
    fn drop(&mut self) {
        // SAFETY: the handle came from the shim and is freed once; process groups hold their own
        // reference to the store behind it.
        unsafe { ffi::prospect_store_free(self.raw.as_ptr()) };
    }
}

/// The address at which a host reaches its own store.
fn own_address(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests;
