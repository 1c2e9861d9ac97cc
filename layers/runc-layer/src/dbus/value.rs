//! The values of messages and how they are written (D-Bus Specification 0.41, "Type System" and
//! "Marshaling (Wire Format)").

/// A value of one of the types that systemd's properties have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// The signature of one element, and the elements, which all have it.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// An array of bytes.
    pub(crate) fn bytes(bytes: &[u8]) -> Value {
        Value::Array("y".to_owned(), bytes.iter().map(|b| Value::Byte(*b)).collect())
    }

    /// The type's code.
    pub(crate) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".to_owned(),
            Value::Bool(_) => "b".to_owned(),
            Value::Int16(_) => "n".to_owned(),
            Value::Uint16(_) => "q".to_owned(),
            Value::Int32(_) => "i".to_owned(),
            Value::Uint32(_) => "u".to_owned(),
            Value::Int64(_) => "x".to_owned(),
            Value::Uint64(_) => "t".to_owned(),
            Value::Double(_) => "d".to_owned(),
            Value::Text(_) => "s".to_owned(),
            Value::Path(_) => "o".to_owned(),
            Value::Signature(_) => "g".to_owned(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", signature(fields)),
            Value::Variant(_) => "v".to_owned(),
        }
    }
}

/// The signature of a body.
pub(crate) fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// Where the first byte of a type may be: a multiple of this.
fn alignment(code: u8) -> usize {
    match code {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// Appends `value` in little-endian order; `out` begins where its alignment is counted from.
pub(crate) fn write(out: &mut Vec<u8>, value: &Value) {
    let code = value.signature();
    align(out, alignment(code.as_bytes().first().copied().unwrap_or(b'y')));
    match value {
        Value::Byte(v) => out.push(*v),
        Value::Bool(v) => out.extend(u32::from(*v).to_le_bytes()),
        Value::Int16(v) => out.extend(v.to_le_bytes()),
        Value::Uint16(v) => out.extend(v.to_le_bytes()),
        Value::Int32(v) => out.extend(v.to_le_bytes()),
        Value::Uint32(v) => out.extend(v.to_le_bytes()),
        Value::Int64(v) => out.extend(v.to_le_bytes()),
        Value::Uint64(v) => out.extend(v.to_le_bytes()),
        Value::Double(v) => out.extend(v.to_le_bytes()),
        Value::Text(v) | Value::Path(v) => {
            out.extend((v.len() as u32).to_le_bytes());
            out.extend(v.as_bytes());
            out.push(0);
        }
        Value::Signature(v) => write_signature(out, v),
        Value::Array(element, values) => {
            let at = out.len();
            out.extend([0; 4]);
            // The padding before the first element is there without one too, and is not counted.
            align(out, alignment(element.as_bytes().first().copied().unwrap_or(b'y')));
            let start = out.len();
            values.iter().for_each(|value| write(out, value));
            let len = ((out.len() - start) as u32).to_le_bytes();
            out[at..at + 4].copy_from_slice(&len);
        }
        Value::Struct(fields) => fields.iter().for_each(|field| write(out, field)),
        Value::Variant(inner) => {
            write_signature(out, &inner.signature());
            write(out, inner);
        }
    }
}

fn write_signature(out: &mut Vec<u8>, signature: &str) {
    // No signature that is made here comes near the 255 bytes that are allowed.
    out.push(signature.len() as u8);
    out.extend(signature.as_bytes());
    out.push(0);
}

pub(super) fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, value);
        out
    }

    #[test]
    fn the_specifications_own_example_of_an_array() {
        // "Marshaling (Wire Format)": an array of one INT64 5 has its length, four bytes of
        // padding and the number. (There it is big-endian.)
        let array = Value::Array("x".into(), vec![Value::Int64(5)]);
        assert_eq!(written(&array), [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_specifications_own_example_of_strings() {
        // "foo", "+" and "bar", one after the other.
        let mut out = Vec::new();
        for text in ["foo", "+", "bar"] {
            write(&mut out, &Value::text(text));
        }
        let expected = b"\x03\0\0\0foo\0\x01\0\0\0+\0\0\0\x03\0\0\0bar\0";
        assert_eq!(out, expected);
    }

    #[test]
    fn an_empty_array_of_structs_is_padded_and_counts_nothing() {
        assert_eq!(written(&Value::Array("(ss)".into(), Vec::new())), [0; 8]);
        assert_eq!(written(&Value::Array("s".into(), Vec::new())), [0; 4]);
    }

    /// The bytes are those that jeepney 0.9, another implementation, makes of it.
    #[test]
    fn a_property_is_a_struct_of_a_name_and_a_variant() {
        let property = |name: &str, value| {
            Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value))])
        };
        let list = Value::Array(
            "(sv)".into(),
            vec![
                property("PIDs", Value::Array("u".into(), vec![Value::Uint32(0x0102)])),
                property("Delegate", Value::Bool(true)),
                property("TasksMax", Value::Uint64(u64::MAX)),
            ],
        );
        let expected: &[&[u8]] = &[
            b"\x48\0\0\0\0\0\0\0",
            b"\x04\0\0\0PIDs\0",
            b"\x02au\0\0\0\0",
            b"\x04\0\0\0\x02\x01\0\0",
            b"\x08\0\0\0Delegate\0",
            b"\x01b\0",
            b"\x01\0\0\0",
            b"\0\0\0\0",
            b"\x08\0\0\0TasksMax\0",
            b"\x01t\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        assert_eq!(written(&list), expected.concat());
        assert_eq!(list.signature(), "a(sv)");
    }

    #[test]
    fn every_type_has_its_alignment_and_code() {
        let all = Value::Struct(vec![
            Value::Byte(1),
            Value::Int16(-2),
            Value::Byte(3),
            Value::Int32(-4),
            Value::Byte(5),
            Value::Double(1.5),
            Value::Uint16(6),
            Value::Int64(-7),
            Value::Signature("as".into()),
            Value::Path("/a".into()),
        ]);
        assert_eq!(all.signature(), "(ynyiydqxgo)");
        let expected: &[&[u8]] = &[
            b"\x01\0\xfe\xff\x03\0\0\0",
            b"\xfc\xff\xff\xff\x05\0\0\0",
            b"\0\0\0\0\0\0\xf8\x3f",
            b"\x06\0\0\0\0\0\0\0",
            b"\xf9\xff\xff\xff\xff\xff\xff\xff",
            b"\x02as\0",
            b"\x02\0\0\0/a\0",
        ];
        assert_eq!(written(&all), expected.concat());
    }
}
