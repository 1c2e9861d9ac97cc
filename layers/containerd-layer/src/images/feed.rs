//! A download on its way: every byte is stored and hashed, and read by whoever inflates it.

use super::{Descriptor, unpack::Layers};
use crate::{Error, Kind, Result, content::Writer, metadata::Labels};
use bytes::{Buf, Bytes};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};
use tokio::sync::mpsc;

/// Pieces of a download that may wait for the disk.
const PIECES: usize = 64;

/// A download as the inflater reads it: every byte is stored and hashed on its way.
pub(super) struct Feed {
    pieces: mpsc::Receiver<Result<Bytes>>,
    /// What an earlier, interrupted download left, to be read first.
    prior: Option<BufReader<io::Take<File>>>,
    piece: Bytes,
    failure: Option<Error>,
    writer: Writer,
    descriptor: Descriptor,
    labels: Labels,
    layers: Layers,
}

impl Feed {
    pub(super) fn new(
        mut writer: Writer,
        descriptor: Descriptor,
        labels: Labels,
        layers: Layers,
    ) -> Result<(Self, mpsc::Sender<Result<Bytes>>)> {
        if writer.offset() > descriptor.size {
            writer.truncate()?;
        }
        let offset = writer.offset();
        let prior = match offset {
            0 => None,
            _ => Some(BufReader::with_capacity(256 << 10, writer.written()?.take(offset))),
        };
        let (sender, pieces) = mpsc::channel(PIECES);
        let (piece, failure) = (Bytes::new(), None);
        Ok((Self { pieces, prior, piece, failure, writer, descriptor, labels, layers }, sender))
    }

    /// Where the download has to begin.
    pub(super) fn offset(&self) -> u64 {
        self.writer.offset()
    }

    fn next(&mut self) -> Result<Bytes> {
        let piece = match self.pieces.blocking_recv() {
            Some(piece) => piece?,
            None if self.writer.offset() == self.descriptor.size => return Ok(Bytes::new()),
            None => return Err(Error::new(Kind::Cancelled, "the pull was given up")),
        };
        self.writer.write(&piece)?;
        self.layers.report(&self.descriptor, self.writer.offset(), false);
        Ok(piece)
    }

    /// Takes the rest of the download.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.prior = None;
        self.piece.clear();
        while self.failure.is_none() {
            match self.next() {
                Ok(piece) if piece.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(e) => self.failure = Some(e),
            }
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Whether what came is what was asked for.
    pub(super) fn verify(&self) -> Result<()> {
        let found = self.writer.digest();
        if found == self.descriptor.digest {
            return Ok(());
        }
        let wanted = &self.descriptor.digest;
        Err(Error::precondition(format_args!(
            "unexpected commit digest {found}, expected {wanted}"
        )))
    }

    /// Makes the download a blob.
    pub(super) fn commit(self) -> Result<()> {
        let Self { writer, descriptor, labels, .. } = self;
        match writer.commit(descriptor.size, Some(&descriptor.digest), labels) {
            Err(e) if e.kind == Kind::AlreadyExists => Ok(()),
            done => done.map(drop),
        }
    }

    /// Gives up what came, because of `error`.
    pub(super) fn abort<T>(self, error: Error) -> Result<T> {
        if let Err(left) = self.writer.abort() {
            tracing::warn!(%left, "an unfinished download stays");
        }
        Err(error)
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Some(prior) = &mut self.prior
            && prior.fill_buf()?.is_empty()
        {
            self.prior = None;
        }
        if self.prior.is_none() && self.piece.is_empty() {
            if let Some(failure) = &self.failure {
                return Err(io::Error::other(failure.clone()));
            }
            match self.next() {
                Ok(piece) => self.piece = piece,
                Err(failure) => {
                    self.failure = Some(failure.clone());
                    return Err(io::Error::other(failure));
                }
            }
        }
        match &mut self.prior {
            Some(prior) => prior.fill_buf(),
            None => Ok(&self.piece),
        }
    }

    fn consume(&mut self, length: usize) {
        match &mut self.prior {
            Some(prior) => prior.consume(length),
            None => self.piece.advance(length),
        }
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}
