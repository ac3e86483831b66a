//! Reading the running kernel's type information (BTF): where members lie, what tracepoints take.
//!
//! The programs cannot carry relocations (Rust has no CO-RE), so user space looks every offset up
//! here and writes it into their `.rodata`. One pass over the types keeps the names that are asked
//! for; the whole is dropped once the programs are loaded.
//!
//! Layout as in the kernel's `Documentation/bpf/btf.rst`: a header, the type section (each type
//! twelve bytes and what its kind adds), the string section. All sizes come from the file and are
//! checked; a file that lies yields an error, never a panic.

use std::collections::BTreeMap;

/// Why a BTF blob is of no use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    #[error("not BTF of this machine's byte order")]
    Magic,
    #[error("the BTF ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("the BTF has a type of unknown kind {0}")]
    UnknownKind(u32),
    #[error("the kernel has no '{0}'")]
    NoType(String),
    #[error("the kernel's '{0}' has no member '{1}'")]
    NoMember(String, String),
}

const MAGIC: u16 = 0xeb9f;

const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_CONST: u32 = 10;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_ENUM64: u32 = 19;

/// Types nested deeper than this are not followed: anonymous members, chains of qualifiers.
const MAX_DEPTH: u32 = 16;
/// Members that one look-up goes through at most. Anonymous members of a blob that lies may branch at
/// each level; `task_struct` has some 300.
const MAX_MEMBERS: u32 = 100_000;

/// A parsed blob.
#[derive(Debug)]
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Start of each type in `types`; index 0 is `void` and has none.
    starts: Vec<u32>,
    /// Ids by name, of structs, enums and typedefs.
    by_name: BTreeMap<Box<[u8]>, Vec<u32>>,
}

/// One type record.
#[derive(Debug, Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    flag: bool,
    /// `size` or `type`, by kind.
    link: u32,
    extra: &'a [u8],
}

/// One parameter of a tracepoint, as far as the programs care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Param {
    /// Pointer to a struct of this name.
    Struct(String),
    /// Any other pointer.
    Pointer,
    /// An integer, enum or bool.
    Scalar,
}

impl Btf {
    /// Parses `data`, keeping the names for which `wanted` is true.
    ///
    /// # Errors
    ///
    /// [`BtfError`] where the blob is not BTF or contradicts itself.
    pub fn parse(data: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Result<Self, BtfError> {
        if data.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Magic);
        }
        let header = |at| u32_at(data, at).ok_or(BtfError::Truncated("the header"));
        let base = index(header(4)?);
        let section = |offset: u32, len: u32, what| {
            base.checked_add(index(offset))
                .and_then(|start| Some(start..start.checked_add(index(len))?))
                .and_then(|range| data.get(range))
                .ok_or(BtfError::Truncated(what))
        };
        let types = section(header(8)?, header(12)?, "the type section")?;
        let strings = section(header(16)?, header(20)?, "the string section")?;

        let mut starts = vec![0];
        let mut by_name: BTreeMap<Box<[u8]>, Vec<u32>> = BTreeMap::new();
        let mut at = 0;
        while at < types.len() {
            let (found, len) = read_type(types, at)?;
            let name = string_at(strings, found.name);
            let id = u32::try_from(starts.len()).unwrap_or(u32::MAX);
            if matches!(
                found.kind,
                KIND_STRUCT | KIND_ENUM | KIND_TYPEDEF | KIND_ENUM64
            ) && !name.is_empty()
                && wanted(name)
            {
                by_name.entry(name.into()).or_default().push(id);
            }
            starts.push(u32::try_from(at).unwrap_or(u32::MAX));
            at += len;
        }
        Ok(Self {
            types: types.to_vec(),
            strings: strings.to_vec(),
            starts,
            by_name,
        })
    }

    /// Offset in bytes of `member` in `struct name`; the member may lie in anonymous structs and
    /// unions.
    ///
    /// # Errors
    ///
    /// [`BtfError::NoType`] or [`BtfError::NoMember`].
    pub fn member_offset(&self, name: &str, member: &str) -> Result<u32, BtfError> {
        let ids = self.ids(name)?;
        let mut left = MAX_MEMBERS;
        ids.iter()
            .find_map(|id| self.find_member(*id, member.as_bytes(), 0, &mut left))
            .map(|bits| bits / 8)
            .ok_or_else(|| BtfError::NoMember(name.to_owned(), member.to_owned()))
    }

    /// Size in bytes of `struct name`.
    ///
    /// # Errors
    ///
    /// [`BtfError::NoType`].
    pub fn struct_size(&self, name: &str) -> Result<u32, BtfError> {
        self.ids(name)?
            .iter()
            .filter_map(|id| self.type_of(*id))
            .find(|found| found.kind == KIND_STRUCT)
            .map(|found| found.link)
            .ok_or_else(|| BtfError::NoType(name.to_owned()))
    }

    /// Value of `enumerator` in `enum name`.
    ///
    /// # Errors
    ///
    /// [`BtfError::NoType`] or [`BtfError::NoMember`].
    pub fn enum_value(&self, name: &str, enumerator: &str) -> Result<u32, BtfError> {
        for id in self.ids(name)? {
            let Some(found) = self.type_of(*id) else {
                continue;
            };
            let size = match found.kind {
                KIND_ENUM => 8,
                KIND_ENUM64 => 12,
                _ => continue,
            };
            for entry in found.extra.chunks_exact(size) {
                let (Some(name), Some(value)) = (u32_at(entry, 0), u32_at(entry, 4)) else {
                    continue;
                };
                if string_at(&self.strings, name) == enumerator.as_bytes() {
                    return Ok(value);
                }
            }
        }
        Err(BtfError::NoMember(name.to_owned(), enumerator.to_owned()))
    }

    /// Parameters of tracepoint `hook`, from the typedef `btf_trace_<hook>` that the kernel makes
    /// for each, without its leading `void *__data`.
    ///
    /// # Errors
    ///
    /// [`BtfError::NoType`] where the kernel has no such tracepoint.
    pub fn tracepoint(&self, hook: &str) -> Result<Vec<Param>, BtfError> {
        let name = format!("btf_trace_{hook}");
        let none = || BtfError::NoType(format!("tracepoint {hook}"));
        let typedef = self.ids(&name).ok().and_then(|ids| ids.first().copied());
        let proto = typedef
            .and_then(|id| self.resolve(id))
            .filter(|found| found.kind == KIND_PTR)
            .and_then(|pointer| self.resolve(pointer.link))
            .filter(|found| found.kind == KIND_FUNC_PROTO)
            .ok_or_else(none)?;
        Ok(proto
            .extra
            .chunks_exact(8)
            .skip(1)
            .map(|param| self.param(u32_at(param, 4).unwrap_or(0)))
            .collect())
    }

    fn param(&self, id: u32) -> Param {
        let Some(found) = self.resolve(id) else {
            return Param::Scalar;
        };
        if found.kind != KIND_PTR {
            return Param::Scalar;
        }
        match self.resolve(found.link) {
            Some(target) if target.kind == KIND_STRUCT => Param::Struct(
                String::from_utf8_lossy(string_at(&self.strings, target.name)).into_owned(),
            ),
            _ => Param::Pointer,
        }
    }

    fn ids(&self, name: &str) -> Result<&[u32], BtfError> {
        self.by_name
            .get(name.as_bytes())
            .map(Vec::as_slice)
            .ok_or_else(|| BtfError::NoType(name.to_owned()))
    }

    fn type_of(&self, id: u32) -> Option<Type<'_>> {
        if id == 0 {
            return None;
        }
        let start = self.starts.get(index(id))?;
        read_type(&self.types, index(*start)).ok().map(|(t, _)| t)
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type<'_>> {
        for _ in 0..MAX_DEPTH {
            let found = self.type_of(id)?;
            match found.kind {
                // typedef, volatile, const, restrict, type_tag
                KIND_TYPEDEF | 9 | KIND_CONST | 11 | 18 => id = found.link,
                _ => return Some(found),
            }
        }
        None
    }

    /// Offset in bits of a member, searched through anonymous members too.
    fn find_member(&self, id: u32, member: &[u8], depth: u32, left: &mut u32) -> Option<u32> {
        let found = self.resolve(id)?;
        if depth > MAX_DEPTH || !matches!(found.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for entry in found.extra.chunks_exact(12) {
            *left = left.checked_sub(1)?;
            let name = string_at(&self.strings, u32_at(entry, 0)?);
            let raw = u32_at(entry, 8)?;
            // With the kind flag the upper eight bits are the width of a bit field.
            let bits = if found.flag { raw & 0x00ff_ffff } else { raw };
            if name == member {
                return Some(bits);
            }
            if name.is_empty()
                && let Some(inner) = self.find_member(u32_at(entry, 4)?, member, depth + 1, left)
            {
                return bits.checked_add(inner);
            }
        }
        None
    }
}

/// The type at `at`, and the length of its record.
fn read_type(types: &[u8], at: usize) -> Result<(Type<'_>, usize), BtfError> {
    const FIXED: usize = 12;
    let truncated = BtfError::Truncated("a type");
    let field = |offset| {
        at.checked_add(offset)
            .and_then(|start| u32_at(types, start))
    };
    let (Some(name), Some(info), Some(link)) = (field(0), field(4), field(8)) else {
        return Err(truncated);
    };
    let vlen = index(info & 0xffff);
    let kind = (info >> 24) & 0x1f;
    let extra_len = match kind {
        // int, var, decl_tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // struct, union, datasec, enum64
        KIND_STRUCT | KIND_UNION | 15 | KIND_ENUM64 => vlen * 12,
        KIND_ENUM | KIND_FUNC_PROTO => vlen * 8,
        // ptr, fwd, typedef, volatile, const, restrict, func, float, type_tag
        KIND_PTR | 7..=12 | 16 | 18 => 0,
        other => return Err(BtfError::UnknownKind(other)),
    };
    let start = at + FIXED;
    let extra = start
        .checked_add(extra_len)
        .and_then(|end| types.get(start..end))
        .ok_or(truncated)?;
    let found = Type {
        name,
        kind,
        flag: info >> 31 != 0,
        link,
        extra,
    };
    Ok((found, FIXED + extra_len))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// The NUL-terminated string at `at`; empty where there is none.
fn string_at(strings: &[u8], at: u32) -> &[u8] {
    let rest = strings.get(index(at)..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A 32-bit offset as an index; no supported target has a smaller `usize`.
const fn index(value: u32) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a blob type by type.
    #[derive(Default)]
    struct Build {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Build {
        fn word(&mut self, word: u32) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }

        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let at = u32::try_from(self.strings.len()).expect("small");
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        }

        /// `members` are name, type and offset in bits.
        fn structure(mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) -> Self {
            let name = self.name(name);
            let vlen = u32::try_from(members.len()).expect("small");
            for word in [name, kind << 24 | vlen, 64] {
                self.word(word);
            }
            for (member, id, bits) in members {
                let member = self.name(member);
                for word in [member, *id, *bits] {
                    self.word(word);
                }
            }
            self
        }

        fn link(mut self, kind: u32, name: &str, to: u32) -> Self {
            let name = self.name(name);
            for word in [name, kind << 24, to] {
                self.word(word);
            }
            self
        }

        fn proto(mut self, params: &[u32]) -> Self {
            let vlen = u32::try_from(params.len()).expect("small");
            for word in [0, KIND_FUNC_PROTO << 24 | vlen, 0] {
                self.word(word);
            }
            for param in params {
                self.word(0);
                self.word(*param);
            }
            self
        }

        fn blob(&self) -> Vec<u8> {
            let mut blob = MAGIC.to_ne_bytes().to_vec();
            blob.extend_from_slice(&[1, 0]);
            let len = |part: &[u8]| u32::try_from(part.len()).expect("small");
            for word in [
                24,
                0,
                len(&self.types),
                len(&self.types),
                len(&self.strings),
            ] {
                blob.extend_from_slice(&word.to_ne_bytes());
            }
            blob.extend_from_slice(&self.types);
            blob.extend_from_slice(&self.strings);
            blob
        }
    }

    /// 1: union with `inner`; 2: task with an anonymous 1; 3: pointer to 2; 4: prototype; 5: pointer
    /// to it; 6: the tracepoint's typedef.
    fn sample() -> Vec<u8> {
        Build::default()
            .structure(KIND_UNION, "", &[("inner", 0, 32)])
            .structure(KIND_STRUCT, "task_struct", &[("pid", 0, 64), ("", 1, 128)])
            .link(KIND_PTR, "", 2)
            .proto(&[0, 3, 0])
            .link(KIND_PTR, "", 4)
            .link(KIND_TYPEDEF, "btf_trace_thing", 5)
            .blob()
    }

    #[test]
    fn members_are_found_through_anonymous_ones() {
        let btf = Btf::parse(&sample(), |_| true).expect("good");
        assert_eq!(btf.member_offset("task_struct", "pid"), Ok(8));
        assert_eq!(btf.member_offset("task_struct", "inner"), Ok(20));
        assert_eq!(btf.struct_size("task_struct"), Ok(64));
        assert_eq!(
            btf.member_offset("task_struct", "none"),
            Err(BtfError::NoMember("task_struct".into(), "none".into()))
        );
        assert_eq!(
            btf.member_offset("none", "pid"),
            Err(BtfError::NoType("none".into()))
        );
    }

    #[test]
    fn tracepoints_are_read_without_their_context() {
        let btf = Btf::parse(&sample(), |_| true).expect("good");
        let task = Param::Struct("task_struct".to_owned());
        assert_eq!(btf.tracepoint("thing"), Ok(vec![task, Param::Scalar]));
        assert!(btf.tracepoint("other").is_err());
    }

    #[test]
    fn a_damaged_blob_is_an_error_and_nothing_worse() {
        let good = sample();
        for len in 0..good.len() {
            assert!(Btf::parse(&good[..len], |_| true).is_err(), "cut at {len}");
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(btf) = Btf::parse(&bad, |_| true) {
                    drop(btf.member_offset("task_struct", "inner"));
                    drop(btf.tracepoint("thing"));
                }
            }
        }
    }

    #[test]
    fn a_type_that_contains_itself_ends() {
        let blob = Build::default()
            .structure(KIND_STRUCT, "loop", &[("", 1, 0)])
            .link(KIND_TYPEDEF, "self", 2)
            .blob();
        let btf = Btf::parse(&blob, |_| true).expect("good");
        assert!(btf.member_offset("loop", "x").is_err());
        assert!(btf.member_offset("self", "x").is_err());
        // Many anonymous members of itself: as many ways as 64 to the power of the depth.
        let blob = Build::default()
            .structure(KIND_STRUCT, "loop", &[("", 1, 0); 64])
            .blob();
        let btf = Btf::parse(&blob, |_| true).expect("good");
        assert!(btf.member_offset("loop", "x").is_err());
    }

    #[test]
    fn this_kernel_has_all_that_is_needed() {
        let blob = std::fs::read(crate::kernel::load::VMLINUX_BTF).expect("a kernel with BTF");
        let btf = Btf::parse(&blob, crate::kernel::needs::is_needed).expect("the kernel's BTF");
        crate::kernel::needs::resolve(&btf).expect("all members");
    }
}
