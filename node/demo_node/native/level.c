/* Which of the builds runs fastest on this processor, and from which sources they were made. */
#define DEMO_EXPORT __attribute__((visibility("default")))

DEMO_EXPORT const char *level(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return "v4";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
        return "v3";
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") &&
        __builtin_cpu_supports("popcnt"))
        return "v2";
    return ""; /* none of them */
#else
    return "v1";
#endif
}

DEMO_EXPORT const char *sources(void) { return SOURCES; }
