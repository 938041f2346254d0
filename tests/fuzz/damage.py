"Ways in which a file goes wrong on a disk, on a line, or under somebody's hands"

import random
import re


def flipped(data: bytes, draw: random.Random) -> bytes:
    "A few bytes are others"
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(spoilt))
        spoilt[at] = draw.choice((spoilt[at] ^ 1 << draw.randrange(8), draw.randrange(256)))
    return bytes(spoilt)


def truncated(data: bytes, draw: random.Random) -> bytes:
    "The end is missing"
    return data[: draw.randrange(len(data))]


def spliced(data: bytes, draw: random.Random) -> bytes:
    "A piece stands where another belongs, or is missing, or is there twice"
    size = min(len(data) - 1, draw.choice((1, 4, 16, 256, 4096)))
    here, there = draw.randrange(len(data) - size), draw.randrange(len(data) - size)
    piece = data[there : there + size]
    return data[:here] + draw.choice((piece + data[here + size :], data[here + size :], piece + data[here:]))


def zeroed(data: bytes, draw: random.Random) -> bytes:
    "A run of zeros, as a lost block of a disk leaves"
    size = min(len(data), draw.choice((1, 8, 64, 512, 4096)))
    at = draw.randrange(len(data) - size + 1)
    return data[:at] + bytes(size) + data[at + size :]


def swapped_lines(data: bytes, draw: random.Random) -> bytes:
    "Two lines change places"
    lines = data.split(b"\n")
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def swapped_words(data: bytes, draw: random.Random) -> bytes:
    "Two words, numbers or keys of a text change places"
    words = re.split(rb"([\w.+-]+)", data)
    if len(words) < 5:
        return data + b"x"
    i, j = (2 * draw.randrange(len(words) // 2) + 1 for _ in range(2))
    words[i], words[j] = words[j], words[i]
    return b"".join(words)


BYTES = (flipped, truncated, spliced, zeroed)
TEXT = (*BYTES, swapped_lines, swapped_words)


def damaged(
    data: bytes,
    seed: str,  # The same text gives the same damage
    text: bool = False,  # Lines and words may change places
) -> tuple[str, bytes]:  # What was done, and the damaged copy, which differs from the file
    draw = random.Random(seed)
    while True:
        way = draw.choice(TEXT if text else BYTES)
        if (spoilt := way(data, draw)) != data:
            return way.__name__, spoilt
