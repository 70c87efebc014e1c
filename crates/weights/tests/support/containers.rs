//! The containers, as PyTorch and safetensors write them.

use super::pickle::{Py, pickled};

/// The bytes of a storage by its key.
pub type Stored<'a> = (&'a str, Vec<u8>);

/// One entry of a zip archive, with all that can be lied about.
#[derive(Clone, Debug)]
pub struct ZipEntry {
    pub name: String,
    pub local_name: Option<String>,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// Sizes as the local header has them.
    pub local_size: Option<u32>,
    /// Size as the directory has it.
    pub size: Option<u32>,
    pub offset: Option<u32>,
}

/// A zip archive; entries are aligned to 64 bytes, as PyTorch does.
#[derive(Clone, Debug, Default)]
pub struct Zip {
    pub entries: Vec<ZipEntry>,
    pub count: Option<u16>,
    /// Zip64 records for everything.
    pub zip64: bool,
}

const ALIGNMENT: usize = 64;

impl Zip {
    pub fn add(&mut self, name: &str, data: &[u8]) -> &mut ZipEntry {
        self.entries.push(ZipEntry {
            name: name.into(),
            local_name: None,
            data: data.to_vec(),
            method: 0,
            flags: 0x0800,
            local_size: None,
            size: None,
            offset: None,
        });
        self.entries.last_mut().expect("just added")
    }

    pub fn entry(&mut self, name: &str) -> &mut ZipEntry {
        self.entries.iter_mut().find(|entry| entry.name == name).expect("an entry")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![];
        let mut directory = vec![];
        for entry in &self.entries {
            let at = out.len();
            self.write_entry(entry, &mut out);
            self.write_listing(entry, at, &mut directory);
        }
        let at = out.len();
        out.extend(&directory);
        self.write_end(at, directory.len(), &mut out);
        out
    }

    fn write_entry(&self, entry: &ZipEntry, out: &mut Vec<u8>) {
        let name = entry.local_name.as_ref().unwrap_or(&entry.name);
        let size = entry.local_size.unwrap_or(entry.data.len() as u32);
        out.extend(b"PK\x03\x04");
        [20, entry.flags, entry.method, 0, 0].iter().for_each(|v| out.extend(v.to_le_bytes()));
        [0, size, size].iter().for_each(|v: &u32| out.extend(v.to_le_bytes()));
        let unpadded = out.len() + 4 + name.len() + 4;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        [name.len() as u16, padding as u16 + 4].iter().for_each(|v| out.extend(v.to_le_bytes()));
        out.extend(name.bytes());
        out.extend(b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.extend(std::iter::repeat_n(b'Z', padding));
        out.extend(&entry.data);
        if entry.flags & 8 != 0 {
            out.extend(b"PK\x07\x08");
            [0, entry.data.len() as u32, entry.data.len() as u32].iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
    }

    fn write_listing(&self, entry: &ZipEntry, at: usize, out: &mut Vec<u8>) {
        let size = entry.size.unwrap_or(entry.data.len() as u32);
        let at = entry.offset.unwrap_or(at as u32);
        let mut extra = vec![];
        let (mut shown_size, mut shown_at) = (size, at);
        if self.zip64 {
            extra.extend([1, 0, 24, 0]);
            [size, size, at].iter().for_each(|&v| extra.extend(u64::from(v).to_le_bytes()));
            (shown_size, shown_at) = (u32::MAX, u32::MAX);
        }
        out.extend(b"PK\x01\x02");
        [20, 20, entry.flags, entry.method, 0, 0].iter().for_each(|v: &u16| out.extend(v.to_le_bytes()));
        [0, shown_size, shown_size].iter().for_each(|v| out.extend(v.to_le_bytes()));
        [entry.name.len() as u16, extra.len() as u16, 0, 0, 0].iter().for_each(|v| out.extend(v.to_le_bytes()));
        [0, shown_at].iter().for_each(|v| out.extend(v.to_le_bytes()));
        out.extend(entry.name.bytes());
        out.extend(extra);
    }

    fn write_end(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        let count = self.count.unwrap_or(self.entries.len() as u16);
        if self.zip64 {
            let record = out.len() as u64;
            out.extend(b"PK\x06\x06");
            out.extend(44u64.to_le_bytes());
            out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            [u64::from(count), u64::from(count), len as u64, at as u64].iter().for_each(|v| out.extend(v.to_le_bytes()));
            out.extend(b"PK\x06\x07\0\0\0\0");
            out.extend(record.to_le_bytes());
            out.extend(1u32.to_le_bytes());
        }
        out.extend(b"PK\x05\x06\0\0\0\0");
        [count, count].iter().for_each(|v| out.extend(v.to_le_bytes()));
        [len as u32, at as u32].iter().for_each(|v| out.extend(v.to_le_bytes()));
        out.extend([0, 0]);
    }
}

/// What `torch.save` writes.
pub fn torch_zip(value: &Py, storages: &[Stored]) -> Zip {
    let mut zip = Zip::default();
    zip.add("archive/data.pkl", &pickled(value));
    zip.add("archive/byteorder", b"little");
    for (key, data) in storages {
        zip.add(&format!("archive/data/{key}"), data);
    }
    zip.add("archive/version", b"3\n");
    zip.add("archive/.data/serialization_id", b"0123456789");
    zip
}

/// What `torch.jit.save` writes.
pub fn torch_script(value: &Py, storages: &[Stored]) -> Zip {
    let mut zip = Zip::default();
    for (key, data) in storages {
        zip.add(&format!("model/data/{key}"), data);
    }
    zip.add("model/data.pkl", &pickled(value));
    zip.add("model/code/__torch__/m.py", b"class M(Module):\n  pass\n");
    zip.add("model/constants.pkl", b"\x80\x02).");
    zip.add("model/version", b"4\n");
    for entry in &mut zip.entries {
        // As PyTorch writes them: sizes behind the data.
        entry.flags |= 8;
        entry.local_size = Some(0);
    }
    zip
}

/// What `torch.save` wrote before 1.6; each storage with the bytes of its elements.
pub fn legacy(value: &Py, storages: &[(&str, usize, Vec<u8>)]) -> Vec<u8> {
    let mut out = legacy_head(true);
    out.extend(pickled(value));
    out.extend(pickled(&Py::List(storages.iter().map(|(key, ..)| (*key).into()).collect())));
    for (_, element, data) in storages {
        out.extend(((data.len() / element) as u64).to_le_bytes());
        out.extend(data);
    }
    out
}

/// The magic number, the version and the machine.
pub fn legacy_head(little_endian: bool) -> Vec<u8> {
    let mut out = vec![0x80, 2, 0x8a, 10];
    out.extend(&0x1950_a86a_20f9_469c_fc6cu128.to_le_bytes()[..10]);
    out.push(b'.');
    out.extend(pickled(&Py::Int(1001)));
    let sizes = super::pickle::dict([("short", 2.into()), ("int", 4.into()), ("long", 4.into())]);
    let about = [("protocol_version", 1001.into()), ("little_endian", Py::Bool(little_endian)), ("type_sizes", sizes)];
    out.extend(pickled(&super::pickle::dict(about)));
    out
}

/// A safetensors file of a header and a body.
pub fn safetensors(header: &str, body: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), body].concat()
}
