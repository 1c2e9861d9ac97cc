//! The few messages of CRIU's that are needed, in protocol buffers' encoding.

/// A message under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A name and what it stands for, as many of CRIU's messages are.
    pub(crate) fn pair(name: &str, value: &str) -> Message {
        let mut pair = Message::default();
        pair.text(1, name);
        pair.text(2, value);
        pair
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field << 3 | LENGTH));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn number(&mut self, field: u32, value: i64) {
        self.varint(u64::from(field << 3));
        self.varint(value as u64);
    }

    pub(crate) fn flag(&mut self, field: u32, value: bool) {
        self.number(field, value.into());
    }

    pub(crate) fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub(crate) fn message(&mut self, field: u32, value: &Message) {
        self.bytes(field, &value.0);
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.0
    }
}

const LENGTH: u32 = 2;

/// CRIU's version.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Version {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) sublevel: u64,
}

/// What CRIU says: that it is done or has failed, or, as a notice, where it is.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) kind: u64,
    pub(crate) success: bool,
    /// The restored process.
    pub(crate) pid: i32,
    /// The name of the step that a notice is about.
    pub(crate) script: String,
    pub(crate) errno: i32,
    /// The numbers of the features that are there.
    pub(crate) features: Vec<u32>,
    pub(crate) version: Option<Version>,
}

impl Answer {
    /// Reads an answer; `None` when it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Answer> {
        let mut answer = Answer::default();
        for (field, value) in Fields(bytes).read()? {
            match (field, value) {
                (1, Value::Number(kind)) => answer.kind = kind,
                (2, Value::Number(success)) => answer.success = success != 0,
                (4, Value::Bytes(restored)) => {
                    if let Some(pid) = number(restored, 1)? {
                        answer.pid = pid as i32;
                    }
                }
                (5, Value::Bytes(notice)) => {
                    for (field, value) in Fields(notice).read()? {
                        match (field, value) {
                            (1, Value::Bytes(script)) => {
                                answer.script = String::from_utf8_lossy(script).into_owned();
                            }
                            (2, Value::Number(pid)) => answer.pid = pid as i32,
                            _ => {}
                        }
                    }
                }
                (7, Value::Number(errno)) => answer.errno = errno as i32,
                (8, Value::Bytes(features)) => {
                    let list = Fields(features).read()?;
                    let there = list.iter().filter(|(_, v)| matches!(v, Value::Number(1)));
                    answer.features = there.map(|(field, _)| *field).collect();
                }
                (10, Value::Bytes(version)) => {
                    answer.version = Some(Version {
                        major: number(version, 1)?.unwrap_or(0),
                        minor: number(version, 2)?.unwrap_or(0),
                        sublevel: number(version, 4)?.unwrap_or(0),
                    });
                }
                _ => {}
            }
        }
        Some(answer)
    }
}

/// The number in `field` of a message; the outer `None` is a message that is none.
fn number(bytes: &[u8], field: u32) -> Option<Option<u64>> {
    let fields = Fields(bytes).read()?;
    Some(fields.into_iter().find_map(|(f, value)| match value {
        Value::Number(n) if f == field => Some(n),
        _ => None,
    }))
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The bytes of a message from the next field on.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn read(mut self) -> Option<Vec<(u32, Value<'a>)>> {
        let mut list = Vec::new();
        while !self.0.is_empty() {
            let key = u32::try_from(self.varint()?).ok()?;
            let value = match key & 7 {
                0 => Value::Number(self.varint()?),
                1 => Value::Bytes(self.take(8)?),
                LENGTH => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    Value::Bytes(self.take(length)?)
                }
                5 => Value::Bytes(self.take(4)?),
                _ => return None,
            };
            list.push((key >> 3, value));
        }
        Some(list)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_in_protocol_buffers() {
        let mut inner = Message::default();
        inner.text(1, "post-restore");
        inner.number(2, 300);
        let mut outer = Message::default();
        outer.number(1, 6);
        outer.flag(2, true);
        outer.message(5, &inner);
        outer.number(7, -1);
        assert_eq!(&outer.encoded()[..6], [0x08, 6, 0x10, 1, 0x2a, 17]);
        let answer = Answer::decode(outer.encoded()).unwrap();
        assert_eq!((answer.kind, answer.success, answer.errno), (6, true, -1));
        assert_eq!((answer.script.as_str(), answer.pid), ("post-restore", 300));
        // A number of 32 bits, which nothing here has, is passed over.
        assert!(Answer::decode(&[0x9d, 0x01, 1, 2, 3, 4]).is_some());
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let mut message = Message::default();
        message.number(1, 1 << 40);
        message.text(9, "no");
        for end in 1..message.encoded().len() {
            let cut = &message.encoded()[..end];
            // Cut between two fields it is a shorter message.
            assert_eq!(Answer::decode(cut).is_some(), end == 7, "{end}");
        }
        assert!(Answer::decode(&[0x0b]).is_none());
        assert!(Answer::decode(&[0xff; 11]).is_none());
    }
}
