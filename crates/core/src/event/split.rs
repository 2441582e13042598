//! Finds where an element ends without understanding it: brackets are counted outside strings.

use super::batch::{BatchError, unsplittable};

/// Returns the position of the comma or closing bracket that ends the element at `start`.
pub(super) fn element_end(text: &[u8], start: usize) -> Result<usize, BatchError> {
    scan(text, start, false)
}

/// Returns the position after the bracket that closes the one at `start`.
pub(super) fn balanced_end(text: &[u8], start: usize) -> Result<usize, BatchError> {
    scan(text, start, true)
}

fn scan(text: &[u8], start: usize, one: bool) -> Result<usize, BatchError> {
    let mut open: Vec<u8> = Vec::new();
    let mut pos = start;
    while let Some(&b) = text.get(pos) {
        match b {
            b'"' => {
                pos = string_after(text, pos)?;
                continue;
            }
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b',' if open.is_empty() => return Ok(pos),
            b'}' | b']' => match open.pop() {
                None => return Ok(pos),
                Some(wanted) if wanted == b => {
                    if one && open.is_empty() {
                        return Ok(pos + 1);
                    }
                }
                Some(wanted) => {
                    let (found, wanted) = (char::from(b), char::from(wanted));
                    return Err(unsplittable(
                        pos,
                        format!("unbalanced brackets: found {found}, expected {wanted}"),
                    ));
                }
            },
            _ => {}
        }
        pos += 1;
    }
    Err(unsplittable(pos, "unbalanced brackets: the text ends inside the batch"))
}

/// Returns the position after the string whose opening quote is at `start`; what is inside is not judged.
fn string_after(text: &[u8], start: usize) -> Result<usize, BatchError> {
    let mut pos = start + 1;
    while let Some(&b) = text.get(pos) {
        match b {
            b'"' => return Ok(pos + 1),
            b'\\' => pos += 2,
            _ => pos += 1,
        }
    }
    Err(unsplittable(start, "string without an end"))
}
