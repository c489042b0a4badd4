/* The step from one replicated state to the next, chunk by chunk: votes, exact inverse, step. The
   same numbers as exact.py's, bit for bit. Compiled without contraction: a product and a
   difference are rounded one after the other (rule E2). */
#include <math.h>
#include <string.h>

#include "dct.h"

#define MAGNITUDE_MAX 1023 /* 10 bits: then no partial sum reaches 2^24 (rule E15) */
#define SNAP_BELOW 0x1p-64f

/* The lower median (rule E8) of n energies below 2^53. By halves: n is up to 2,048, and their order
   is up to whoever sends them. */
static int64_t find_median(const int64_t *energies, int n) {
    int64_t low = 0, high = 1ll << 53; /* fewer than wanted are below low, enough below high */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        int below = 0;
        for (int p = 0; p < n; p++) below += energies[p] < middle;
        if (below > (n - 1) / 2) high = middle;
        else low = middle;
    }
    return low;
}

/* Shift integers right until magnitudes are at most 1023, as rules E7 and E9 say; then as floats. */
INLINE void shift_chunk(const int32_t *from, float *to) {
    ints most = {};
    for (int i = 0; i < SLOTS; i += LANES)
        most = larger(most, magnitudes(*(const ints *)(from + i)));
    int32_t largest = 0;
    for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
    int bits = largest ? 32 - __builtin_clz(largest) : 0;
    int shift = bits > 10 ? bits - 10 : 0;
    int32_t half = shift ? 1 << (shift - 1) : 0;
    for (int i = 0; i < SLOTS; i += LANES) {
        ints x = *(const ints *)(from + i);
        ints y = (magnitudes(x) + half) >> shift;
        y = pick(y > MAGNITUDE_MAX, (ints){} + MAGNITUDE_MAX, y);
        *(floats *)(to + i) = __builtin_convertvector((y ^ x >> 31) - (x >> 31), floats);
    }
}

/* Rows (y) of B X B^T, not yet compared with 0, of votes [column frequency][row frequency]. */
static void invert(const float *basis, int32_t *votes, float *y) {
    float x[SLOTS];
    shift_chunk(votes, x);
    inverse_rows(basis, x);
    transpose(x, y);
    for (int i = 0; i < SLOTS; i += LANES)
        *(ints *)(votes + i) = __builtin_convertvector(*(floats *)(y + i), ints);
    shift_chunk(votes, y);
    inverse_rows(basis, y);
}

/* after <- before * decay - lr * sign, magnitudes below 2^-64 as +0, chunks [begin, end). Payload p
   has ks[p] slots and signs a chunk, and a scale code; values[256]. Chunk c lies in both states
   from offsets[c] on, its rows pitches[c] apart. `energies`: room for one of each payload. */
void EXPORT(apply)(const float *before, float *after, const int64_t *offsets,
                   const int32_t *pitches, int32_t payloads, const int32_t *ks,
                   const uint16_t *const *slots, const uint8_t *const *negative,
                   const uint8_t *const *codes, const int32_t *values, const float *basis,
                   float lr, float decay, int64_t *energies, int64_t begin, int64_t end) {
    int32_t votes[SLOTS];
    float y[SLOTS];
    for (int64_t c = begin; c < end; c++) {
        memset(votes, 0, sizeof votes);
        for (int p = 0; p < payloads; p++) {
            int64_t value = values[codes[p][c]];
            energies[p] = value * value * ks[p];
        }
        int64_t median = find_median(energies, payloads);
        for (int p = 0; p < payloads; p++) {
            /* Below 2^40 the root is on its side of every integer; beyond it clips nothing. */
            double most = sqrt((double)(median / ks[p]));
            int32_t value = values[codes[p][c]];
            value = value < most ? value : (int32_t)most;
            const uint16_t *slot = slots[p] + c * ks[p];
            const uint8_t *minus = negative[p] + c * ks[p];
            for (int i = 0; i < ks[p]; i++) {
                int32_t sign = -(int32_t)minus[i];
                /* Transposed, so that the first product is one over rows, too. */
                votes[(slot[i] % CHUNK) * CHUNK + slot[i] / CHUNK] += (value ^ sign) - sign;
            }
        }
        for (int p = 0; p < payloads && c + 1 < end; p++) { /* too many streams for the processor */
            __builtin_prefetch(slots[p] + (c + 1) * ks[p]);
            __builtin_prefetch(negative[p] + (c + 1) * ks[p]);
        }
        invert(basis, votes, y);
        for (int row = 0; row < CHUNK; row++) {
            const float *from = before + offsets[c] + row * (int64_t)pitches[c];
            float *to = after + offsets[c] + row * (int64_t)pitches[c];
            for (int v = 0; v < CHUNK; v += LANES) {
                floats update = *(floats *)(y + row * CHUNK + v);
                /* Comparisons give -1 where they hold. */
                floats sign = __builtin_convertvector((update < 0) - (update > 0), floats);
                floats moved = *(const floats *)(from + v) * decay;
                moved -= sign * lr;
                ints bits = (ints)moved & INT32_MAX;
                *(ints *)(to + v) = (ints)moved & ~((floats)bits < SNAP_BELOW);
            }
        }
    }
}
