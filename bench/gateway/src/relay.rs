//! A relay that copies bytes and looks at none. See `main.rs`.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::poll::{Poller, widen};

/// Passes what comes to `port` on to `to`, each connection over one of its own.
pub fn run(port: u16, to: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    widen(&listener)?;
    listener.set_nonblocking(true)?;
    let mut poller = Poller::new()?;
    poller.add(&listener, 0)?;
    let mut others: BTreeMap<usize, (TcpStream, usize)> = BTreeMap::new();
    let mut last = 0;
    let mut piece = vec![0_u8; 64 << 10];
    loop {
        for name in poller.wait(None)? {
            if name == 0 {
                while let Ok((near, _)) = listener.accept() {
                    let far = TcpStream::connect(("127.0.0.1", to))?;
                    for (stream, at) in [(&near, last + 1), (&far, last + 2)] {
                        stream.set_nodelay(true)?;
                        poller.add(stream, at)?;
                    }
                    others.insert(last + 1, (near, last + 2));
                    others.insert(last + 2, (far, last + 1));
                    last += 2;
                }
                continue;
            }
            let Some((stream, other)) = others.get_mut(&name) else { continue };
            let other = *other;
            let count = stream.read(&mut piece).unwrap_or(0);
            let sent = match others.get_mut(&other) {
                Some((other, _)) if count > 0 => other.write_all(&piece[..count]).is_ok(),
                _ => false,
            };
            if !sent {
                others.remove(&name);
                others.remove(&other);
            }
        }
    }
}
