//! A streaming tar reader: v7, ustar, GNU (long names, old sparse) and pax (xattrs, sparse 0.0, 0.1
//! and 1.0), borrowing file data from the stream's own buffers.
//!
//! Global pax headers are skipped, as Go's archive/tar and so containerd does.

use crate::{Error, Result};
use std::io::{self, BufRead};

const BLOCK: usize = 512;
/// The largest long name or pax header taken; Go's limit.
const LONGEST_HEADER: u64 = 1 << 20;
/// The most fragments of a sparse file.
const MOST_FRAGMENTS: usize = 1 << 16;

type Block = [u8; BLOCK];

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// A type flag that nothing here knows.
    Other(u8),
}

/// Seconds and nanoseconds since 1970.
pub(crate) type Time = (i64, u32);

/// One entry; its data is read from the [`Archive`] before the next entry is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The size of the file once extracted, holes included.
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) atime: Option<Time>,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// (offset, length) of the data that the archive holds, for a sparse file.
    pub(crate) fragments: Option<Vec<(u64, u64)>>,
}

/// An archive being read.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    source: R,
    /// Data of the current entry not yet read.
    remaining: u64,
    /// Zeros after that data.
    padding: u64,
}

/// What pax and GNU headers say about the entry that follows them.
#[derive(Debug, Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

fn broken(reason: impl std::fmt::Display) -> Error {
    Error::data_loss(format_args!("archive/tar: {reason}"))
}

fn read_error(error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return broken("unexpected EOF");
    }
    Error::io("archive/tar", error)
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, remaining: 0, padding: 0 }
    }

    /// The next entry; nothing at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut overrides = Overrides::default();
        loop {
            self.skip_data()?;
            let Some(block) = self.header()? else { return Ok(None) };
            let size = number(&block[124..136]).ok_or_else(|| broken("invalid size in header"))?;
            match block[156] {
                b'x' => overrides.records = records(&self.special(size)?)?,
                b'g' => {
                    self.special(size)?;
                }
                b'L' => overrides.name = Some(until_nul(&self.special(size)?).to_owned()),
                b'K' => overrides.link = Some(until_nul(&self.special(size)?).to_owned()),
                _ => return self.entry(&block, size, overrides).map(Some),
            }
        }
    }

    /// The next piece of the current entry's data; empty at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let chunk = self.source.fill_buf().map_err(|e| read_error(&e))?;
        if chunk.is_empty() {
            return Err(broken("unexpected EOF"));
        }
        let length = chunk.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        Ok(&chunk[..length])
    }

    /// Marks bytes of [`Self::data`] as used.
    pub(crate) fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.remaining -= length as u64;
    }

    /// The whole data of the current entry.
    pub(crate) fn read_data(&mut self, limit: u64) -> Result<Vec<u8>> {
        if self.remaining > limit {
            return Err(broken(format_args!("{} bytes are more than {limit}", self.remaining)));
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = self.data()?;
            if chunk.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(chunk);
            let length = chunk.len();
            self.consume(length);
        }
    }

    /// The stream behind the archive's end.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn skip_data(&mut self) -> Result<()> {
        self.remaining += std::mem::take(&mut self.padding);
        loop {
            let length = self.data()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }

    fn block(&mut self) -> Result<Option<Block>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]).map_err(|e| read_error(&e))? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(broken("unexpected EOF")),
                n => filled += n,
            }
        }
        Ok(Some(block))
    }

    /// A header block with a good checksum; nothing at the end (two zero blocks, or no more bytes).
    fn header(&mut self) -> Result<Option<Block>> {
        let Some(mut block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            match self.block()? {
                None => return Ok(None),
                Some(second) if second == [0; BLOCK] => return Ok(None),
                Some(_) => return Err(broken("invalid tar header")),
            }
        }
        let stored = number(&block[148..156]);
        let kept: [u8; 8] = block[148..156].try_into().unwrap_or_default();
        block[148..156].fill(b' ');
        let unsigned: u64 = block.iter().map(|b| u64::from(*b)).sum();
        let signed: i64 = block.iter().map(|b| i64::from(b.cast_signed())).sum();
        block[148..156].copy_from_slice(&kept);
        if stored != Some(unsigned) && stored.map(u64::cast_signed) != Some(signed) {
            return Err(broken("invalid tar header"));
        }
        Ok(Some(block))
    }

    /// The data of a long-name or pax entry.
    fn special(&mut self, size: u64) -> Result<Vec<u8>> {
        self.expect(size);
        self.read_data(LONGEST_HEADER)
    }

    fn expect(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn entry(&mut self, block: &Block, size: u64, overrides: Overrides) -> Result<Entry> {
        let gnu = &block[257..265] == b"ustar  \0";
        let ustar = &block[257..263] == b"ustar\0";
        let mut name = until_nul(&block[..100]).to_owned();
        if ustar && block[345] != 0 {
            name = [until_nul(&block[345..500]), b"/", &name].concat();
        }
        let field = |range: std::ops::Range<usize>, what: &str| {
            number(&block[range]).ok_or_else(|| broken(format_args!("invalid {what} in header")))
        };
        let id = |range, what: &str| {
            u32::try_from(field(range, what)?).map_err(|_| broken(format_args!("{what} too large")))
        };
        let kind = match block[156] {
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let device =
            if ustar || gnu { (id(329..337, "device")?, id(337..345, "device")?) } else { (0, 0) };
        let mut entry = Entry {
            name: overrides.name.unwrap_or(name),
            mode: id(100..108, "mode")? & 0o7777,
            uid: id(108..116, "uid")?,
            gid: id(116..124, "gid")?,
            size,
            mtime: (seconds(&block[136..148]).ok_or_else(|| broken("invalid mtime"))?, 0),
            atime: None,
            link: overrides.link.unwrap_or_else(|| until_nul(&block[157..257]).to_owned()),
            device,
            xattrs: Vec::new(),
            fragments: None,
            kind,
        };
        let sparse = apply_records(&mut entry, overrides.records)?;
        // Links and devices have no data whatever their header says.
        self.expect(if matches!(entry.kind, Kind::File | Kind::Other(_)) { entry.size } else { 0 });
        if block[156] == b'S' && gnu {
            self.old_sparse(block, &mut entry)?;
        } else if let Some(sparse) = sparse {
            self.pax_sparse(sparse, &mut entry)?;
        }
        if entry.name.contains(&0) || entry.link.contains(&0) {
            return Err(broken("a name with a NUL in it"));
        }
        check_fragments(&entry, self.remaining)?;
        Ok(entry)
    }

    /// The map of an old GNU sparse file: in the header and in blocks behind it.
    fn old_sparse(&mut self, block: &Block, entry: &mut Entry) -> Result<()> {
        let mut fragments = Vec::new();
        let mut take = |bytes: &[u8]| -> Result<()> {
            for pair in bytes.chunks_exact(24).take_while(|pair| pair[0] != 0) {
                let (Some(offset), Some(length)) = (number(&pair[..12]), number(&pair[12..]))
                else {
                    return Err(broken("invalid sparse map"));
                };
                fragments.push((offset, length));
            }
            if fragments.len() > MOST_FRAGMENTS {
                Err(broken("sparse map too large"))
            } else {
                Ok(())
            }
        };
        take(&block[386..482])?;
        entry.size = number(&block[483..495]).ok_or_else(|| broken("invalid sparse size"))?;
        let mut more = block[482] != 0;
        while more {
            let next = self.block()?.ok_or_else(|| broken("unexpected EOF"))?;
            take(&next[..504])?;
            more = next[504] != 0;
        }
        entry.fragments = Some(fragments);
        Ok(())
    }

    fn pax_sparse(&mut self, sparse: Sparse, entry: &mut Entry) -> Result<()> {
        if let Some(name) = sparse.name {
            entry.name = name;
        }
        entry.fragments = Some(match sparse.map {
            Some(map) => map,
            None => self.leading_map()?,
        });
        entry.size = sparse.size.ok_or_else(|| broken("sparse file without a size"))?;
        Ok(())
    }

    /// The map of a pax 1.0 sparse file: decimal lines before the data, padded to a block.
    fn leading_map(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut lines: Vec<u64> = Vec::new();
        let (mut number, mut wanted) = (0u64, None);
        while wanted != Some(lines.len()) {
            if self.remaining < BLOCK as u64 {
                return Err(broken("invalid sparse map"));
            }
            let block = self.block()?.ok_or_else(|| broken("unexpected EOF"))?;
            self.remaining -= BLOCK as u64;
            for byte in block {
                match byte {
                    b'\n' => lines.push(std::mem::take(&mut number)),
                    b'0'..=b'9' => {
                        number = number
                            .checked_mul(10)
                            .and_then(|n| n.checked_add(u64::from(byte - b'0')))
                            .ok_or_else(|| broken("invalid sparse map"))?;
                    }
                    _ => return Err(broken("invalid sparse map")),
                }
                if lines.len() == 1 && wanted.is_none() {
                    let count = usize::try_from(lines[0]).unwrap_or(usize::MAX);
                    if count > MOST_FRAGMENTS {
                        return Err(broken("sparse map too large"));
                    }
                    wanted = Some(1 + 2 * count);
                }
                if wanted == Some(lines.len()) {
                    break;
                }
            }
        }
        Ok(lines[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

/// Fragments must be in order, inside the file, and add up to the data there is.
fn check_fragments(entry: &Entry, data: u64) -> Result<()> {
    let Some(fragments) = &entry.fragments else { return Ok(()) };
    let (mut end, mut total) = (0u64, 0u64);
    for (offset, length) in fragments {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= entry.size);
        end = next.ok_or_else(|| broken("invalid sparse map"))?;
        total += length;
    }
    if total == data { Ok(()) } else { Err(broken("sparse map does not fit the data")) }
}

/// What the pax records say of a sparse file.
#[derive(Debug, Default)]
struct Sparse {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Nothing means that the map stands before the data.
    map: Option<Vec<(u64, u64)>>,
}

fn apply_records(entry: &mut Entry, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Option<Sparse>> {
    let mut sparse = Sparse::default();
    let mut is_sparse = false;
    let mut offset = None;
    for (key, value) in records {
        // An empty value takes the record back.
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            continue;
        }
        let bad = || broken(format_args!("invalid pax record {}", String::from_utf8_lossy(&key)));
        let text = || std::str::from_utf8(&value).map_err(|_| bad());
        let integer = || text()?.parse::<u64>().map_err(|_| bad());
        match key.as_slice() {
            b"path" => entry.name = value,
            b"linkpath" => entry.link = value,
            b"size" => entry.size = integer()?,
            b"uid" => entry.uid = text()?.parse().map_err(|_| bad())?,
            b"gid" => entry.gid = text()?.parse().map_err(|_| bad())?,
            b"mtime" => entry.mtime = time(text()?).ok_or_else(bad)?,
            b"atime" => entry.atime = Some(time(text()?).ok_or_else(bad)?),
            b"GNU.sparse.major" | b"GNU.sparse.minor" => is_sparse = true,
            b"GNU.sparse.name" => sparse.name = Some(value),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                is_sparse = true;
                sparse.size = Some(integer()?);
            }
            b"GNU.sparse.map" => {
                let numbers: Vec<u64> = text()?
                    .split(',')
                    .map(|n| n.parse().map_err(|_| bad()))
                    .collect::<Result<_>>()?;
                sparse.map = Some(numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect());
            }
            b"GNU.sparse.offset" => offset = Some(integer()?),
            b"GNU.sparse.numbytes" => {
                let fragment = (offset.take().ok_or_else(bad)?, integer()?);
                sparse.map.get_or_insert_default().push(fragment);
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    entry.xattrs.push((name.to_owned(), value));
                }
            }
        }
    }
    Ok(is_sparse.then_some(sparse))
}

/// `<length> <key>=<value>\n`, again and again.
fn records(mut bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    let bad = || broken("invalid pax header");
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|n| n.parse().ok())
            .ok_or_else(bad)?;
        let record = bytes.get(space + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        records.push((record[..equals].to_owned(), record[equals + 1..].to_owned()));
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// A decimal time with an optional fraction.
fn time(text: &str) -> Option<Time> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if seconds.starts_with('-') && nanos > 0 {
        return Some((whole - 1, 1_000_000_000 - nanos));
    }
    Some((whole, nanos))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
}

/// An octal or base-256 field; an empty one is zero.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // The first byte's low bits and the rest are a big-endian number; 0xff would be negative.
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256)? | u64::from(*byte);
        }
        return Some(value);
    }
    let text = until_nul(field).trim_ascii();
    if text.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 8).ok()
}

/// A time field, which in base 256 may be before 1970.
fn seconds(field: &[u8]) -> Option<i64> {
    if field[0] == 0xff {
        let bytes: [u8; 8] = field[field.len() - 8..].try_into().ok()?;
        return Some(i64::from_be_bytes(bytes));
    }
    i64::try_from(number(field)?).ok()
}
