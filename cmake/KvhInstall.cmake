# Everything installed finds its parts relative to itself: a prefix can be moved.
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/kvhoist")
set(pc_dir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

install(FILES "${PROJECT_SOURCE_DIR}/include/kvhoist.h" TYPE INCLUDE)
install(TARGETS kvhoist EXPORT kvhoistTargets)
install(TARGETS kvhoist_static EXPORT kvhoistStaticTargets)
install(TARGETS kvhoist-bench kvhoist-l2)

# Apart, because the static library needs the CUDA toolkit to be linked.
foreach(set IN ITEMS kvhoistTargets kvhoistStaticTargets)
	install(EXPORT ${set} NAMESPACE kvhoist:: DESTINATION "${package_dir}")
endforeach()
configure_package_config_file(cmake/kvhoistConfig.cmake.in kvhoistConfig.cmake
	INSTALL_DESTINATION "${package_dir}"
	NO_SET_AND_CHECK_MACRO)
# 0.x: a minor version may change the interface.
write_basic_package_version_file(kvhoistConfigVersion.cmake
	COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/kvhoistConfig.cmake"
	"${PROJECT_BINARY_DIR}/kvhoistConfigVersion.cmake"
	DESTINATION "${package_dir}")

file(RELATIVE_PATH pc_up "/${pc_dir}" "/")
string(REGEX REPLACE "/$" "" pc_up "${pc_up}")
set(pc_private "-luring -lisal -lnuma -lblkid -lcrypto -ljansson -pthread")
if(KVH_HAVE_CUDA)
	string(APPEND pc_private " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt -lstdc++")
endif()
configure_file(cmake/kvhoist.pc.in kvhoist.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/kvhoist.pc" DESTINATION "${pc_dir}")
