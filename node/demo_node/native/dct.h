/* The 64-point DCT over the rows of a chunk, for all 64 columns at once; see dct.c. */
#ifndef DEMO_DCT_H
#define DEMO_DCT_H

#include "lanes.h"

/* Entries of a basis [64][64] (position, frequency), sorted by the levels that need them: for
   halves h of 32, 16, 8, 4, 2, 1 those of positions below h and frequencies 32 / h times an odd
   number, row by row; then that of frequency 0. */
#define ENTRIES (32 * 32 + 16 * 16 + 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1)

#define forward_rows SHARED(forward_rows)
#define inverse_rows SHARED(inverse_rows)
#define transpose SHARED(transpose)

void forward_rows(const float *entries, float x[SLOTS]);
void inverse_rows(const float *entries, float x[SLOTS]);
void transpose(const float from[SLOTS], float to[SLOTS]);

#endif
