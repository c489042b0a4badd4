/* What all parts share: rows of 64 numbers as vectors of the widest registers there are. */
#ifndef DEMO_LANES_H
#define DEMO_LANES_H

#include <stdint.h>

#define CHUNK 64
#define SLOTS (CHUNK * CHUNK)

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define VECTORS (CHUNK / LANES) /* of a row */

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* Every part is compiled once for each level of processors; build.py says which. */
#define JOIN_(name, level) name##_##level
#define JOIN(name, level) JOIN_(name, level)
#define EXPORT(name) __attribute__((visibility("default"))) JOIN(name, LEVEL)
#define SHARED(name) JOIN(name, LEVEL)

/* `a` where the mask is -1, `b` where it is 0. */
INLINE ints pick(ints mask, ints a, ints b) { return (mask & a) | (~mask & b); }
INLINE ints magnitudes(ints x) { return (x ^ x >> 31) - (x >> 31); }
INLINE ints larger(ints a, ints b) { return pick(a > b, a, b); }

#endif
