# Looks for an nvcc that is new enough: the first one of PATH, CUDA_HOME and
# /usr/local/cuda. Sets KVH_HAVE_CUDA, KVH_NVCC; says what it found, here and in
# cuda.status for the Makefile.
set(KVH_HAVE_CUDA OFF)
set(kvh_cuda_status "no CUDA toolkit")

if(KVH_WITH_CUDA STREQUAL "OFF")
	set(kvh_cuda_status "switched off")
else()
	find_program(KVH_NVCC_IN_PATH nvcc)
	mark_as_advanced(KVH_NVCC_IN_PATH)
	foreach(nvcc IN ITEMS "${KVH_NVCC_IN_PATH}" "$ENV{CUDA_HOME}/bin/nvcc"
			/usr/local/cuda/bin/nvcc)
		if(NOT EXISTS "${nvcc}")
			continue()
		endif()
		execute_process(COMMAND "${nvcc}" --version
			OUTPUT_VARIABLE out ERROR_QUIET RESULT_VARIABLE rc)
		if(NOT rc EQUAL 0 OR NOT out MATCHES "V([0-9]+\\.[0-9]+\\.[0-9]+)")
			set(kvh_cuda_status "${nvcc} does not run")
		elseif(CMAKE_MATCH_1 VERSION_LESS 12.8)
			set(kvh_cuda_status "toolkit ${CMAKE_MATCH_1} is older than 12.8")
		else()
			set(KVH_HAVE_CUDA ON)
			set(KVH_NVCC "${nvcc}")
			set(kvh_cuda_status "CUDA ${CMAKE_MATCH_1}")
			break()
		endif()
	endforeach()
endif()

if(KVH_HAVE_CUDA)
	message(STATUS "kvhoist: with ${kvh_cuda_status} (${KVH_NVCC})")
elseif(KVH_WITH_CUDA STREQUAL "ON")
	message(FATAL_ERROR "kvhoist: KVH_WITH_CUDA=ON, but ${kvh_cuda_status}")
else()
	message(STATUS "kvhoist: WITHOUT CUDA: ${kvh_cuda_status}; the host device is used")
endif()
file(WRITE "${PROJECT_BINARY_DIR}/cuda.status" "${kvh_cuda_status}\n")
