"""The host's headers as device code needs them: types, constants, `std::` mathematics.

NVRTC has no C library and no standard library beside it. Ordinary .cu files include them all the same, mostly
for the host code in them. These small headers, handed over in memory, hold what kernels may use; names that
appear only in signatures of host functions are declared and cannot be used.
"""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache

from nnkit.device.cache.disk import digest
from nnkit.device.source.c_headers import ASSERT, C_HEADERS
from nnkit.device.source.host_libraries import CUB, HOST_THRUST, THRUST, stand_ins

AS_NVCC = "nnkit/as_nvcc.h"
"""What nvcc includes before every file, by its name among the headers."""

_AS_NVCC = """
#include <stdlib.h>
#include <string.h>
#include <limits.h>
#include <time.h>
#include <cmath>
#include <cstdlib>
#include <sys/types.h>
#include <utility>
#ifndef __NVCC__
#define __NVCC__ 1
#endif
#define register
"""

_MATH_NAMES = """
abs fabs sqrt cbrt hypot exp exp2 expm1 log log2 log10 log1p pow sin cos tan asin acos atan atan2 sinh cosh
tanh asinh acosh atanh erf erfc tgamma lgamma ceil floor trunc round lround llround rint nearbyint lrint
llrint fmod remainder fma fmax fmin fdim copysign frexp ldexp modf scalbn scalbln ilogb logb nextafter isnan
isinf isfinite signbit sqrtf fabsf expf logf powf sinf cosf tanf tanhf floorf ceilf roundf truncf fmaxf
fminf fmodf fmaf rsqrt log2f exp2f log10f atan2f acosf asinf atanf sinhf coshf erff cbrtf log1pf expm1f
rintf
"""
_TYPE_NAMES = """
int8_t uint8_t int16_t uint16_t int32_t uint32_t int64_t uint64_t intptr_t uintptr_t intmax_t uintmax_t
"""

_QUOTED = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)

_UTILITY = """
#define NNKIT_BOTH __host__ __device__ constexpr
namespace std {
using ::size_t; using ::ptrdiff_t;
typedef decltype(nullptr) nullptr_t;
template <class T> NNKIT_BOTH const T &min(const T &a, const T &b) { return b < a ? b : a; }
template <class T> NNKIT_BOTH const T &max(const T &a, const T &b) { return a < b ? b : a; }
template <class T, class C> NNKIT_BOTH const T &min(const T &a, const T &b, C less)
{ return less(b, a) ? b : a; }
template <class T, class C> NNKIT_BOTH const T &max(const T &a, const T &b, C less)
{ return less(a, b) ? b : a; }
template <class T> NNKIT_BOTH const T &clamp(const T &v, const T &low, const T &high)
{ return v < low ? low : high < v ? high : v; }
template <class T> __host__ __device__ void swap(T &a, T &b) { T c = a; a = b; b = c; }
template <class A, class B> struct pair {
    typedef A first_type; typedef B second_type;
    A first; B second;
    NNKIT_BOTH pair() : first(), second() {}
    NNKIT_BOTH pair(const A &a, const B &b) : first(a), second(b) {}
};
template <class A, class B> NNKIT_BOTH pair<A, B> make_pair(A a, B b) { return pair<A, B>(a, b); }
}
"""
_TRAITS = """
namespace std {
template <class T, T v> struct integral_constant {
    enum : T { value = v }; typedef T value_type; typedef integral_constant type;
    __host__ __device__ constexpr operator T() const { return v; }
    __host__ __device__ constexpr T operator()() const { return v; }
};
template <bool v> using bool_constant = integral_constant<bool, v>;
typedef bool_constant<true> true_type; typedef bool_constant<false> false_type;
template <bool, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool c, class T = void> using enable_if_t = typename enable_if<c, T>::type;
template <bool, class A, class B> struct conditional { typedef A type; };
template <class A, class B> struct conditional<false, A, B> { typedef B type; };
template <bool c, class A, class B> using conditional_t = typename conditional<c, A, B>::type;
template <class A, class B> struct is_same : false_type {};
template <class A> struct is_same<A, A> : true_type {};
template <class T> struct remove_const { typedef T type; };
template <class T> struct remove_const<const T> { typedef T type; };
template <class T> struct remove_volatile { typedef T type; };
template <class T> struct remove_volatile<volatile T> { typedef T type; };
template <class T> struct remove_cv
{ typedef typename remove_const<typename remove_volatile<T>::type>::type type; };
template <class T> struct remove_reference { typedef T type; };
template <class T> struct remove_reference<T &> { typedef T type; };
template <class T> struct remove_reference<T &&> { typedef T type; };
template <class T> struct remove_pointer { typedef T type; };
template <class T> struct remove_pointer<T *> { typedef T type; };
template <class T> struct add_const { typedef const T type; };
template <class T> struct add_pointer { typedef typename remove_reference<T>::type *type; };
template <class T> using remove_const_t = typename remove_const<T>::type;
template <class T> using remove_cv_t = typename remove_cv<T>::type;
template <class T> using remove_reference_t = typename remove_reference<T>::type;
template <class T> using remove_pointer_t = typename remove_pointer<T>::type;
template <class T> using add_const_t = typename add_const<T>::type;
template <class T> using add_pointer_t = typename add_pointer<T>::type;
template <class T> struct decay { typedef remove_cv_t<remove_reference_t<T>> type; };
template <class T> using decay_t = typename decay<T>::type;
template <class...> using void_t = void;
template <class T> struct type_identity { typedef T type; };
template <class T> struct is_pointer : false_type {};
template <class T> struct is_pointer<T *> : true_type {};
template <class T> struct is_const : false_type {};
template <class T> struct is_const<const T> : true_type {};
template <class T> struct is_reference : false_type {};
template <class T> struct is_reference<T &> : true_type {};
template <class T> struct is_reference<T &&> : true_type {};
template <class T> struct is_array : false_type {};
template <class T> struct is_array<T[]> : true_type {};
template <class T, size_t n> struct is_array<T[n]> : true_type {};
template <class T> struct is_void : is_same<remove_cv_t<T>, void> {};
template <class T, class... Any> struct __nnkit_is_one_of : false_type {};
template <class T, class A, class... Any> struct __nnkit_is_one_of<T, A, Any...>
    : bool_constant<is_same<T, A>::value || __nnkit_is_one_of<T, Any...>::value> {};
template <class T> struct is_floating_point : __nnkit_is_one_of<remove_cv_t<T>, float, double> {};
template <class T> struct is_integral : __nnkit_is_one_of<remove_cv_t<T>, bool, char, signed char,
    unsigned char, wchar_t, char16_t, char32_t, short, unsigned short, int, unsigned, long,
    unsigned long, long long, unsigned long long> {};
template <class T> struct is_arithmetic
    : bool_constant<is_integral<T>::value || is_floating_point<T>::value> {};
template <class T, bool = is_arithmetic<T>::value> struct is_signed : bool_constant<(T(-1) < T(0))> {};
template <class T> struct is_signed<T, false> : false_type {};
template <class T, bool = is_arithmetic<T>::value> struct is_unsigned : bool_constant<(T(0) < T(-1))> {};
template <class T> struct is_unsigned<T, false> : false_type {};
template <class T> struct is_enum : bool_constant<__is_enum(T)> {};
template <class T> struct is_class : bool_constant<__is_class(T)> {};
template <class T> struct is_union : bool_constant<__is_union(T)> {};
template <class T> struct is_empty : bool_constant<__is_empty(T)> {};
template <class T> struct is_trivially_copyable : bool_constant<__is_trivially_copyable(T)> {};
template <class A, class B> struct is_base_of : bool_constant<__is_base_of(A, B)> {};
template <class A, class B> struct is_convertible : bool_constant<__is_convertible_to(A, B)> {};
template <class T> struct alignment_of : integral_constant<size_t, alignof(T)> {};
template <class T> struct underlying_type { typedef __underlying_type(T) type; };
template <class T> struct make_unsigned; template <class T> struct make_signed;
template <> struct make_unsigned<char> { typedef unsigned char type; };
template <> struct make_unsigned<short> { typedef unsigned short type; };
template <> struct make_unsigned<int> { typedef unsigned type; };
template <> struct make_unsigned<unsigned> { typedef unsigned type; };
template <> struct make_unsigned<long> { typedef unsigned long type; };
template <> struct make_unsigned<long long> { typedef unsigned long long type; };
template <> struct make_signed<unsigned> { typedef int type; };
template <> struct make_signed<int> { typedef int type; };
template <> struct make_signed<unsigned long> { typedef long type; };
template <> struct make_signed<unsigned long long> { typedef long long type; };
template <class T> typename remove_reference<T>::type &&__nnkit_any() noexcept;
template <class T> __host__ __device__ T &&declval() noexcept;
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template <class A, class B> constexpr bool is_base_of_v = is_base_of<A, B>::value;
template <class A, class B> constexpr bool is_convertible_v = is_convertible<A, B>::value;
template <class T> constexpr bool is_pointer_v = is_pointer<T>::value;
template <class T> constexpr bool is_const_v = is_const<T>::value;
template <class T> constexpr bool is_void_v = is_void<T>::value;
template <class T> constexpr bool is_integral_v = is_integral<T>::value;
template <class T> constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <class T> constexpr bool is_arithmetic_v = is_arithmetic<T>::value;
template <class T> constexpr bool is_signed_v = is_signed<T>::value;
template <class T> constexpr bool is_unsigned_v = is_unsigned<T>::value;
template <class T> constexpr bool is_enum_v = is_enum<T>::value;
template <class T> constexpr bool is_class_v = is_class<T>::value;
template <class T> constexpr bool is_trivially_copyable_v = is_trivially_copyable<T>::value;
}
""".replace("template <class T> typename remove_reference<T>::type &&__nnkit_any() noexcept;\n", "")


def _numeric_limits() -> Iterator[str]:
    yield "namespace std {\ntemplate <class T> struct numeric_limits"
    yield " { enum : bool { is_specialized = false }; };\n"
    for name, (least, most, digits) in _WHOLE.items():
        values = dict.fromkeys(("epsilon", "denorm_min", "infinity", "quiet_NaN", "round_error"), "0")
        signed = least not in ("0", "false")
        yield _limits_of(name, {"lowest": least, "min": least, "max": most} | values, digits, signed, True)
    for name, short, infinity, nan, digits in _REAL:
        names = {"min": "MIN", "max": "MAX", "epsilon": "EPSILON", "denorm_min": "TRUE_MIN"}
        values = {function: f"{short}_{macro}" for function, macro in names.items()}
        values |= {"lowest": f"-{short}_MAX", "round_error": "0.5"}
        values |= {"infinity": f"__builtin_bit_cast({name}, {infinity})"}
        values |= {"quiet_NaN": f"__builtin_bit_cast({name}, {nan})"}
        yield _limits_of(name, values, digits, True, False)
    yield "}\n"


def _limits_of(name: str, values: dict[str, str], digits: int, signed: bool, whole: bool) -> str:
    functions = "".join(
        f" __host__ __device__ static constexpr {name} {function}() noexcept {{ return {value}; }}\n"
        for function, value in values.items()
    )
    flags = {"is_specialized": True, "is_signed": signed, "is_integer": whole, "is_exact": whole}
    flags |= {"has_infinity": not whole, "has_quiet_NaN": not whole}
    spelled = ", ".join(f"{flag} = {str(value).lower()}" for flag, value in flags.items())
    # Enumerators: as variables they would be the module's own where everything is for the device.
    return (
        f"template <> struct numeric_limits<{name}> {{\n{functions} enum : bool {{ {spelled} }};\n"
        f" enum : int {{ digits = {digits}, radix = 2 }};\n}};\n"
    )


_WHOLE = {
    "bool": ("false", "true", 1),
    "char": ("CHAR_MIN", "CHAR_MAX", 7),
    "signed char": ("SCHAR_MIN", "SCHAR_MAX", 7),
    "unsigned char": ("0", "UCHAR_MAX", 8),
    "short": ("SHRT_MIN", "SHRT_MAX", 15),
    "unsigned short": ("0", "USHRT_MAX", 16),
    "int": ("INT_MIN", "INT_MAX", 31),
    "unsigned": ("0", "UINT_MAX", 32),
    "long": ("LONG_MIN", "LONG_MAX", 63),
    "unsigned long": ("0", "ULONG_MAX", 64),
    "long long": ("LLONG_MIN", "LLONG_MAX", 63),
    "unsigned long long": ("0", "ULLONG_MAX", 64),
}
_REAL = (
    ("float", "FLT", "0x7f800000", "0x7fc00000", 24),
    ("double", "DBL", "0x7ff0000000000000LL", "0x7ff8000000000000LL", 53),
)
_CONTAINERS = {
    "vector": "template <class T, class A = int> class vector;",
    "list": "template <class T, class A = int> class list;",
    "deque": "template <class T, class A = int> class deque;",
    "queue": """template <class T, class C = int> class queue;
template <class T, class C = int, class L = int> class priority_queue;""",
    "stack": "template <class T, class C = int> class stack;",
    "map": "template <class K, class T, class C = int, class A = int> class map;",
    "set": "template <class K, class C = int, class A = int> class set;",
    "unordered_map": """template <class K, class T, class H = int, class E = int, class A = int>
class unordered_map;""",
    "unordered_set": "template <class K, class H = int, class E = int, class A = int> class unordered_set;",
    "memory": "template <class T, class D = int> class unique_ptr; template <class T> class shared_ptr;",
    "functional": "template <class T> class function;",
    "tuple": "template <class... T> class tuple;",
    "complex": "template <class T> class complex;",
    "array": """template <class T, size_t n> struct array {
    typedef T value_type;
    T elements[n];
    __host__ __device__ constexpr T &operator[](size_t i) { return elements[i]; }
    __host__ __device__ constexpr const T &operator[](size_t i) const { return elements[i]; }
    __host__ __device__ constexpr T *data() { return elements; }
    __host__ __device__ constexpr const T *data() const { return elements; }
    __host__ __device__ constexpr T *begin() { return elements; }
    __host__ __device__ constexpr T *end() { return elements + n; }
    __host__ __device__ constexpr const T *begin() const { return elements; }
    __host__ __device__ constexpr const T *end() const { return elements + n; }
    __host__ __device__ constexpr size_t size() const { return n; }
};""",
    "string": "class string;",
    "ios": "class ostream; class istream; class iostream;",
    "fstream": "class ofstream; class ifstream; class fstream;",
    "sstream": "class stringstream; class ostringstream; class istringstream;",
    "thread": "class thread;",
    "mutex": "class mutex;",
    "random": "class mt19937; class random_device; class default_random_engine;",
    "exception": "class exception;",
    "stdexcept": "class runtime_error; class invalid_argument;",
}
_ALSO = {
    "vector": ("utility",),
    "string": ("utility",),
    "iostream": ("ios", "string", "utility"),
    "ostream": ("ios", "string"),
    "istream": ("ios", "string"),
    "fstream": ("ios", "string"),
    "sstream": ("ios", "string"),
    "iomanip": ("ios",),
    "algorithm": ("utility",),
    "functional": ("utility", "type_traits"),
    "memory": ("utility", "type_traits"),
    "map": ("utility",),
    "unordered_map": ("utility",),
    "random": ("limits", "cmath"),
    "stdexcept": ("string", "exception"),
    "numeric": ("utility",),
}
_EMPTY = """
ctype.h errno.h locale.h signal.h setjmp.h stdarg.h stdbool.h unistd.h getopt.h fcntl.h malloc.h memory.h
pthread.h omp.h sys/stat.h sys/mman.h sys/resource.h sys/wait.h sys/sysinfo.h sys/timeb.h sys/utsname.h
dirent.h dlfcn.h libgen.h sched.h strings.h string.h alloca.h wchar.h wctype.h iso646.h fenv.h termios.h
poll.h arpa/inet.h net/if.h netdb.h netinet/in.h netinet/tcp.h sys/file.h sys/ioctl.h sys/ipc.h sys/param.h
sys/select.h sys/sem.h sys/shm.h sys/socket.h sys/statvfs.h sys/syscall.h sys/times.h sys/uio.h sys/un.h
execinfo.h glob.h grp.h pwd.h regex.h semaphore.h spawn.h syslog.h
cctype cerrno clocale csignal csetjmp cstdarg cstdbool cwchar cstring chrono condition_variable
future atomic iterator numeric regex filesystem bitset ratio typeinfo typeindex new any valarray codecvt
locale streambuf iosfwd initializer_list shared_mutex execution ctime source_location immintrin.h
xmmintrin.h emmintrin.h x86intrin.h intrin.h cpuid.h charconv span string_view
optional variant bit concepts numbers memory_resource scoped_allocator barrier latch semaphore stop_token
format cuda_profiler_api.h cudaProfiler.h cuda_gl_interop.h cudaGL.h cuda_egl_interop.h cudaEGL.h
cuda_vdpau_interop.h
"""


@cache
def headers() -> dict[str, str]:
    """The text of every header, by the name that a source includes it under."""
    texts = dict.fromkeys(_EMPTY.split(), "") | C_HEADERS | {AS_NVCC: _AS_NVCC}
    for name in ("stdint", "limits", "float", "math", "stdio", "stdlib", "time", "stddef", "inttypes"):
        texts[f"c{name}"] = f"#include <{name}.h>\n"
    texts["cmath"] += _using(_MATH_NAMES.split())
    texts["cstdint"] += _using([*_TYPE_NAMES.split(), "size_t"])
    texts["cstdlib"] += _using(["abs", "labs", "llabs", "malloc", "free", "size_t"])
    texts["cstddef"] += "#include <utility>\n"
    texts["cstdio"] += _using(["printf", "FILE"])
    texts["cstring"] = _using(["memcpy", "memset", "size_t"])
    texts |= {"utility": _UTILITY, "type_traits": _TRAITS}
    texts["limits"] = "#include <limits.h>\n#include <float.h>\n" + "".join(_numeric_limits())
    for name, declared in _CONTAINERS.items():
        texts[name] = f"namespace std {{ {declared} }}\n"
    for name, others in _ALSO.items():
        texts[name] = "".join(f"#include <{other}>\n" for other in others) + texts.get(name, "")
    texts |= {f"thrust/{name}.h": THRUST for name in HOST_THRUST.split()}
    # NVRTC refuses <cub/cub.cuh> as a whole; this is what kernels use of it.
    texts["cub/cub.cuh"] = "".join(f"#include <cub/{name}.cuh>\n" for name in CUB.split())
    guarded = {name: f"#pragma once\n{text}" for name, text in texts.items()}
    # These may be included again with NDEBUG set otherwise.
    return guarded | dict.fromkeys(("assert.h", "cassert"), ASSERT)


def _using(names: list[str]) -> str:
    return "namespace std { " + " ".join(f"using ::{name};" for name in names) + " }\n"


@cache
def version() -> str:
    """Changes whenever a header does."""
    return digest(*headers(), *headers().values(), *stand_ins())


def beside(text: str, own: str, folders: Iterable[str]) -> dict[str, str]:
    """The headers that do not stand in the way of somebody's own.

    Those are in `folders`, or in `own`, the folder of the source, if it includes them as `"name"`.
    """
    quoted = set(_QUOTED.findall(text))
    present = [folder for folder in folders if os.path.isdir(folder)]

    def theirs(name: str) -> bool:
        places = [*present, own] if name in quoted else present
        return any(os.path.isfile(os.path.join(folder, name)) for folder in places)

    return {name: header for name, header in headers().items() if not theirs(name)}
