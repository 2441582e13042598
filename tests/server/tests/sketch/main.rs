//! Sketches from elsewhere, and from strangers.

mod sketch_hostile;
mod sketch_travel;
