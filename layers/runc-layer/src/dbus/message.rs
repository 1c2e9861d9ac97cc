//! Messages: a header of fixed and of named fields, and a body (D-Bus Specification 0.41, "Message
//! Protocol").

use super::{
    Error, Result,
    value::{Value, align, signature, write},
};

/// What a message of ours may hold at most, and what is read of a peer's, in bytes. The protocol
/// allows 128 MiB; no answer that is waited for here has a hundredth of this.
pub(super) const MOST: usize = 1 << 20;

/// The header up to the array of fields.
pub(super) const FIXED: usize = 16;

const METHOD_CALL: u8 = 1;

/// A method call.
pub(crate) struct Call<'a> {
    /// Whom a bus delivers it to; without meaning where there is no bus.
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    pub(crate) body: Vec<Value>,
}

impl Call<'_> {
    /// The bytes of the call with the number `serial`.
    pub(crate) fn bytes(&self, serial: u32, bus: bool) -> Vec<u8> {
        let mut body = Vec::new();
        for value in &self.body {
            write(&mut body, value);
        }
        let field = |code: u8, value: Value| {
            Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
        };
        let mut fields = vec![
            field(1, Value::Path(self.path.to_owned())),
            field(2, Value::text(self.interface)),
            field(3, Value::text(self.member)),
        ];
        if bus {
            fields.push(field(6, Value::text(self.destination)));
        }
        if !self.body.is_empty() {
            fields.push(field(8, Value::Signature(signature(&self.body))));
        }
        let mut out = vec![b'l', METHOD_CALL, 0, 1];
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(serial.to_le_bytes());
        write(&mut out, &Value::Array("(yv)".to_owned(), fields));
        align(&mut out, 8);
        out.extend(body);
        out
    }
}

/// What kind of message a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Return,
    Error,
    Signal,
    /// One that is not known, to be ignored.
    Other,
}

/// A message of a peer.
#[derive(Debug)]
pub(crate) struct Message {
    pub(super) kind: Kind,
    /// On a bus, the unique name of who sent it.
    pub(crate) sender: String,
    /// The call that it answers.
    pub(super) reply_to: u32,
    interface: String,
    member: String,
    pub(super) error: String,
    signature: String,
    big_endian: bool,
    body: Vec<u8>,
}

/// How long the message is whose first [`FIXED`] bytes are `head`.
///
/// # Errors
///
/// [`Error::Malformed`] and [`Error::TooLarge`].
pub(super) fn length(head: &[u8; FIXED]) -> Result<usize> {
    let big_endian = match head[0] {
        b'l' => false,
        b'B' => true,
        _ => return Err(Error::Malformed("the byte order is neither l nor B")),
    };
    if head[3] != 1 {
        return Err(Error::Malformed("the protocol's version is not 1"));
    }
    let mut head = Reader { bytes: head, at: 4, big_endian };
    let body = head.u32()? as usize;
    head.u32()?;
    let fields = head.u32()? as usize;
    let all = FIXED.saturating_add(fields).next_multiple_of(8).saturating_add(body);
    if all > MOST { Err(Error::TooLarge(all)) } else { Ok(all) }
}

impl Message {
    /// Reads a whole message, whose length [`length`] told.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Message> {
        let cut = || Error::Malformed("it ends early");
        let big_endian = bytes.first() == Some(&b'B');
        let kind = match bytes.get(1).ok_or_else(cut)? {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        let mut reader = Reader { bytes, at: 12, big_endian };
        let end = FIXED.checked_add(reader.u32()? as usize).ok_or_else(cut)?;
        let mut message = Message {
            kind,
            sender: String::new(),
            reply_to: 0,
            interface: String::new(),
            member: String::new(),
            error: String::new(),
            signature: String::new(),
            big_endian,
            body: bytes.get(end.next_multiple_of(8)..).ok_or_else(cut)?.to_vec(),
        };
        let mut fields = Reader { bytes: bytes.get(..end).ok_or_else(cut)?, at: FIXED, big_endian };
        while fields.at < end {
            fields.skip_to(8);
            let code = fields.byte()?;
            let kind = fields.signature()?;
            let text = match kind.as_str() {
                "s" | "o" => fields.text()?,
                "g" => fields.signature()?,
                "u" => {
                    let number = fields.u32()?;
                    if code == 5 {
                        message.reply_to = number;
                    }
                    continue;
                }
                _ => return Err(Error::Malformed("a header field has an unknown type")),
            };
            match code {
                2 => message.interface = text,
                3 => message.member = text,
                4 => message.error = text,
                7 => message.sender = text,
                8 => message.signature = text,
                // The path and the destination are not needed, and what is unknown is to be ignored.
                _ => {}
            }
        }
        Ok(message)
    }

    /// Whether it is the signal `member` of `interface`.
    pub(crate) fn is_signal(&self, interface: &str, member: &str) -> bool {
        self.kind == Kind::Signal && self.interface == interface && self.member == member
    }

    /// The body, which is to have the type `signature`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when it has another.
    pub(crate) fn body(&self, signature: &str) -> Result<Reader<'_>> {
        if self.signature == signature {
            Ok(Reader { bytes: &self.body, at: 0, big_endian: self.big_endian })
        } else {
            Err(Error::Malformed("the body has another type than the method answers with"))
        }
    }

    /// An error's text: its first argument, or its name without one.
    pub(super) fn complaint(&self) -> String {
        let text = match self.signature.starts_with('s') {
            true => Reader { bytes: &self.body, at: 0, big_endian: self.big_endian }.text().ok(),
            false => None,
        };
        text.unwrap_or_else(|| self.error.clone())
    }
}

/// A place in a body.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len).ok_or(Error::Malformed("it ends early"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Error::Malformed("it ends early"))?;
        self.at = end;
        Ok(taken)
    }

    fn skip_to(&mut self, multiple: usize) {
        self.at = self.at.next_multiple_of(multiple);
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.skip_to(4);
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn ended(&mut self, len: usize) -> Result<String> {
        let text = self.take(len)?.to_vec();
        if self.byte()? != 0 {
            return Err(Error::Malformed("a string does not end with a zero"));
        }
        String::from_utf8(text).map_err(|_| Error::Malformed("a string is not UTF-8"))
    }

    /// A string or an object's path.
    pub(crate) fn text(&mut self) -> Result<String> {
        let len = self.u32()? as usize;
        self.ended(len)
    }

    fn signature(&mut self) -> Result<String> {
        let len = self.byte()?;
        self.ended(len.into())
    }

    /// A string in a variant.
    pub(crate) fn text_variant(&mut self) -> Result<String> {
        match self.signature()?.as_str() {
            "s" => self.text(),
            _ => Err(Error::Malformed("the variant holds no string")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Hello` as the specification makes one write it, byte by byte.
    fn hello() -> Vec<u8> {
        let parts: &[&[u8]] = &[
            b"l\x01\0\x01",
            b"\0\0\0\0",
            b"\x01\0\0\0",
            b"\x6d\0\0\0",
            b"\x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0",
            b"\x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0",
            b"\x03\x01s\0\x05\0\0\0Hello\0\0\0",
            b"\x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0",
            b"\0\0\0",
        ];
        parts.concat()
    }

    fn call(body: Vec<Value>) -> Call<'static> {
        Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            body,
        }
    }

    #[test]
    fn a_call_is_written_as_the_specification_says() {
        assert_eq!(call(Vec::new()).bytes(1, true), hello());
        let direct = call(Vec::new()).bytes(1, false);
        assert!(direct.len() < hello().len(), "without a bus there is nobody to name");
    }

    #[test]
    fn the_body_begins_at_a_multiple_of_eight() {
        let bytes = call(vec![Value::text("x")]).bytes(7, true);
        let mut head = [0; FIXED];
        head.copy_from_slice(&bytes[..FIXED]);
        assert_eq!(length(&head), Ok(bytes.len()));
        assert!(bytes.ends_with(b"\x08\x01g\0\x01s\0\0\x01\0\0\0x\0"), "{bytes:?}");
    }

    /// JobRemoved of job 7, big-endian: the peer chooses the order.
    fn job_removed() -> Vec<u8> {
        let job = b"/org/freedesktop/systemd1/job/7";
        let body: &[&[u8]] = &[
            b"\0\0\0\x07",
            b"\0\0\0\x1f",
            job,
            b"\0",
            b"\0\0\0\x09a-b.scope\0\0\0",
            b"\0\0\0\x04done\0",
        ];
        let body = body.concat();
        let parts: &[&[u8]] = &[
            b"B\x04\x01\x01",
            &(body.len() as u32).to_be_bytes(),
            b"\0\0\0\x09",
            b"\0\0\0\x52",
            b"\x02\x01s\0\0\0\0\x20org.freedesktop.systemd1.Manager\0\0\0\0\0\0\0\0",
            b"\x03\x01s\0\0\0\0\x0aJobRemoved\0\0\0\0\0\0",
            b"\x08\x01g\0\x04uoss\0\0\0\0\0\0\0",
        ];
        [parts.concat(), body].concat()
    }

    #[test]
    fn a_signal_is_read_in_either_order() {
        let bytes = job_removed();
        let mut head = [0; FIXED];
        head.copy_from_slice(&bytes[..FIXED]);
        assert_eq!(length(&head), Ok(bytes.len()));
        let message = Message::decode(&bytes).expect("a signal");
        assert!(message.is_signal("org.freedesktop.systemd1.Manager", "JobRemoved"));
        let mut body = message.body("uoss").expect("its type");
        assert_eq!(body.u32(), Ok(7));
        assert_eq!(body.text().as_deref(), Ok("/org/freedesktop/systemd1/job/7"));
        assert_eq!(body.text().as_deref(), Ok("a-b.scope"));
        assert_eq!(body.text().as_deref(), Ok("done"));
        assert_eq!(body.u32(), Err(Error::Malformed("it ends early")));
        assert!(message.body("us").is_err());
    }

    #[test]
    fn no_bytes_of_a_peer_are_trusted() {
        let good = job_removed();
        for len in 0..good.len() {
            // Cut anywhere it is refused or has a shorter body; what matters is that it returns.
            let _ = Message::decode(&good[..len]).map(|m| m.body("uoss").map(|mut b| b.text()));
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(message) = Message::decode(&bad)
                    && let Ok(mut body) = message.body("uoss")
                {
                    let _ = (body.u32(), body.text(), body.text(), body.text());
                }
            }
        }
        let mut head = [0; FIXED];
        head.copy_from_slice(&good[..FIXED]);
        head[4] = 0x7f;
        assert!(matches!(length(&head), Err(Error::TooLarge(_))));
        head[4..8].fill(0xff);
        head[12..16].fill(0xff);
        assert!(matches!(length(&head), Err(Error::TooLarge(_))));
        head[0] = b'x';
        assert!(matches!(length(&head), Err(Error::Malformed(_))));
    }
}
