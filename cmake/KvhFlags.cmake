# kvhoist_flags: how everything here is compiled, library, programs and tests.
add_library(kvhoist_flags INTERFACE)
target_include_directories(kvhoist_flags INTERFACE
	"${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}")
target_compile_definitions(kvhoist_flags INTERFACE
	$<$<COMPILE_LANGUAGE:C>:_GNU_SOURCE> # g++ defines it by itself
	$<$<BOOL:${KVH_DEBUG}>:KVH_DEBUG=1>)

set(warnings -Wall -Wextra -Wconversion)
if(KVH_WERROR)
	list(APPEND warnings -Werror)
endif()
if(KVH_SANITIZE AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
	# gcc cannot follow its own instrumentation.
	list(APPEND warnings -Wno-maybe-uninitialized)
endif()
target_compile_options(kvhoist_flags INTERFACE
	"$<$<COMPILE_LANGUAGE:C,CXX>:${warnings}>"
	"$<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>"
	# clang has it in -Wconversion for C++, too; gcc does not.
	"$<$<COMPILE_LANGUAGE:CXX>:-Wno-sign-conversion>")

# nvcc's own front end, then the host compiler, whose conversion and pedantic
# warnings would mostly be about code that nvcc generates.
set(cuda_warnings -Xcompiler=-Wall,-Wextra)
if(KVH_WERROR)
	list(APPEND cuda_warnings -Werror=all-warnings -Xcompiler=-Werror)
endif()
target_compile_options(kvhoist_flags INTERFACE
	"$<$<COMPILE_LANGUAGE:CUDA>:${cuda_warnings}>")

if(KVH_SANITIZE)
	set(san "-fsanitize=${KVH_SANITIZE}")
	set(san_all ${san} -fno-sanitize-recover=all -fno-omit-frame-pointer)
	target_compile_options(kvhoist_flags INTERFACE
		"$<$<COMPILE_LANGUAGE:C,CXX>:${san_all}>")
	foreach(s IN LISTS san_all)
		# nvcc splits -Xcompiler at commas, so one sanitizer at a time.
		if(s MATCHES "^-fsanitize=(.*)")
			string(REPLACE "," ";" each "${CMAKE_MATCH_1}")
			list(TRANSFORM each PREPEND "-Xcompiler=-fsanitize=")
		else()
			set(each "-Xcompiler=${s}")
		endif()
		target_compile_options(kvhoist_flags INTERFACE
			"$<$<COMPILE_LANGUAGE:CUDA>:${each}>")
	endforeach()
	target_link_options(kvhoist_flags INTERFACE ${san})
endif()
