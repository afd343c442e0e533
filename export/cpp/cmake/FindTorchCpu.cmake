# libtorch as far as a CPU needs it, from the torch that is installed: the target TorchCpu::TorchCpu.
#
# Torch's own find_package(Torch) is not used: that of a CUDA build stops where no CUDA toolkit with its
# compiler is installed, although nothing here is compiled by it. The libraries and headers are the same.
#
# CMAKE_PREFIX_PATH: what `python -c "import torch; print(torch.utils.cmake_prefix_path)"` prints.

set(_torch_roots ${CMAKE_PREFIX_PATH})
list(TRANSFORM _torch_roots APPEND "/../..")

find_path(TorchCpu_INCLUDE_DIR torch/csrc/inductor/aoti_package/model_package_loader.h
  HINTS ${_torch_roots} PATH_SUFFIXES include)
find_library(TorchCpu_LIBRARY torch_cpu HINTS ${_torch_roots} PATH_SUFFIXES lib)
find_library(TorchCpu_WHOLE_LIBRARY torch HINTS ${_torch_roots} PATH_SUFFIXES lib)
find_library(TorchCpu_C10_LIBRARY c10 HINTS ${_torch_roots} PATH_SUFFIXES lib)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TorchCpu
  REQUIRED_VARS TorchCpu_LIBRARY TorchCpu_WHOLE_LIBRARY TorchCpu_C10_LIBRARY TorchCpu_INCLUDE_DIR
  REASON_FAILURE_MESSAGE
  "set CMAKE_PREFIX_PATH to what torch.utils.cmake_prefix_path is in the Python that has torch")

if(TorchCpu_FOUND AND NOT TARGET TorchCpu::TorchCpu)
  add_library(TorchCpu::TorchCpu SHARED IMPORTED)
  set_target_properties(TorchCpu::TorchCpu PROPERTIES
    IMPORTED_LOCATION ${TorchCpu_LIBRARY}
    # Packages ask the loader for libtorch by name, which nothing here calls: it must be there before them.
    INTERFACE_LINK_LIBRARIES
    "${TorchCpu_C10_LIBRARY};-Wl,--push-state,--no-as-needed;${TorchCpu_WHOLE_LIBRARY};-Wl,--pop-state"
    # Imported targets' headers are system headers: no warnings of theirs.
    INTERFACE_INCLUDE_DIRECTORIES
    "${TorchCpu_INCLUDE_DIR};${TorchCpu_INCLUDE_DIR}/torch/csrc/api/include")
endif()
