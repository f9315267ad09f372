/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load_none.c - in a build without CUDA there are no kernels for a GPU.
 */
#include "bench/load.h"

const struct kvh_load_ops *const kvh_load_gpu = NULL;
