//! A connection: authentication, calls and their answers, signals meanwhile.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use super::{
    Address, Call, Error, Message, Result,
    message::{self, FIXED, Kind, MOST},
};
use crate::sys::{Errno, socket};

/// What an authentication's answer may have at most, in bytes.
const LINE: usize = 4096;

/// A connection to a bus or, without one in between, to a program.
pub(crate) struct Connection {
    stream: UnixStream,
    /// What was read and not used yet.
    buffer: Vec<u8>,
    serial: u32,
    bus: bool,
    deadline: Instant,
}

impl Connection {
    /// Connects to the program that listens at `address`, as the user `uid`. `None` leaves it to
    /// the peer to look: in a user namespace one does not know what one is called outside.
    ///
    /// Everything up to the next [`Connection::allow`] has to be done in `patience`.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`], [`Error::Refused`], [`Error::Timeout`].
    pub(crate) fn direct(
        address: &Address,
        uid: Option<u32>,
        patience: Duration,
    ) -> Result<Connection> {
        let connect = |errno| Error::Connect { address: address.to_string(), errno };
        let socket = match address {
            Address::Path(path) => socket::connect_within(path, false, patience),
            Address::Abstract(name) => socket::connect_within(name, true, patience),
        };
        let stream = UnixStream::from(socket.map_err(connect)?);
        let mut connection = Connection {
            stream,
            buffer: Vec::new(),
            serial: 0,
            bus: false,
            deadline: Instant::now() + patience,
        };
        connection.authenticate(uid)?;
        Ok(connection)
    }

    /// Connects to the bus at `address`, otherwise as [`Connection::direct`].
    ///
    /// # Errors
    ///
    /// As [`Connection::direct`].
    pub(crate) fn bus(
        address: &Address,
        uid: Option<u32>,
        patience: Duration,
    ) -> Result<Connection> {
        let mut connection = Connection::direct(address, uid, patience)?;
        connection.bus = true;
        connection.call(bus_call("Hello", Vec::new()), |_| {})?;
        Ok(connection)
    }

    /// Asks the bus for the signals that `rule` matches; without a bus they come unasked.
    pub(crate) fn listen(&mut self, rule: &str) -> Result<()> {
        match self.bus {
            true => {
                self.call(bus_call("AddMatch", vec![super::Value::text(rule)]), |_| {}).map(drop)
            }
            false => Ok(()),
        }
    }

    /// Whether there is a bus in between.
    pub(crate) fn has_bus(&self) -> bool {
        self.bus
    }

    /// Gives what follows until so long from now.
    pub(crate) fn allow(&mut self, patience: Duration) {
        self.deadline = Instant::now() + patience;
    }

    /// Calls a method and waits for its answer; what else arrives meanwhile goes to `other`.
    ///
    /// # Errors
    ///
    /// [`Error::Remote`] for an error of the peer's, and what can go wrong on the way.
    pub(crate) fn call(
        &mut self,
        call: Call<'_>,
        mut other: impl FnMut(Message),
    ) -> Result<Message> {
        self.serial += 1;
        let bytes = call.bytes(self.serial, self.bus);
        if bytes.len() > MOST {
            return Err(Error::TooLarge(bytes.len()));
        }
        self.send(&bytes)?;
        loop {
            let message = self.next()?;
            match message.kind {
                Kind::Return if message.reply_to == self.serial => return Ok(message),
                Kind::Error if message.reply_to == self.serial => {
                    let text = message.complaint();
                    return Err(Error::Remote { name: message.error, text });
                }
                _ => other(message),
            }
        }
    }

    /// The next message, whatever it is.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] at the deadline, and what can go wrong with a peer.
    pub(crate) fn next(&mut self) -> Result<Message> {
        self.fill(FIXED, MOST)?;
        let mut head = [0; FIXED];
        head.copy_from_slice(&self.buffer[..FIXED]);
        let len = message::length(&head)?;
        self.fill(len, MOST)?;
        let message = Message::decode(&self.buffer[..len]);
        self.buffer.drain(..len);
        message
    }

    /// Says who we are (D-Bus Specification 0.41, "Authentication Protocol", EXTERNAL).
    fn authenticate(&mut self, uid: Option<u32>) -> Result<()> {
        let hello = match uid {
            Some(uid) => {
                let hex: String = uid.to_string().bytes().map(|b| format!("{b:02x}")).collect();
                format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n")
            }
            None => "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".to_owned(),
        };
        // All at once, as sd-bus does it: what systemd 252 reads together with the last line it
        // leaves until more arrives, so a message must come after the answer.
        self.send(hello.as_bytes())?;
        let mut answer = self.line()?;
        if uid.is_none() && (answer == "DATA" || answer.starts_with("DATA ")) {
            answer = self.line()?;
        }
        match answer.starts_with("OK ") {
            true => Ok(()),
            false => Err(Error::Refused(answer)),
        }
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            self.fill(self.buffer.len() + 1, LINE)?;
        }
    }

    /// Reads until the buffer has `len` bytes.
    fn fill(&mut self, len: usize, most: usize) -> Result<()> {
        if len > most {
            return Err(Error::TooLarge(len));
        }
        let mut some = [0; 4096];
        while self.buffer.len() < len {
            self.stream.set_read_timeout(Some(self.left()?)).map_err(io)?;
            match self.stream.read(&mut some) {
                Ok(0) => return Err(Error::Closed),
                Ok(n) => self.buffer.extend_from_slice(&some[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(io(e)),
            }
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.set_write_timeout(Some(self.left()?)).map_err(io)?;
        self.stream.write_all(bytes).map_err(io)
    }

    /// How long until the deadline.
    fn left(&self) -> Result<Duration> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(Error::Timeout),
            left => Ok(left),
        }
    }
}

fn bus_call(member: &str, body: Vec<super::Value>) -> Call<'_> {
    Call {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member,
        body,
    }
}

fn io(e: std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Error::Closed,
        _ => Error::Io(Errno::from(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    const SHORT: Duration = Duration::from_millis(300);

    /// A peer that answers each thing that arrives with the next of `answers`, and then `stays`
    /// or closes.
    fn peer(answers: Vec<Vec<u8>>, stays: bool) -> (tempfile::TempDir, Address) {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut some = [0; 65536];
            for answer in answers {
                let _ = stream.read(&mut some);
                let _ = stream.write_all(&answer);
            }
            while stays && stream.read(&mut some).is_ok_and(|n| n > 0) {}
        });
        (dir, Address::Path(path.as_os_str().as_bytes().to_vec()))
    }

    fn ask(answers: Vec<Vec<u8>>, stays: bool) -> Result<Message> {
        let (_dir, address) = peer(answers, stays);
        let mut connection = Connection::direct(&address, Some(0), SHORT)?;
        connection.call(bus_call("GetId", Vec::new()), |_| {})
    }

    fn ok() -> Vec<u8> {
        b"OK 00112233445566778899aabbccddeeff\r\n".to_vec()
    }

    #[test]
    fn a_peer_that_says_nothing_or_too_much_is_left() {
        let refused = |text: &str| Some(Error::Refused(text.into()));
        assert_eq!(ask(vec![], true).err(), Some(Error::Timeout));
        assert_eq!(ask(vec![], false).err(), Some(Error::Closed));
        assert_eq!(
            ask(vec![b"REJECTED EXTERNAL\r\n".to_vec()], true).err(),
            refused("REJECTED EXTERNAL")
        );
        assert_eq!(ask(vec![vec![b'x'; 5000]], true).err(), Some(Error::TooLarge(4097)));
        assert_eq!(ask(vec![ok()], true).err(), Some(Error::Timeout));
        let large = [b"l\x02\0\x01\xff\xff\xff\x7f\x01\0\0\0\0\0\0\0".as_slice()].concat();
        let large = [ok(), large].concat();
        assert!(matches!(ask(vec![large], true), Err(Error::TooLarge(_))));
        let noise = [ok(), b"HTTP/1.1 400 Bad Request".to_vec()].concat();
        assert!(matches!(ask(vec![noise], true), Err(Error::Malformed(_))));
    }

    #[test]
    fn a_peer_that_never_stops_talking_is_left_at_the_deadline() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut connection = Connection {
            stream: ours,
            buffer: Vec::new(),
            serial: 0,
            bus: false,
            deadline: Instant::now() + SHORT,
        };
        // A signal without any field, again and again, until we hang up.
        let talk = std::thread::spawn(move || {
            while theirs.write_all(b"l\x04\x01\x01\0\0\0\0\x01\0\0\0\0\0\0\0").is_ok() {}
        });
        let mut heard = 0;
        let error = connection.call(bus_call("GetId", Vec::new()), |_| heard += 1).err();
        assert_eq!(error, Some(Error::Timeout));
        assert!(heard > 0);
        drop(connection);
        talk.join().expect("it stops");
    }

    #[test]
    fn nobody_there_is_said_with_the_address() {
        let address = Address::Path(b"/nowhere/at/all".to_vec());
        let said = Connection::direct(&address, None, SHORT).err().map(|e| e.to_string());
        assert_eq!(said.as_deref(), Some("dial unix /nowhere/at/all: no such file or directory"));
        let long = Address::Path(vec![b'a'; 200]);
        assert!(Connection::direct(&long, None, SHORT).is_err(), "longer than a name can be");
    }

    #[test]
    fn errors_of_the_peer_are_told_in_its_words() {
        // An error that answers call 1, with a text.
        let parts: &[&[u8]] = &[
            &ok(),
            b"l\x03\x01\x01\x09\0\0\0\x01\0\0\0\x1f\0\0\0",
            b"\x04\x01s\0\x07\0\0\0a.b.Bad\0",
            b"\x05\x01u\0\x01\0\0\0",
            b"\x08\x01g\0\x01s\0\0",
            b"\x04\0\0\0no!\n\0",
        ];
        let error = ask(vec![parts.concat()], true).err();
        let expected = Error::Remote { name: "a.b.Bad".into(), text: "no!\n".into() };
        assert_eq!(error, Some(expected));
    }

    /// A real bus, where one is installed: Hello, a match, an answer with a string, an error.
    #[test]
    fn a_real_bus_answers() {
        use std::{io::BufRead, process::Stdio};
        let dir = tempfile::tempdir().expect("a directory");
        let Ok(mut daemon) = std::process::Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address=1"])
            .arg(format!("--address=unix:path={}/bus", dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            println!("SKIP: needs dbus-daemon");
            return;
        };
        let mut line = String::new();
        let out = daemon.stdout.take().expect("a pipe");
        std::io::BufReader::new(out).read_line(&mut line).expect("an address");
        let outcome = Address::parse(line.trim()).and_then(|addresses| {
            // Without a name first, as in a user namespace.
            Connection::bus(&addresses[0], None, Duration::from_secs(10))?;
            let uid = Some(crate::sys::credentials::effective_uid());
            let mut bus = Connection::bus(&addresses[0], uid, Duration::from_secs(10))?;
            bus.listen("type='signal',member='NameOwnerChanged'")?;
            let answer = bus.call(bus_call("GetId", Vec::new()), |_| {})?;
            let id = answer.body("s")?.text()?;
            let name = vec![super::super::Value::text("no.such.name")];
            Ok((id, bus.call(bus_call("GetNameOwner", name), |_| {}).err()))
        });
        let _ = daemon.kill();
        let _ = daemon.wait();
        let (id, error) = outcome.expect("a conversation");
        assert_eq!(id.len(), 32, "{id}");
        assert!(error.is_some_and(|e| e.is("org.freedesktop.DBus.Error.NameHasNoOwner")));
    }
}
