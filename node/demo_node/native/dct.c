/* A DCT by its symmetry: cosine f of position 63 - i is that of i, negated where f is odd. So even
   frequencies need the sums of mirrored positions only, odd ones the differences, and the even half
   is a transform of half the length with the same symmetry. Six levels need 1,366 products a column
   instead of 4,096. The entries are those of the given basis: with an integer basis every product
   and partial sum is one of the dense product's (rule E15), so the outcome is the same integers. */
#include "dct.h"

#include <string.h>

/* Outputs and vectors that one pass over the inputs accumulates in registers. */
#if LANES == 16
#define AT_ONCE 8
#define WIDE 2
#else
#define AT_ONCE 4
#define WIDE 2
#endif

/* to[j] (+)= sum over i of entry(i, j) * from[i], rows `stride` apart in `to` or `from`.
   forward: entry(i, j) = m[i][j]; inverse: m[j][i]. */
INLINE void multiply(const float *m, int half, int by_row, int by_column, const float *from,
                     int from_stride, float *to, int to_stride) {
    const int at_once = half < AT_ONCE ? half : AT_ONCE;
    for (int first = 0; first < half; first += at_once)
        for (int v = 0; v < VECTORS; v += WIDE) {
            floats sums[AT_ONCE][WIDE] = {};
            for (int i = 0; i < half; i++) {
                floats x[WIDE];
                for (int w = 0; w < WIDE; w++)
                    x[w] = *(const floats *)(from + i * from_stride + (v + w) * LANES);
                for (int j = 0; j < at_once; j++) {
                    float entry = m[i * by_row + (first + j) * by_column];
                    for (int w = 0; w < WIDE; w++) sums[j][w] += entry * x[w];
                }
            }
            for (int j = 0; j < at_once; j++)
                for (int w = 0; w < WIDE; w++)
                    *(floats *)(to + (first + j) * to_stride + (v + w) * LANES) = sums[j][w];
        }
}

/* One level, `half` numbers on either side of the mirror; what is left for the next are the sums. */
INLINE void forward_level(const float *m, int half, float *x, float *out) {
    float differences[CHUNK / 2 * CHUNK];
    const int step = CHUNK / 2 / half;
    for (int i = 0; i < half; i++)
        for (int v = 0; v < CHUNK; v += LANES) {
            floats *low = (floats *)(x + i * CHUNK + v);
            floats high = *(floats *)(x + (2 * half - 1 - i) * CHUNK + v);
            *(floats *)(differences + i * CHUNK + v) = *low - high;
            *low += high;
        }
    multiply(m, half, half, 1, differences, CHUNK, out + step * CHUNK, 2 * step * CHUNK);
}

void forward_rows(const float *entries, float x[SLOTS]) {
    float out[SLOTS];
    forward_level(entries, 32, x, out), entries += 32 * 32;
    forward_level(entries, 16, x, out), entries += 16 * 16;
    forward_level(entries, 8, x, out), entries += 8 * 8;
    forward_level(entries, 4, x, out), entries += 4 * 4;
    forward_level(entries, 2, x, out), entries += 2 * 2;
    forward_level(entries, 1, x, out), entries += 1;
    for (int v = 0; v < CHUNK; v += LANES)
        *(floats *)(out + v) = *entries * *(floats *)(x + v);
    memcpy(x, out, sizeof out);
}

/* The other way: `to` holds the even half's numbers, [0, half), and gets all, [0, 2 half). */
INLINE void inverse_level(const float *m, int half, const float *x, float *to) {
    float odds[CHUNK / 2 * CHUNK];
    const int step = CHUNK / 2 / half;
    multiply(m, half, 1, half, x + step * CHUNK, 2 * step * CHUNK, odds, CHUNK);
    for (int i = 0; i < half; i++)
        for (int v = 0; v < CHUNK; v += LANES) {
            floats *low = (floats *)(to + i * CHUNK + v);
            floats odd = *(floats *)(odds + i * CHUNK + v);
            *(floats *)(to + (2 * half - 1 - i) * CHUNK + v) = *low - odd;
            *low += odd;
        }
}

void inverse_rows(const float *entries, float x[SLOTS]) {
    float to[SLOTS];
    entries += ENTRIES - 1;
    for (int v = 0; v < CHUNK; v += LANES)
        *(floats *)(to + v) = *entries * *(floats *)(x + v);
    entries -= 1, inverse_level(entries, 1, x, to);
    entries -= 2 * 2, inverse_level(entries, 2, x, to);
    entries -= 4 * 4, inverse_level(entries, 4, x, to);
    entries -= 8 * 8, inverse_level(entries, 8, x, to);
    entries -= 16 * 16, inverse_level(entries, 16, x, to);
    entries -= 32 * 32, inverse_level(entries, 32, x, to);
    memcpy(x, to, sizeof to);
}

/* Lane c is number which[c] of those of `a`, then of `b`. Constant once the loops are unrolled. */
INLINE floats shuffle(floats a, floats b, ints which) {
#if defined(__clang__)
    floats mixed;
    for (int c = 0; c < LANES; c++)
        mixed[c] = which[c] < LANES ? a[which[c]] : b[which[c] - LANES];
    return mixed;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

/* Exchange the blocks of `size` beside the diagonal of a square of LANES x LANES. */
INLINE void exchange(floats rows[LANES], int size) {
    ints low, high;
    for (int c = 0; c < LANES; c++) {
        low[c] = c & size ? LANES + c - size : c;
        high[c] = c & size ? LANES + c : c + size;
    }
    for (int i = 0; i < LANES; i++)
        if (!(i & size)) {
            floats a = rows[i], b = rows[i + size];
            rows[i] = shuffle(a, b, low);
            rows[i + size] = shuffle(a, b, high);
        }
}

void transpose(const float from[SLOTS], float to[SLOTS]) {
    for (int down = 0; down < CHUNK; down += LANES)
        for (int across = 0; across < CHUNK; across += LANES) {
            floats rows[LANES];
            for (int i = 0; i < LANES; i++)
                rows[i] = *(const floats *)(from + (down + i) * CHUNK + across);
            exchange(rows, 1), exchange(rows, 2);
            if (LANES > 4) exchange(rows, 4);
            if (LANES > 8) exchange(rows, 8);
            for (int i = 0; i < LANES; i++)
                *(floats *)(to + (across + i) * CHUNK + down) = rows[i];
        }
}
