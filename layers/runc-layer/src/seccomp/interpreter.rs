//! Runs a filter on a made-up system call, as the kernel would.

use crate::sys::seccomp::Instruction;

/// The verdict of `filter` on the call `number` of the architecture `token`.
pub(super) fn run(filter: &[Instruction], token: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&token.to_ne_bytes());
    for (i, arg) in args.iter().enumerate() {
        data[16 + 8 * i..24 + 8 * i].copy_from_slice(&arg.to_ne_bytes());
    }
    let mut accumulator = 0u32;
    let mut at = 0usize;
    loop {
        let i = filter[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { i.yes } else { i.no });
        match i.code {
            0x20 => {
                let from = i.value as usize;
                let word = data[from..from + 4].try_into().expect("four bytes");
                accumulator = u32::from_ne_bytes(word);
            }
            0x54 => accumulator &= i.value,
            0x05 => at += i.value as usize,
            0x15 => at += jump(accumulator == i.value),
            0x25 => at += jump(accumulator > i.value),
            0x35 => at += jump(accumulator >= i.value),
            0x45 => at += jump(accumulator & i.value != 0),
            0x06 => return i.value,
            other => panic!("instruction {other:#x}"),
        }
    }
}
