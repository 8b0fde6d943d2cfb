// Robustness of the FLIF decoder and encoder: replays files, or mutates them.
//
//   flif_fuzz EXECUTIONS SEED FILE...    mutates the files EXECUTIONS times; 0: only replays them
//
// With -DOSLIC_LIBFUZZER it is a libFuzzer target instead. Any outcome but a picture or flif::Error is a failure: other
// exceptions, more than kSeconds and more memory than the sanitizer's limit end the program. What decodes is encoded
// again and must come back exactly.
//
// Damage nearly always ends in a wrong checksum, or in a stream that is too short or too long, and so hides what it does
// before. Seven mutations of eight are therefore padded and decoded without the checks of the end; the eighth is a file
// as any caller would give it.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "decoder.hpp"
#include "encoder.hpp"
#include "error.hpp"

namespace flif = oslic::flif;

namespace {

constexpr flif::Limits kLimits{1 << 16};
constexpr size_t kReencodedPixels = 1 << 10;
constexpr unsigned kSeconds = 5;

struct Picture {
    flif::PixelSource source;
    std::vector<uint8_t> samples;
};

Picture decode(std::span<const uint8_t> file, flif::Ending ending = flif::Ending::checked) {
    Picture picture;
    flif::decode(file, kLimits, [&](const flif::Info& info) {
        picture.source.wide = info.stream.maximum > 255;
        picture.source.width = info.header.width;
        picture.source.height = info.header.height;
        picture.source.channels = info.header.planes;
        const size_t samples = static_cast<size_t>(info.header.width) * static_cast<size_t>(info.header.height) *
                               static_cast<size_t>(info.header.planes);
        picture.samples.resize(samples * (picture.source.wide ? 2 : 1));
        return flif::PixelSink{picture.samples.data(), picture.source.wide};
    }, ending);
    return picture;
}

// Returns whether the file was a picture.
bool execute(std::span<const uint8_t> file, flif::Ending ending) {
    try {
        Picture picture = decode(file, ending);
        picture.source.data = picture.samples.data();
        const size_t pixels = static_cast<size_t>(picture.source.width) * static_cast<size_t>(picture.source.height);
        if (pixels > kReencodedPixels) return true;
        flif::EncoderOptions options;
        options.interlaced = file.size() % 2 == 1;
        options.effort = static_cast<int>(file.size() % 70);
        const std::vector<uint8_t> again = flif::encode(picture.source, options);
        if (decode(again).samples != picture.samples) {
            std::fputs("an encoded picture did not come back\n", stderr);
            std::abort();
        }
        return true;
    } catch (const flif::Error&) {
        return false;
    }
}

}  // namespace

// The limits of memory: the most that the largest allowed picture may take, with room for the sanitizer's own.
extern "C" const char* __asan_default_options() {
    return "hard_rss_limit_mb=512:max_allocation_size_mb=256:quarantine_size_mb=16";
}

#ifdef OSLIC_LIBFUZZER

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    execute({data, size}, size % 8 == 0 ? flif::Ending::checked : flif::Ending::ignored);
    return 0;
}

#else

namespace {

using Bytes = std::vector<uint8_t>;

class Mutator {
   public:
    Mutator(const std::vector<Bytes>& corpus, uint64_t seed) : corpus_(corpus), random_(seed) {}

    struct Input {
        Bytes file;
        flif::Ending ending;
    };

    Input next() {
        Input input{corpus_[below(corpus_.size())], below(8) == 0 ? flif::Ending::checked : flif::Ending::ignored};
        for (size_t changes = 1 + below(6); changes > 0 && !input.file.empty(); --changes) mutate(input.file);
        if (input.ending == flif::Ending::ignored) pad(input.file);
        return input;
    }

   private:
    size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

    // Headers and trees lie in front: half of the changes go there.
    size_t place(const Bytes& file) { return below(below(2) == 0 ? std::min<size_t>(file.size(), 48) : file.size()); }

    void mutate(Bytes& file) {
        const size_t at = place(file);
        const auto begin = file.begin() + static_cast<std::ptrdiff_t>(at);
        switch (below(6)) {
            case 0: file[at] = static_cast<uint8_t>(file[at] ^ (1u << below(8))); break;
            case 1: file[at] = static_cast<uint8_t>(below(256)); break;
            case 2: file.resize(at); break;
            case 3: file.erase(begin, begin + static_cast<std::ptrdiff_t>(1 + below(std::min<size_t>(8, file.size() - at)))); break;
            case 4: file.insert(begin, 1 + below(8), static_cast<uint8_t>(below(2) * 255)); break;
            default: {  // the end of another file
                const Bytes& other = corpus_[below(corpus_.size())];
                const size_t from = below(other.size());
                file.resize(at);
                file.insert(file.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
            }
        }
    }

    // So much that a damaged stream runs into its end rarely.
    void pad(Bytes& file) {
        const size_t end = file.size();
        file.resize(end + kPadding);
        for (size_t i = end; i < file.size(); ++i) file[i] = static_cast<uint8_t>(random_());
    }

    static constexpr size_t kPadding = 1 << 13;

    const std::vector<Bytes>& corpus_;
    std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::fputs("usage: flif_fuzz EXECUTIONS SEED FILE...\n", stderr);
        return 2;
    }
    const long executions = std::strtol(argv[1], nullptr, 10);
    std::vector<Bytes> corpus;
    long pictures = 0;
    for (int i = 3; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        if (!file) {
            std::fprintf(stderr, "cannot read %s\n", argv[i]);
            return 2;
        }
        corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        pictures += execute(corpus.back(), flif::Ending::checked) ? 1 : 0;
    }
    std::printf("replayed %zu files: %ld pictures\n", corpus.size(), pictures);
    std::erase_if(corpus, [](const Bytes& file) { return file.empty(); });
    Mutator mutator(corpus, std::strtoull(argv[2], nullptr, 10));
    pictures = 0;
    std::chrono::duration<double, std::milli> slowest{0};
    for (long i = 0; i < executions; ++i) {
        const auto [file, ending] = mutator.next();
        // What was running when the program ended.
        if (const char* last = std::getenv("FUZZ_LAST")) {
            std::ofstream(last, std::ios::binary).write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
        }
        alarm(kSeconds);
        const auto start = std::chrono::steady_clock::now();
        pictures += execute(file, ending) ? 1 : 0;
        slowest = std::max<decltype(slowest)>(slowest, std::chrono::steady_clock::now() - start);
    }
    alarm(0);
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf("executed %ld mutations: %ld pictures, slowest %.1f ms, peak %ld kB\n", executions, pictures,
                slowest.count(), usage.ru_maxrss);
    return 0;
}

#endif
