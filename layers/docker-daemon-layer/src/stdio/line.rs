//! Lines of the `json-file` log: `{"log":"…\n","stream":"stdout","time":"…"}`, byte for byte as
//! Docker 20.10 writes them.

use super::Stream;

/// The longest piece of a line that is one entry: 16 KiB (Docker's `Copier`).
pub(crate) const PIECE: usize = 16 << 10;

/// Cuts a stream into log entries.
#[derive(Default)]
pub(crate) struct Splitter {
    rest: Vec<u8>,
}

impl Splitter {
    /// Hands every entry in `rest + chunk` to `entry`; a line's end is part of it, and a piece of a
    /// longer line has none.
    pub(crate) fn feed(&mut self, chunk: &[u8], mut entry: impl FnMut(&[u8])) {
        for part in chunk.split_inclusive(|b| *b == b'\n') {
            let mut part = part;
            if self.rest.is_empty() && part.len() <= PIECE && part.ends_with(b"\n") {
                entry(part);
                continue;
            }
            while self.rest.len() + part.len() > PIECE {
                let (fits, more) = part.split_at(PIECE - self.rest.len());
                // A line of exactly a piece's length keeps its end with it.
                if more == b"\n" {
                    break;
                }
                self.rest.extend_from_slice(fits);
                entry(&self.rest);
                self.rest.clear();
                part = more;
            }
            self.rest.extend_from_slice(part);
            if self.rest.ends_with(b"\n") {
                entry(&self.rest);
                self.rest.clear();
            }
        }
    }

    /// Hands over what is left when the stream ends.
    pub(crate) fn end(&mut self, mut entry: impl FnMut(&[u8])) {
        if !self.rest.is_empty() {
            entry(&self.rest);
            self.rest.clear();
        }
    }
}

/// Appends one entry to `to`.
pub(crate) fn encode(to: &mut Vec<u8>, stream: Stream, data: &[u8], time: &str) {
    to.extend_from_slice(b"{\"log\":\"");
    escape(to, data);
    to.extend_from_slice(b"\",\"stream\":\"");
    to.extend_from_slice(stream.name().as_bytes());
    to.extend_from_slice(b"\",\"time\":\"");
    to.extend_from_slice(time.as_bytes());
    to.extend_from_slice(b"\"}\n");
}

/// JSON's escapes, and HTML's as Go's encoder has them; what is not UTF-8 becomes U+FFFD.
fn escape(to: &mut Vec<u8>, data: &[u8]) {
    for chunk in data.utf8_chunks() {
        escape_text(to, chunk.valid());
        for _ in chunk.invalid() {
            to.extend_from_slice(b"\\ufffd");
        }
    }
}

fn escape_text(to: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().copied().enumerate() {
        let plain = byte >= 0x20 && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2);
        if plain {
            continue;
        }
        // U+2028 and U+2029 end a line in JavaScript.
        let separator = byte == 0xe2
            && bytes.get(at + 1) == Some(&0x80)
            && matches!(bytes.get(at + 2), Some(0xa8 | 0xa9));
        if byte == 0xe2 && !separator {
            continue;
        }
        to.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => to.extend_from_slice(b"\\\""),
            b'\\' => to.extend_from_slice(b"\\\\"),
            b'\n' => to.extend_from_slice(b"\\n"),
            b'\r' => to.extend_from_slice(b"\\r"),
            0xe2 => {
                let last = if bytes[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" };
                to.extend_from_slice(last);
                from = at + 3;
            }
            _ => {
                to.extend_from_slice(b"\\u00");
                to.push(HEX[usize::from(byte >> 4)]);
                to.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    to.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::default();
        let mut all = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, |e| all.push(e.to_vec()));
        }
        splitter.end(|e| all.push(e.to_vec()));
        all
    }

    #[test]
    fn lines_are_entries_however_they_arrive() {
        let expected: [&[u8]; 3] = [b"one\n", b"\n", b"two"];
        assert_eq!(entries(&[b"one\n\ntwo"]), expected);
        assert_eq!(entries(&[b"o", b"ne", b"\n", b"\ntw", b"o"]), expected);
    }

    #[test]
    fn long_lines_are_cut_in_pieces() {
        let long = [vec![b'x'; PIECE + 5], b"\n".to_vec()].concat();
        for step in [1000, PIECE, PIECE + 6] {
            let chunks: Vec<&[u8]> = long.chunks(step).collect();
            let all = entries(&chunks);
            assert_eq!(all.len(), 2, "{step}");
            assert_eq!((all[0].len(), all[1].as_slice()), (PIECE, &b"xxxxx\n"[..]));
        }
    }

    #[test]
    fn entries_are_escaped_as_docker_escapes_them() {
        let mut to = Vec::new();
        encode(&mut to, Stream::Stderr, "a\"\\<\t\u{2028}é\n".as_bytes(), "T");
        assert_eq!(
            String::from_utf8(to).unwrap(),
            "{\"log\":\"a\\\"\\\\\\u003c\\u0009\\u2028é\\n\",\"stream\":\"stderr\",\"time\":\"T\"}\n"
        );
        let mut bad = Vec::new();
        encode(&mut bad, Stream::Stdout, b"\xff", "T");
        assert!(String::from_utf8(bad).unwrap().contains("\\ufffd"));
    }
}
