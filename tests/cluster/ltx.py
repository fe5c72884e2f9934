"""Pages of an LTX file (lib/ltx.h describes the format), read by other code than that which wrote it."""
import struct


def lz4_block(data, size):
    """Decompresses one LZ4 block (LZ4 Block Format Description) of at most `size` bytes."""
    out, at = bytearray(), 0

    def more(length):
        nonlocal at
        if length == 15:
            while True:
                byte = data[at]
                at += 1
                length += byte
                if byte != 255:
                    break
        return length

    while at < len(data):
        token = data[at]
        at += 1
        literals = more(token >> 4)
        out += data[at:at + literals]
        at += literals
        if at >= len(data):
            break
        offset = data[at] | data[at + 1] << 8
        at += 2
        length = more(token & 15) + 4
        start = len(out) - offset
        if offset == 0 or start < 0 or len(out) + length > size:
            raise ValueError("not an LZ4 block")
        for i in range(length):
            out.append(out[start + i])
    return bytes(out)


def pages(data):
    """{page number: bytes}"""
    if data[:4] != b"LTX1":
        raise ValueError("not an LTX file")
    (page_size,) = struct.unpack_from(">I", data, 8)
    found, at = {}, 100
    while True:
        number, flags = struct.unpack_from(">IH", data, at)
        if not number:
            return found
        (size,) = struct.unpack_from(">I", data, at + 6)
        if flags != 1:
            raise ValueError(f"flags {flags} of page {number}")
        page = lz4_block(data[at + 10:at + 10 + size], page_size)
        if len(page) != page_size:
            raise ValueError(f"page {number} has {len(page)} bytes")
        found[number] = page
        at += 10 + size
