"""What the headers of the C library hold for device code; NVRTC has the functions built in."""

_TYPES = """
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t;
typedef long long int64_t; typedef unsigned long long uint64_t;
typedef int8_t int_least8_t; typedef uint8_t uint_least8_t;
typedef int16_t int_least16_t; typedef uint16_t uint_least16_t;
typedef int32_t int_least32_t; typedef uint32_t uint_least32_t;
typedef int64_t int_least64_t; typedef uint64_t uint_least64_t;
typedef int64_t intptr_t; typedef uint64_t uintptr_t; typedef int64_t intmax_t; typedef uint64_t uintmax_t;
"""
_FAST_TYPES = """
typedef int8_t int_fast8_t; typedef uint8_t uint_fast8_t;
typedef int16_t int_fast16_t; typedef uint16_t uint_fast16_t;
typedef int32_t int_fast32_t; typedef uint32_t uint_fast32_t;
typedef int64_t int_fast64_t; typedef uint64_t uint_fast64_t;
"""
_STDINT = (
    _TYPES
    + """
#define INT8_MIN (-128)
#define INT16_MIN (-32768)
#define INT32_MIN (-2147483647 - 1)
#define INT64_MIN (-9223372036854775807LL - 1)
#define INT8_MAX 127
#define INT16_MAX 32767
#define INT32_MAX 2147483647
#define INT64_MAX 9223372036854775807LL
#define UINT8_MAX 255
#define UINT16_MAX 65535
#define UINT32_MAX 4294967295U
#define UINT64_MAX 18446744073709551615ULL
#define INTPTR_MAX INT64_MAX
#define UINTPTR_MAX UINT64_MAX
#define SIZE_MAX 18446744073709551615UL
#define INT64_C(c) c##LL
#define UINT64_C(c) c##ULL
#define UINT32_C(c) c##U
#define INT32_C(c) c
"""
)
_CONSTANTS = """
#ifndef INT8_C
#define INT8_C(c) c
#define INT16_C(c) c
#define UINT8_C(c) c
#define UINT16_C(c) c
#define INTMAX_C(c) c##LL
#define UINTMAX_C(c) c##ULL
#endif
"""
_LIMITS = """
#define CHAR_BIT 8
#define SCHAR_MIN (-128)
#define SCHAR_MAX 127
#define UCHAR_MAX 255
#define CHAR_MIN (-128)
#define CHAR_MAX 127
#define SHRT_MIN (-32768)
#define SHRT_MAX 32767
#define USHRT_MAX 65535
#define INT_MIN (-2147483647 - 1)
#define INT_MAX 2147483647
#define UINT_MAX 4294967295U
#define LONG_MIN (-9223372036854775807L - 1)
#define LONG_MAX 9223372036854775807L
#define ULONG_MAX 18446744073709551615UL
#define LLONG_MIN (-9223372036854775807LL - 1)
#define LLONG_MAX 9223372036854775807LL
#define ULLONG_MAX 18446744073709551615ULL
"""
_FLOAT = """
#define FLT_RADIX 2
#define FLT_MANT_DIG 24
#define FLT_DIG 6
#define FLT_MIN_EXP (-125)
#define FLT_MAX_EXP 128
#define FLT_MIN_10_EXP (-37)
#define FLT_MAX_10_EXP 38
#define FLT_MAX 3.402823466e+38F
#define FLT_MIN 1.175494351e-38F
#define FLT_TRUE_MIN 1.401298464e-45F
#define FLT_EPSILON 1.192092896e-07F
#define DBL_MANT_DIG 53
#define DBL_DIG 15
#define DBL_MIN_EXP (-1021)
#define DBL_MAX_EXP 1024
#define DBL_MIN_10_EXP (-307)
#define DBL_MAX_10_EXP 308
#define DBL_MAX 1.7976931348623157e+308
#define DBL_MIN 2.2250738585072014e-308
#define DBL_TRUE_MIN 4.9406564584124654e-324
#define DBL_EPSILON 2.2204460492503131e-16
#define DECIMAL_DIG 21
"""
_MATH = """
#define M_E 2.71828182845904523536
#define M_LOG2E 1.44269504088896340736
#define M_LOG10E 0.434294481903251827651
#define M_LN2 0.693147180559945309417
#define M_LN10 2.30258509299404568402
#define M_PI 3.14159265358979323846
#define M_PI_2 1.57079632679489661923
#define M_PI_4 0.785398163397448309616
#define M_1_PI 0.318309886183790671538
#define M_2_PI 0.636619772367581343076
#define M_2_SQRTPI 1.12837916709551257390
#define M_SQRT2 1.41421356237309504880
#define M_SQRT1_2 0.707106781186547524401
#define HUGE_VAL __builtin_bit_cast(double, 0x7ff0000000000000LL)
#define HUGE_VALF __builtin_bit_cast(float, 0x7f800000)
#ifndef INFINITY
#define INFINITY __builtin_bit_cast(float, 0x7f800000)
#define NAN __builtin_bit_cast(float, 0x7fc00000)
#endif
typedef float float_t; typedef double double_t;
"""
_OF_ONE = """
sqrt cbrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
erf erfc tgamma lgamma ceil floor trunc round rint nearbyint fabs
"""
_OF_TWO = "pow fmod atan2 hypot fmax fmin fdim copysign remainder"
_WHOLE = (
    "bool, char, signed char, unsigned char, short, unsigned short, int, unsigned int, long, unsigned long,"
    " long long, unsigned long long"
)
# Of whole numbers the C++ library takes the function of double: `sqrt(2)`, `pow(2, x)` with a float x.
_OF_WHOLE = (
    """
template <class T> struct __nnkit_number { enum { whole = 0, any = 0 }; };
template <> struct __nnkit_number<float> { enum { whole = 0, any = 1 }; };
template <> struct __nnkit_number<double> { enum { whole = 0, any = 1 }; };
#define NNKIT_WHOLE(T) template <> struct __nnkit_number<T> { enum { whole = 1, any = 1 }; };
"""
    + "".join(f"NNKIT_WHOLE({name})\n" for name in _WHOLE.split(", "))
    + """
template <bool> struct __nnkit_double {};
template <> struct __nnkit_double<true> { typedef double type; };
#define NNKIT_OF_ONE(f) template <class T> __host__ __device__ \\
    typename __nnkit_double<bool(__nnkit_number<T>::whole)>::type f(T x) { return f(double(x)); }
#define NNKIT_OF_TWO(f) template <class A, class B> __host__ __device__ \\
    typename __nnkit_double<(__nnkit_number<A>::any && __nnkit_number<B>::any \\
    && (__nnkit_number<A>::whole || __nnkit_number<B>::whole))>::type \\
    f(A x, B y) { return f(double(x), double(y)); }
"""
    + "".join(f"NNKIT_OF_ONE({name})\n" for name in _OF_ONE.split())
    + "".join(f"NNKIT_OF_TWO({name})\n" for name in _OF_TWO.split())
)
_STDIO = """
#define EOF (-1)
#define BUFSIZ 8192
#define SEEK_SET 0
#define SEEK_CUR 1
#define SEEK_END 2
typedef struct _IO_FILE FILE;
"""
_STDLIB = """
#define EXIT_SUCCESS 0
#define EXIT_FAILURE 1
#define RAND_MAX 2147483647
"""
_TIME = """
typedef long long time_t;
struct timespec { time_t tv_sec; long tv_nsec; };
"""
_CLOCKS = """
#define CLOCKS_PER_SEC 1000000L
#define CLOCK_REALTIME 0
#define CLOCK_MONOTONIC 1
struct tm;
"""
_SYS_TIME = """
#include <time.h>
struct timeval { time_t tv_sec; long tv_usec; };
struct timezone;
"""
_SYS_TYPES = """
#include <stdint.h>
typedef long ssize_t; typedef long off_t; typedef int pid_t;
typedef unsigned int uint; typedef unsigned short ushort; typedef unsigned long ulong;
typedef unsigned char u_char; typedef unsigned int u_int;
typedef unsigned int u_int32_t; typedef unsigned char u_int8_t; typedef unsigned short u_int16_t;
"""
# NVRTC's assert is a macro that takes no notice of NDEBUG.
ASSERT = """
#ifdef NDEBUG
#undef assert
#define assert(condition) ((void)0)
#endif
"""
_STDDEF = """
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
"""


def _unless_in(header: str, text: str) -> str:
    """The text, or CUDA's own header if it is there: a file may include both, and they must agree."""
    return f"#if __has_include(<{header}>)\n#include <{header}>\n#else\n{text}#endif\n"


C_HEADERS = {
    "stdint.h": _unless_in("cuda/std/cstdint", _STDINT + _FAST_TYPES) + _CONSTANTS,
    "limits.h": _unless_in("cuda/std/climits", _LIMITS) + "#define PATH_MAX 4096\n",
    "float.h": _unless_in("cuda/std/cfloat", _FLOAT),
    "math.h": _MATH + _OF_WHOLE,
    "stdio.h": _STDIO,
    "stdlib.h": _STDLIB,
    "time.h": _unless_in("cuda/std/ctime", _TIME) + _CLOCKS,
    "sys/time.h": _SYS_TIME,
    "sys/types.h": _SYS_TYPES,
    "stddef.h": _STDDEF,
    "inttypes.h": "#include <stdint.h>\n",
    "values.h": "#include <limits.h>\n#include <float.h>\n",
}
"""The text of each, by its name."""
