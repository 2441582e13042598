"""Proves that distinct-count sketches travel to and from the PyPI package `datasketches`, and back.

    cargo run --release -p tally-core --example hll_images > images.txt
    python travel.py images.txt                     checks images written by this crate
    python travel.py --write datasketches.txt       writes the fixture of tests/hll_travel.rs
"""

import sys

import datasketches as ds

TYPES = {"hll4": ds.tgt_hll_type.HLL_4, "hll6": ds.tgt_hll_type.HLL_6, "hll8": ds.tgt_hll_type.HLL_8}


def value(kind, i):
    return i - 50 if kind == "int" else f"user-{i}-é"


def build(kind, start, end, target="hll4", lgk=11):
    sketch = ds.hll_sketch(lgk, TYPES[target])
    for i in range(start, end):
        sketch.update(value(kind, i))
    return sketch


def union(*sketches, lgk=11):
    merged = ds.hll_union(lgk)
    for sketch in sketches:
        merged.update(sketch)
    return merged.get_result(ds.tgt_hll_type.HLL_4)


def registers(sketch):
    """The order-free part of an image: list and set coupons sorted, dense images without estimator state."""
    image = sketch.serialize_compact()
    mode = image[7] & 3
    if mode == 2:
        packed = 1 << (image[3] - 1)
        exceptions = image[40 + packed :]
        return image[6], image[32:40], image[40 : 40 + packed], sorted(words(exceptions))
    return mode, sorted(words(image[8 if mode == 0 else 12 :]))


def estimate(sketch):
    """The estimate from the registers alone: the out-of-order flag turns off the one from their history."""
    image = bytearray(sketch.serialize_compact())
    if image[7] & 3 == 2:
        image[5] |= 16
    return ds.hll_sketch.deserialize(bytes(image)).get_estimate()


def words(data):
    return [data[i : i + 4] for i in range(0, len(data), 4)]


def check(path):
    checked = 0
    for line in open(path):
        kind, start, end, image = line.split()
        ours, theirs = ds.hll_sketch.deserialize(bytes.fromhex(image)), build(kind, int(start), int(end))
        other = build(kind, int(end) // 2, int(end) + 1000)
        assert registers(ours) == registers(theirs), line[:60]
        assert registers(union(ours, other)) == registers(union(theirs, other)), line[:60]
        assert estimate(union(ours, other)) == estimate(union(theirs, other)), line[:60]
        checked += 1
    print(f"{checked} images read, equal, and merged to equal unions")
    assert checked > 0


def write(path):
    with open(path, "w") as out:
        for kind in ("int", "text"):
            for n in (0, 1, 7, 8, 192, 193, 40_000):
                for target in TYPES if n > 192 else ["hll4"]:
                    sketch = build(kind, 0, n, target)
                    forms = {"compact": sketch.serialize_compact()}
                    if n in (1, 8, 40_000):
                        forms["updatable"] = sketch.serialize_updatable()
                    for form, image in forms.items():
                        print(kind, 0, n, target, form, image.hex(), file=out)
            merged = union(build(kind, 0, 3000), build(kind, 2000, 6000, "hll8"), build(kind, 5990, 6100))
            print(kind, 0, 6100, "union", "compact", merged.serialize_compact().hex(), file=out)
            merged = union(build(kind, 0, 60), build(kind, 50, 110))
            print(kind, 0, 110, "union", "compact", merged.serialize_compact().hex(), file=out)


if __name__ == "__main__":
    write(sys.argv[2]) if sys.argv[1] == "--write" else check(sys.argv[1])
