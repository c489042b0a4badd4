/* What a node sends: a delta into the residual, and the largest coefficients out of it (T1, T3). */
#include <math.h>
#include <string.h>

#include "dct.h"

/* residual <- beta * residual + DCT(delta), chunks [begin, end). Chunk c lies in `delta` from
   offsets[c] on, its rows pitches[c] apart. */
void EXPORT(accumulate)(const float *delta, const int64_t *offsets, const int32_t *pitches,
                        float *residual, float beta, const float *basis, int64_t begin, int64_t end) {
    float x[SLOTS], y[SLOTS];
    for (int64_t c = begin; c < end; c++) {
        const float *from = delta + offsets[c];
        float *to = residual + c * SLOTS;
        for (int row = 0; row < CHUNK; row++)
            memcpy(x + row * CHUNK, from + row * (int64_t)pitches[c], CHUNK * sizeof *x);
        forward_rows(basis, x);
        transpose(x, y);
        forward_rows(basis, y);
        transpose(y, x);
        for (int i = 0; i < SLOTS; i += LANES) {
            floats *old = (floats *)(to + i);
            *old = beta * *old + *(floats *)(x + i);
        }
    }
}

/* Magnitudes of floats order like their bits as integers do. */
INLINE int32_t magnitude(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & INT32_MAX;
}

/* How many of `values` are at least `least`. */
INLINE int count_from(const int32_t *values, int count, int32_t least) {
    ints hits = {};
    for (int i = 0; i < count; i += LANES) hits -= *(const ints *)(values + i) >= least;
    int sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += hits[lane];
    return sum;
}

/* A bound that n to n + `spare` of `values` reach, or the n-th largest. `near` is a first guess. */
static int32_t find_bound(const int32_t *values, int count, int n, int spare, int32_t near) {
    int64_t low = 0, high = (int64_t)INT32_MAX + 1; /* low is reached by n or more, high by fewer */
    int64_t step = 1 << 20, guess = near; /* 2^23 is an octave */
    while (high - low > 1) {
        int reached = count_from(values, count, guess);
        if (reached >= n) {
            low = guess;
            if (reached <= n + spare) break;
        } else high = guess;
        /* Away from the guess in growing steps until it is between two bounds, then by halves. */
        if (high > INT32_MAX) guess = low + step < INT32_MAX ? low + step : INT32_MAX;
        else if (low == 0) guess = high > step ? high - step : 1;
        else guess = low + (high - low) / 2;
        step *= 2;
        if (guess == low || guess == high) guess = low + (high - low) / 2;
    }
    return low;
}

/* Slots of the k largest magnitudes of a chunk, ascending; of equal ones the first. A bound that k
   maxima of groups reach is reached by k slots or more: only what lies in those groups is looked
   at one by one. `near`: such a bound of another chunk, replaced by this one's. */
static void find_largest(const float *chunk, int k, int32_t *near, uint16_t *slots) {
    int groups = 512;
    while (groups < 4 * k && groups < SLOTS) groups *= 2;
    int32_t maxima[SLOTS], kept[SLOTS + LANES];
    uint16_t places[SLOTS];
    for (int g = 0; g < groups; g += LANES) {
        ints most = {};
        for (int i = g; i < SLOTS; i += groups)
            most = larger(most, *(const ints *)(chunk + i) & INT32_MAX);
        *(ints *)(maxima + g) = most;
    }
    int32_t least = *near = find_bound(maxima, groups, k, k / 4, *near);
    int count = 0;
    for (int g = 0; g < groups; g++)
        if (maxima[g] >= least)
            for (int i = g; i < SLOTS; i += groups) {
                places[count] = i, kept[count] = magnitude(chunk[i]);
                count += kept[count] >= least;
            }
    for (int i = 0; i < LANES; i++) kept[count + i] = -1;
    if (count > k) least = find_bound(kept, count, k, 0, least);
    uint64_t chosen[CHUNK] = {}, equal[CHUNK] = {};
    int above = 0;
    for (int i = 0; i < count; i++) {
        uint64_t bit = 1ull << places[i] % 64;
        if (kept[i] > least) chosen[places[i] / 64] |= bit, above++;
        else if (kept[i] == least) equal[places[i] / 64] |= bit;
    }
    for (int word = 0; word < CHUNK; word++)
        for (; equal[word] && above < k; above++) {
            chosen[word] |= equal[word] & -equal[word];
            equal[word] &= equal[word] - 1;
        }
    for (int word = 0; word < CHUNK; word++)
        for (uint64_t left = chosen[word]; left; left &= left - 1)
            *slots++ = word * 64 + __builtin_ctzll(left);
}

/* The code of the value nearest to `magnitude`; on a midpoint [255] the lower one. */
static int find_code(float magnitude, const float *midpoints) {
    int low = 0, high = 255;
    while (low < high) {
        int middle = (low + high) / 2;
        if (midpoints[middle] < magnitude) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Take the k largest of each chunk [begin, end) out of the residual, as signs times the chunk's
   mean magnitude, to the nearest of values[256] (in units). What is sent, exactly, is subtracted. */
void EXPORT(take)(float *residual, int32_t k, float unit, const float *midpoints,
                  const int32_t *values, uint16_t *slots, uint8_t *negative, uint8_t *codes,
                  int64_t begin, int64_t end) {
    int32_t near = 1;
    for (int64_t c = begin; c < end; c++) {
        float *chunk = residual + c * SLOTS;
        uint16_t *own = slots + c * k;
        find_largest(chunk, k, &near, own);
        double sum = 0;
        for (int i = 0; i < k; i++) sum += fabsf(chunk[own[i]]);
        codes[c] = find_code((float)(sum / k) / unit, midpoints);
        float value = (float)values[codes[c]] * unit;
        for (int i = 0; i < k; i++) {
            float *x = chunk + own[i];
            negative[c * k + i] = *x < 0;
            *x -= *x < 0 ? -value : value;
        }
    }
}
