#include "header.hpp"

namespace oslic::flif {

namespace {

constexpr int kMaxDimension = 1 << 28;
constexpr int kDimensionBytes = 5;
constexpr int kLengthBytes = 9;

class ByteReader {
   public:
    explicit ByteReader(std::span<const uint8_t> file) : file_(file) {}

    uint8_t byte(const char* what) {
        if (position_ == file_.size()) fail(std::string("truncated: the file ends within ") + what);
        return file_[position_++];
    }

    uint64_t varint(int most_bytes, const char* what) {
        uint64_t value = 0;
        for (int i = 0; i < most_bytes; ++i) {
            const uint8_t next = byte(what);
            value = (value << 7) | (next & 0x7f);
            if (next < 0x80) return value;
        }
        fail(std::string("corrupt: ") + what + " is longer than " + std::to_string(most_bytes) + " bytes");
    }

    std::span<const uint8_t> bytes(uint64_t length, const std::string& what) {
        if (length > file_.size() - position_) {
            fail("truncated: " + what + " claims " + std::to_string(length) + " bytes, the file has " +
                 std::to_string(file_.size() - position_) + " left");
        }
        const auto part = file_.subspan(position_, static_cast<size_t>(length));
        position_ += part.size();
        return part;
    }

    size_t position() const { return position_; }

   private:
    std::span<const uint8_t> file_;
    size_t position_ = 0;
};

void write_varint(uint64_t value, std::vector<uint8_t>& out) {
    uint8_t groups[10];
    int n = 0;
    do {
        groups[n++] = static_cast<uint8_t>(value & 0x7f);
        value >>= 7;
    } while (value != 0);
    while (n-- > 0) out.push_back(static_cast<uint8_t>(groups[n] | (n > 0 ? 0x80 : 0)));
}

bool printable(const std::string& name) {
    for (const char c : name) {
        if (c < 32 || c > 126) return false;
    }
    return true;
}

std::vector<Chunk> read_chunks(ByteReader& reader) {
    std::vector<Chunk> chunks;
    for (;;) {
        const uint8_t first = reader.byte("the metadata");
        if (first == 0) return chunks;
        if (first < 32) fail("unsupported: image stream version " + std::to_string(first));
        Chunk chunk;
        chunk.name.push_back(static_cast<char>(first));
        for (int i = 0; i < 3; ++i) chunk.name.push_back(static_cast<char>(reader.byte("a chunk's name")));
        if (!printable(chunk.name)) fail("corrupt: a metadata chunk's name is not ASCII");
        if (first < 'a' || first > 'z') fail("unsupported: critical metadata chunk " + chunk.name);
        chunk.content = reader.bytes(reader.varint(kLengthBytes, "a chunk's length"), "chunk " + chunk.name);
        chunks.push_back(chunk);
    }
}

}  // namespace

Header read_header(std::span<const uint8_t> file, const Limits& limits) {
    ByteReader reader(file);
    for (const char expected : {'F', 'L', 'I', 'F'}) {
        if (reader.byte("the signature") != expected) fail("not a FLIF file: the signature is missing");
    }
    Header header;
    const uint8_t kind = reader.byte("the header");
    const int scan = (kind >> 4) - 2;
    if (scan == 3 || scan == 4) fail("unsupported: animation (only still pictures can be decoded)");
    header.planes = kind & 15;
    if ((scan != 1 && scan != 2) || (header.planes != 1 && header.planes != 3 && header.planes != 4)) {
        fail("corrupt: byte 4 names no kind of picture");
    }
    header.interlaced = scan == 2;
    header.depth = static_cast<char>(reader.byte("the header"));
    if (header.depth < '0' || header.depth > '2') fail("corrupt: byte 5 names no bit depth");
    const uint64_t width = reader.varint(kDimensionBytes, "the width") + 1;
    const uint64_t height = reader.varint(kDimensionBytes, "the height") + 1;
    const std::string size = std::to_string(width) + " x " + std::to_string(height);
    if (width > kMaxDimension || height > kMaxDimension) {
        throw LimitExceeded("the picture claims " + size + " pixels; a side may have " + std::to_string(kMaxDimension));
    }
    if (width * height > limits.max_pixels) {
        throw LimitExceeded("the picture claims " + size + " pixels; the limit is " +
                            std::to_string(limits.max_pixels) + " (max_pixels)");
    }
    header.width = static_cast<int>(width);
    header.height = static_cast<int>(height);
    header.chunks = read_chunks(reader);
    header.stream_offset = reader.position();
    return header;
}

void write_header(const Header& header, std::vector<uint8_t>& out) {
    out.insert(out.end(), {'F', 'L', 'I', 'F'});
    out.push_back(static_cast<uint8_t>((header.interlaced ? 0x40 : 0x30) + header.planes));
    out.push_back(static_cast<uint8_t>(header.depth));
    write_varint(static_cast<uint64_t>(header.width) - 1, out);
    write_varint(static_cast<uint64_t>(header.height) - 1, out);
    for (const Chunk& chunk : header.chunks) {
        out.insert(out.end(), chunk.name.begin(), chunk.name.end());
        write_varint(chunk.content.size(), out);
        out.insert(out.end(), chunk.content.begin(), chunk.content.end());
    }
    out.push_back(0);
}

}  // namespace oslic::flif
