//! gzip, zstd or nothing, told apart by the first bytes as containerd does; the media type is only
//! a hint that registries get wrong.

use flate2::bufread::GzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder, StreamingDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use std::io::{self, BufRead, Cursor, Read};

/// The largest zstd window taken; zstd's own default limit.
const LARGEST_WINDOW: u64 = 128 << 20;

type Source<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// A stream being decompressed to its end, over all members and frames.
#[allow(clippy::large_enum_variant, reason = "one per layer, and it lives where it is made")]
pub(crate) enum Decoder<R: BufRead> {
    Plain(Source<R>),
    Gzip(Option<GzDecoder<Source<R>>>),
    Zstd(Option<Frame<Source<R>>>),
}

impl<R: BufRead> Decoder<R> {
    pub(crate) fn new(mut source: R) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(4);
        (&mut source).take(4).read_to_end(&mut magic)?;
        let kind = magic.clone();
        let whole = Cursor::new(magic).chain(source);
        Ok(match kind.as_slice() {
            [0x1f, 0x8b, 8, ..] => Self::Gzip(Some(GzDecoder::new(whole))),
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd(frame(whole)?),
            _ => Self::Plain(whole),
        })
    }
}

/// One zstd frame under way.
pub(crate) struct Frame<R> {
    source: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> Read for Frame<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
            self.decoder
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
        self.decoder.read(buffer)
    }
}

/// The next zstd frame, past any skippable ones; nothing at the end of the source.
fn frame<R: BufRead>(mut source: R) -> io::Result<Option<Frame<R>>> {
    loop {
        if source.fill_buf()?.is_empty() {
            return Ok(None);
        }
        match StreamingDecoder::new_with_max_window_size(&mut source, LARGEST_WINDOW) {
            Ok(started) => {
                let decoder = started.into_frame_decoder();
                return Ok(Some(Frame { source, decoder }));
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let length = u64::from(length);
                if io::copy(&mut (&mut source).take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                Self::Plain(source) => return source.read(buffer),
                Self::Gzip(state) => {
                    let Some(decoder) = state else { return Ok(0) };
                    let n = decoder.read(buffer)?;
                    if n > 0 {
                        return Ok(n);
                    }
                    // A gzip file is one member after another; anything else behind one is an error.
                    let Some(decoder) = state.take() else { return Ok(0) };
                    let mut source = decoder.into_inner();
                    match source.fill_buf()?.first() {
                        None => {}
                        Some(0x1f) => *state = Some(GzDecoder::new(source)),
                        Some(_) => {
                            let reason = "gzip: invalid header behind the stream's end";
                            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                        }
                    }
                }
                Self::Zstd(state) => {
                    let Some(decoder) = state else { return Ok(0) };
                    let n = decoder.read(buffer)?;
                    if n > 0 {
                        return Ok(n);
                    }
                    let Some(decoder) = state.take() else { return Ok(0) };
                    *state = frame(decoder.source)?;
                }
            }
        }
    }
}
