//! Changes to a JSON document that keep it a JSON document: what the fuzzer and the bounded test
//! (`tests/configurations.rs`) do to the corpus.

use serde_json::{Map, Value, json};

/// Numbers that look random and are the same for the same seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        if list.is_empty() { None } else { list.get(self.below(list.len())) }
    }
}

/// Makes one to four changes to `document`. What is put in is at a type's limits, or from one of
/// `corpus`, so that names have their meaning.
pub fn mutate(document: &mut Value, corpus: &[Value], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(count(document));
        if let Some(node) = nth(document, &mut at.clone()) {
            change(node, corpus, random);
        }
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum::<usize>(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The node that comes after `n` others, a parent before its children.
fn nth<'a>(value: &'a mut Value, n: &mut usize) -> Option<&'a mut Value> {
    if *n == 0 {
        return Some(value);
    }
    *n -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|v| nth(v, n)),
        Value::Object(map) => map.values_mut().find_map(|v| nth(v, n)),
        _ => None,
    }
}

/// A node of one of `corpus`.
fn borrowed(corpus: &[Value], random: &mut Random) -> Option<Value> {
    let mut document = random.of(corpus)?.clone();
    let at = random.below(count(&document));
    nth(&mut document, &mut at.clone()).map(|node| node.take())
}

fn change(node: &mut Value, corpus: &[Value], random: &mut Random) {
    if random.below(8) == 0 {
        *node = match random.below(3) {
            0 => Value::Null,
            1 => extreme(random),
            _ => borrowed(corpus, random).unwrap_or_default(),
        };
        return;
    }
    match node {
        Value::Null | Value::Bool(_) => {
            *node = match random.below(3) {
                0 => json!(random.below(2) == 0),
                1 => extreme(random),
                _ => borrowed(corpus, random).unwrap_or_default(),
            }
        }
        Value::Number(number) => {
            let next = number.as_i64().map(|n| match random.below(4) {
                0 => n.wrapping_add(1),
                1 => n.wrapping_sub(1),
                2 => n.wrapping_neg(),
                _ => n.wrapping_mul(2),
            });
            *node = match (random.below(2), next) {
                (0, Some(next)) => json!(next),
                _ => extreme(random),
            };
        }
        Value::String(text) => change_text(text, corpus, random),
        Value::Array(list) => change_list(list, corpus, random),
        Value::Object(map) => change_map(map, corpus, random),
    }
}

/// Where types end and lists of bits change their word.
fn extreme(random: &mut Random) -> Value {
    let small = [0i64, 1, -1, 6, 7, 8, 9, 10, 63, 64, 127, 128, 255, 256, 1000, 4095, 4096, 65_535];
    let large =
        [i32::MAX.into(), i64::from(i32::MAX) + 1, u32::MAX.into(), 1 << 32, i64::MAX, i64::MIN];
    match random.below(4) {
        0 => json!(u64::MAX),
        1 => json!(random.next()),
        2 => json!(large[random.below(large.len())]),
        _ => json!(small[random.below(small.len())]),
    }
}

fn change_text(text: &mut String, corpus: &[Value], random: &mut Random) {
    let pieces = [
        "",
        "/",
        "..",
        "../",
        ".",
        "\0",
        ":",
        ",",
        "-",
        "=",
        " ",
        "é",
        "0-8191",
        "99999999999999999999",
        "r",
        "/proc",
        "/dev",
        "/proc/self/fd",
    ];
    let at = (0..=text.len()).filter(|i| text.is_char_boundary(*i)).collect::<Vec<_>>();
    let at = random.of(&at).copied().unwrap_or(0);
    match random.below(6) {
        0 => text.truncate(at),
        1 => *text = text.split_off(at),
        2 => text.insert_str(at, pieces[random.below(pieces.len())]),
        3 => *text = pieces[random.below(pieces.len())].to_owned(),
        4 => *text = text.repeat(1 + random.below(300)),
        _ => {
            if let Some(Value::String(other)) = borrowed(corpus, random) {
                *text = other;
            }
        }
    }
    text.truncate(
        (0..=text.len().min(5000)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0),
    );
}

fn change_list(list: &mut Vec<Value>, corpus: &[Value], random: &mut Random) {
    match (random.below(5), random.of(list).cloned()) {
        (0, Some(_)) => drop(list.remove(random.below(list.len()))),
        (1, Some(copy)) => list.push(copy),
        (2, Some(copy)) => list.extend(vec![copy; random.below(64)]),
        (3, Some(_)) => {
            let (a, b) = (random.below(list.len()), random.below(list.len()));
            list.swap(a, b);
        }
        _ => list.extend(borrowed(corpus, random)),
    }
}

fn change_map(map: &mut Map<String, Value>, corpus: &[Value], random: &mut Random) {
    let keys: Vec<String> = map.keys().cloned().collect();
    match (random.below(4), random.of(&keys)) {
        (0, Some(key)) => drop(map.remove(key)),
        (1, Some(key)) => {
            // A name that is data, such as a sysctl's, or a field that is unknown.
            let mut name = key.clone();
            change_text(&mut name, corpus, random);
            if let Some(value) = map.remove(key) {
                map.insert(name, value);
            }
        }
        _ => {
            if let Some(Value::Object(other)) = borrowed(corpus, random) {
                // What another document has at such a place, field by field.
                map.extend(other.into_iter().filter(|_| random.below(2) == 0));
            }
        }
    }
}
