//! placeholder
pub const DEFAULT_COMPRESSION: u32 = 100;
pub struct TDigest;
impl TDigest { pub fn new(_: u32) -> Result<Self, ()> { Ok(Self) } pub fn add(&mut self, _: f64) -> Result<(), ()> { Ok(()) } pub fn to_bytes(self) -> Vec<u8> { vec![] } }
