// SPDX-License-Identifier: Apache-2.0
//
// load_cublas.cuh - GEMMs by cuBLAS, where the machine has it: found by name, so that
// nothing is linked and nothing is missing where it is not. Compiled out where the
// toolkit is without its header. One thread.
#ifndef KVH_BENCH_LOAD_CUBLAS_CUH
#define KVH_BENCH_LOAD_CUBLAS_CUH

#include "bench/load.h"

#include <cerrno>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#if __has_include(<cublas_api.h>)
#	include <cublas_api.h>
#	define KVH_HAS_CUBLAS 1
#endif

namespace cublas
{

#ifdef KVH_HAS_CUBLAS

// For C++ the header has another one of this name.
using gemm_fn = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int,
				   int, int, const void *, const void *, cudaDataType, int,
				   const void *, cudaDataType, int, const void *, void *,
				   cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);

struct Library {
	void *handle; // of dlopen; NULL: there is none
	cublasHandle_t blas;
	int version;
	decltype(&cublasDestroy_v2) destroy;
	gemm_fn gemm;
};

template <typename Fn>
bool find(void *handle, const char *name, Fn *fn)
{
	*fn = reinterpret_cast<Fn>(dlsym(handle, name));
	return *fn != nullptr;
}

inline bool begin(Library &lib, cudaStream_t stream)
{
	decltype(&cublasCreate_v2) create;
	decltype(&cublasSetStream_v2) set_stream;
	decltype(&cublasGetVersion_v2) get_version;
	decltype(&cublasSetMathMode) set_math;
	// Without it the parts of a split sum may be bf16: not exact any more.
	const auto math = static_cast<cublasMath_t>(
		CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);

	if (!find(lib.handle, "cublasCreate_v2", &create) ||
	    !find(lib.handle, "cublasSetStream_v2", &set_stream) ||
	    !find(lib.handle, "cublasGetVersion_v2", &get_version) ||
	    !find(lib.handle, "cublasSetMathMode", &set_math) ||
	    !find(lib.handle, "cublasDestroy_v2", &lib.destroy) ||
	    !find(lib.handle, "cublasGemmEx", &lib.gemm) ||
	    create(&lib.blas) != CUBLAS_STATUS_SUCCESS)
		return false;
	if (set_stream(lib.blas, stream) == CUBLAS_STATUS_SUCCESS &&
	    set_math(lib.blas, math) == CUBLAS_STATUS_SUCCESS &&
	    get_version(lib.blas, &lib.version) == CUBLAS_STATUS_SUCCESS)
		return true;
	(void)lib.destroy(lib.blas);
	return false;
}

inline void close(Library &lib)
{
	if (lib.handle == nullptr)
		return;
	if (lib.blas != nullptr)
		(void)lib.destroy(lib.blas);
	(void)dlclose(lib.handle);
	lib = {};
}

// False: there is none that works. The device is the thread's current one.
inline bool open(Library &lib, cudaStream_t stream)
{
	lib = {};
	for (const char *name : {"libcublas.so.13", "libcublas.so.12"}) {
		lib.handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
		if (lib.handle != nullptr && begin(lib, stream))
			return true;
		lib.blas = nullptr;
		close(lib);
	}
	return false;
}

// It thinks in columns: C = AB row by row is C' = B'A' column by column.
inline int run(const Library &lib, const __nv_bfloat16 *a, const __nv_bfloat16 *b,
	       __nv_bfloat16 *c, const kvh_gemm_shape &shape)
{
	const int m = int(shape.rows), n = int(shape.columns), k = int(shape.depth);
	const float one = 1, zero = 0;

	return lib.gemm(lib.blas, CUBLAS_OP_N, CUBLAS_OP_N, n, m, k, &one, b, CUDA_R_16BF, n, a,
			CUDA_R_16BF, k, &zero, c, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F,
			CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS
		       ? 0
		       : -EIO;
}

#else

struct Library {
	int version;
};
inline bool open(Library &, cudaStream_t)
{
	return false;
}
inline void close(Library &)
{
}
inline int run(const Library &, const __nv_bfloat16 *, const __nv_bfloat16 *, __nv_bfloat16 *,
	       const kvh_gemm_shape &)
{
	return -EOPNOTSUPP;
}

#endif

} // namespace cublas

#endif
