//! Classic BPF, written from its last instruction to its first: every jump leads to something
//! that already has its place, so offsets are known when they are needed.

use crate::sys::seccomp::Instruction;

const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// The farthest that a conditional jump is trusted to reach: its 8 bits, less what a pair of far
/// targets may insert.
const REACH: usize = 250;

/// A place in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// How a conditional jump compares the accumulator with its value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterEqual,
}

/// A program in the making, last instruction first.
#[derive(Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    returns: Vec<(u32, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u16, yes: usize, no: usize, value: u32) -> Label {
        debug_assert!(yes < 256 && no < 256, "a jump farther than its byte can say");
        self.reversed.push(Instruction { code, yes: yes as u8, no: no as u8, value });
        Label(self.reversed.len() - 1)
    }

    /// How many instructions lie between the next one written and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0 - 1
    }

    fn near(&mut self, label: Label) -> Label {
        match self.distance(label) {
            far if far > REACH => self.push(JUMP, 0, 0, far as u32),
            _ => label,
        }
    }

    /// Makes `next` the instruction that the next one written falls through to.
    fn fall_through_to(&mut self, next: Label) {
        let far = self.distance(next);
        if far > 0 {
            self.push(JUMP, 0, 0, far as u32);
        }
    }

    /// Returns `verdict`.
    pub(super) fn ret(&mut self, verdict: u32) -> Label {
        // The latest are the nearest; the rest of a long program is out of reach.
        let mut near = self.returns.iter().rev().take_while(|(_, l)| self.distance(*l) <= REACH);
        if let Some((_, label)) = near.find(|(v, _)| *v == verdict) {
            return *label;
        }
        let label = self.push(RETURN, 0, 0, verdict);
        self.returns.push((verdict, label));
        label
    }

    /// Loads the word at `offset` of seccomp_data, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_through_to(next);
        self.push(LOAD_WORD, 0, 0, offset)
    }

    /// Masks the accumulator with `mask`, then goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.fall_through_to(next);
        self.push(AND, 0, 0, mask)
    }

    /// Goes on at `yes` or `no`.
    pub(super) fn branch(&mut self, test: Test, value: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        let code = match test {
            Test::Equal => JUMP_EQUAL,
            Test::Greater => JUMP_GREATER,
            Test::GreaterEqual => JUMP_GREATER_EQUAL,
        };
        let (yes, no) = (self.distance(yes), self.distance(no));
        self.push(code, yes, no, value)
    }

    /// The program that starts at `entry`.
    pub(super) fn finish(mut self, entry: Label) -> Vec<Instruction> {
        self.fall_through_to(entry);
        self.reversed.reverse();
        self.reversed
    }
}
