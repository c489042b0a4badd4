/* Payloads between bytes and arrays; the format is protocol/demo_protocol/payload.py's. */
#include <string.h>

#include "lanes.h"

typedef struct {
    const uint8_t *bytes;
    int64_t bit, end; /* next one, and how many there are */
} reader;

/* Up to 57 bits from `bit` on, zeros behind the end. Little-endian machines only: see __init__.py. */
INLINE uint64_t peek(const reader *in) {
    int64_t at = in->bit / 8, left = in->end / 8 - at;
    uint64_t word = 0;
    if (left >= 8) memcpy(&word, in->bytes + at, 8);
    else if (left > 0) memcpy(&word, in->bytes + at, left);
    return word >> in->bit % 8;
}

/* Zeros until a one, at most `most`; more, or the end: -1. */
INLINE int64_t read_unary(reader *in, int64_t most) {
    uint64_t word = peek(in);
    int64_t zeros = 0;
    while (__builtin_expect(!word, 0)) {
        int64_t skipped = 64 - in->bit % 8;
        zeros += skipped, in->bit += skipped;
        if (zeros > most || in->bit >= in->end) return -1;
        word = peek(in);
    }
    int more = __builtin_ctzll(word);
    in->bit += more + 1;
    zeros += more;
    return zeros > most ? -1 : zeros;
}

/* Arrays of a payload of known k and possible length, sections [fixed, unary, end) of `raw`. What
   is wrong: 0 nothing, 1 codes, 2 a scale, 3 a slot, 4 spare bits. */
int32_t EXPORT(unpack)(const uint8_t *raw, int64_t fixed_at, int64_t unary_at, int64_t end_at,
                       int64_t chunks, int32_t k, int32_t r, uint16_t *slots, uint8_t *negative,
                       uint8_t *codes) {
    reader fixed = {raw + fixed_at, 0, 8 * (unary_at - fixed_at)};
    reader unary = {raw + unary_at, 0, 8 * (end_at - unary_at)};
    const uint64_t low_bits = (1ull << r) - 1;
    const int64_t most = SLOTS >> r;
    uint8_t code = 128;
    for (int64_t c = 0; c < chunks; c++) {
        int64_t rest = read_unary(&unary, 8 * (end_at - unary_at));
        if (rest < 0) return 1;
        if (rest > 127) return 2;
        uint32_t folded = rest << 1 | (peek(&fixed) & 1);
        fixed.bit++;
        code += folded >> 1 ^ -(folded & 1);
        codes[c] = code;
        int64_t slot = -1;
        for (int32_t i = 0; i < k; i++) {
            int64_t quotient = read_unary(&unary, most);
            if (quotient < 0) return unary.bit >= unary.end ? 1 : 3;
            uint64_t word = peek(&fixed);
            fixed.bit += 1 + r;
            slot += 1 + (quotient << r | (int64_t)(word >> 1 & low_bits));
            if (slot >= SLOTS) return 3;
            *slots++ = slot;
            *negative++ = word & 1;
        }
    }
    /* Not a byte, and no one, behind the last code; nothing in the spare bits. */
    if (unary.end - unary.bit >= 8 || peek(&unary)) return 1;
    if (fixed.bit < fixed.end && peek(&fixed)) return 4;
    return 0;
}

typedef struct {
    uint8_t *bytes;
    uint64_t word;
    int used;
} writer;

/* Lowest bits first; count <= 32. Whole words are written where they belong. */
INLINE void put(writer *out, uint64_t bits, int count) {
    out->word |= bits << out->used;
    out->used += count;
    while (out->used >= 8) *out->bytes++ = out->word, out->word >>= 8, out->used -= 8;
}

INLINE void put_unary(writer *out, int zeros) {
    for (; zeros >= 32; zeros -= 32) put(out, 0, 32);
    put(out, 1ull << zeros, zeros + 1);
}

INLINE uint8_t *finish(writer *out) {
    if (out->used) *out->bytes++ = out->word;
    return out->bytes;
}

/* Bytes of both sections from `fixed_at` and `unary_at` on; returns where they end, or -1 where
   slots do not ascend. */
int64_t EXPORT(pack)(const uint16_t *slots, const uint8_t *negative, const uint8_t *codes,
                     int64_t chunks, int32_t k, int32_t r, uint8_t *raw, int64_t fixed_at,
                     int64_t unary_at) {
    writer fixed = {raw + fixed_at, 0, 0}, unary = {raw + unary_at, 0, 0};
    const uint32_t low_bits = (1u << r) - 1;
    uint8_t before = 128;
    for (int64_t c = 0; c < chunks; c++) {
        int32_t step = (int8_t)(codes[c] - before);
        before = codes[c];
        uint8_t folded = (uint32_t)step << 1 ^ step >> 31;
        put(&fixed, folded & 1, 1);
        put_unary(&unary, folded >> 1);
        int32_t last = -1;
        for (int32_t i = 0; i < k; i++) {
            if (*slots <= last || *slots >= SLOTS) return -1;
            uint32_t gap = *slots - last - 1;
            last = *slots++;
            put(&fixed, (uint64_t)(gap & low_bits) << 1 | *negative++, 1 + r);
            put_unary(&unary, gap >> r);
        }
    }
    finish(&fixed);
    return finish(&unary) - raw;
}
